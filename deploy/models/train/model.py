# SPDX-License-Identifier: Apache-2.0
"""The transformer of config.ModelConfig in PyTorch. B: documents, T: tokens, W: width."""

import math

import torch
from torch import nn
from torch.nn import functional as F

IGNORED = -1   # a target that padding puts in and the loss leaves out


def rotary_tables(config):
    """Cosines and signed sines of the rotary angles, each (context, head width).

    Half-split layout: value i is rotated with value i + head_width / 2. export.py turns it into
    the neighbouring pairs that llama.cpp expects.
    """
    pairs = torch.arange(0, config.head_width, 2) / config.head_width
    angles = torch.arange(config.context)[:, None] * config.rope_base ** -pairs
    return torch.cat([angles.cos(), angles.cos()], 1), torch.cat([-angles.sin(), angles.sin()], 1)


def rotate(x, cosines, sines):
    """Applies rotary positions to x, (..., T, head width)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    swapped = torch.cat([x[..., half:], x[..., :half]], -1)
    return x * cosines[:length] + swapped * sines[:length]


class RMSNorm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.epsilon = config.norm_epsilon
        self.weight = nn.Parameter(torch.ones(config.width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        heads_in_all = config.heads + 2 * config.kv_heads
        self.qkv = nn.Linear(config.width, heads_in_all * config.head_width, bias=False)
        self.output = nn.Linear(config.heads * config.head_width, config.width, bias=False)

    def forward(self, x, cosines, sines, mask):
        c = self.config
        batch, length, _ = x.shape
        group = c.heads // c.kv_heads   # query heads that share one key/value head
        heads = self.qkv(x).view(batch, length, -1, c.head_width).transpose(1, 2)
        turned = rotate(heads[:, :c.heads + c.kv_heads], cosines, sines)
        # One matrix product per key/value head: its query heads lie one below the other.
        q = turned[:, :c.heads].reshape(batch * c.kv_heads, group * length, c.head_width)
        k = turned[:, c.heads:].reshape(batch * c.kv_heads, length, c.head_width)
        v = heads[:, c.heads + c.kv_heads:].reshape(batch * c.kv_heads, length, c.head_width)
        scores = torch.baddbmm(mask.repeat(1, group, 1), q, k.transpose(1, 2),
                               alpha=c.head_width ** -0.5)
        mixed = torch.bmm(torch.softmax(scores, -1), v)
        mixed = mixed.view(batch, c.heads, length, c.head_width).transpose(1, 2)
        return self.output(mixed.reshape(batch, length, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config):
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.width, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x, *attention_inputs):
        x = x + self.attention(self.attention_norm(x), *attention_inputs)
        return x + self.feed_forward(self.feed_forward_norm(x))


class StoryModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config)
        cosines, sines = rotary_tables(config)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def initialize(self, spread):
        """Normal weights; those that add to the residual stream are smaller, as in GPT-2."""
        residual_spread = spread / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                adds = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
                nn.init.normal_(parameter, 0.0, residual_spread if adds else spread)

    def hidden(self, tokens):
        """Final hidden states (B, T, W) of token ids (B, T)."""
        length = tokens.shape[1]
        mask = torch.full((1, length, length), -1e9).triu(1)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cosines, self.sines, mask)
        return self.norm(x)

    def loss(self, tokens, targets):
        """Mean cross-entropy (nats per token) of `targets` (B, T), without the IGNORED ones."""
        kept = targets.flatten() != IGNORED
        hidden = self.hidden(tokens).flatten(0, 1)[kept]
        logits = F.linear(hidden, self.embedding.weight)
        return F.cross_entropy(logits.float(), targets.flatten()[kept])
