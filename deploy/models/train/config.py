# SPDX-License-Identifier: Apache-2.0
"""Every number the shipped model depends on, and the fingerprint made from them.

Needs no numpy and no torch, so that verify.py can hold the shipped file against it.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class CorpusConfig:
    train_seed: int = 1
    validation_seed: int = 999
    train_documents: int = 24_000
    validation_documents: int = 192
    tokenizer_documents: int = 12_000   # the first ones; more of them change nothing but the time


@dataclass(frozen=True)
class ModelConfig:
    """A llama-shaped transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""
    vocabulary: int = 1024      # token ids
    context: int = 512          # tokens
    width: int = 128            # values per token between the layers
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2           # each serves heads / kv_heads query heads
    feed_forward: int = 384     # values inside a layer's SwiGLU
    norm_epsilon: float = 1e-5
    rope_base: float = 10_000.0

    @property
    def head_width(self):
        return self.width // self.heads

    def tensor_shapes(self):
        """Name -> shape (rows, columns) of every tensor in the file, in file order.

        There is no `output.weight`: the embedding is used for both ends (tied).
        Names: llama.cpp, gguf-py/gguf/constants.py, MODEL_ARCH.LLAMA.
        """
        queries = self.heads * self.head_width
        keys = self.kv_heads * self.head_width
        shapes = {"token_embd.weight": (self.vocabulary, self.width),
                  "output_norm.weight": (self.width,)}
        for layer in range(self.layers):
            shapes.update({f"blk.{layer}.{name}.weight": shape for name, shape in {
                "attn_norm": (self.width,),
                "attn_q": (queries, self.width),
                "attn_k": (keys, self.width),
                "attn_v": (keys, self.width),
                "attn_output": (self.width, queries),
                "ffn_norm": (self.width,),
                "ffn_gate": (self.feed_forward, self.width),
                "ffn_up": (self.feed_forward, self.width),
                "ffn_down": (self.width, self.feed_forward),
            }.items()})
        return shapes

    def parameters(self):
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 4_800
    tokens_per_step: int = 4_096    # padding included
    peak_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.4        # the last part of the steps, where the rate falls
    final_rate_share: float = 0.02  # of the peak
    betas: tuple = (0.9, 0.95)
    weight_decay: float = 0.1       # on matrices only
    gradient_clip: float = 1.0
    initial_spread: float = 0.04    # standard deviation of the first weights
    seed: int = 1

    def rate(self, step):
        """Learning rate of `step` (from 0): warm-up, level, then a straight fall.

        The level part does not depend on `steps`. So a run that turns out too slow can be resumed
        with a smaller number of steps, and ends like one that was planned short.
        """
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        left = (self.steps - step) / (self.steps * self.decay_share)
        return self.peak_rate * max(self.final_rate_share, min(1.0, left))


CORPUS = CorpusConfig()
MODEL = ModelConfig()
TRAIN = TrainConfig()


def fingerprint(texts_digest, tokenizer, model=MODEL, corpus=CORPUS):
    """SHA-256 over what the program puts into a model: text, tokenizer and shape.

    Training steps are left out: they change how good a model is, not whether it fits the program.
    """
    recipe = {"corpus": asdict(corpus), "texts": texts_digest, "model": asdict(model),
              "vocabulary": tokenizer.vocabulary, "merges": tokenizer.merges}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
