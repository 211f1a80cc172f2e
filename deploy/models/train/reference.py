# SPDX-License-Identifier: Apache-2.0
"""The model in plain Python, straight from its file: slow, but free of every other program.

    python3 reference.py ../tiny-stories-1m-q8_0.gguf "Once upon a time"
    python3 reference.py ../tiny-stories-1m-q8_0.gguf --chat "Tell me a story about a fox."
"""

import argparse
import math
import random
from operator import mul

import gguf
from tokenizer import END_OF_TEXT, TURN_END, Tokenizer


def dot(a, b):
    return sum(map(mul, a, b))


def add(a, b):
    return [left + right for left, right in zip(a, b)]


def softmax(values):
    highest = max(values)
    powers = [math.exp(value - highest) for value in values]
    total = sum(powers)
    return [power / total for power in powers]


class Model:
    """Reads one token at a time and remembers the earlier ones."""

    def __init__(self, metadata, tensors):
        self.layers = metadata["llama.block_count"]
        self.heads = metadata["llama.attention.head_count"]
        self.kv_heads = metadata["llama.attention.head_count_kv"]
        self.head_width = metadata["llama.rope.dimension_count"]
        self.rope_base = metadata["llama.rope.freq_base"]
        self.epsilon = metadata["llama.attention.layer_norm_rms_epsilon"]
        self.weights = {}
        for name, tensor in tensors.items():
            values, columns = tensor.values(), tensor.shape[-1]
            self.weights[name.removesuffix(".weight")] = values if len(tensor.shape) == 1 else [
                values[start:start + columns] for start in range(0, len(values), columns)]
        self.reset()

    def reset(self):
        self.position = 0
        self.memory = [[([], []) for _ in range(self.kv_heads)] for _ in range(self.layers)]

    def norm(self, name, x):
        scale = 1 / math.sqrt(dot(x, x) / len(x) + self.epsilon)
        return [value * scale * weight for value, weight in zip(x, self.weights[name])]

    def product(self, name, x):
        return [dot(row, x) for row in self.weights[name]]

    def split_heads(self, values):
        return [values[i:i + self.head_width] for i in range(0, len(values), self.head_width)]

    def rotate(self, head):
        """Rotary position: neighbouring values are the two coordinates that turn."""
        turned = []
        for i in range(0, self.head_width, 2):
            angle = self.position * self.rope_base ** (-i / self.head_width)
            cosine, sine = math.cos(angle), math.sin(angle)
            turned += [head[i] * cosine - head[i + 1] * sine,
                       head[i] * sine + head[i + 1] * cosine]
        return turned

    def attention(self, layer, x):
        blk = f"blk.{layer}."
        keys = self.split_heads(self.product(blk + "attn_k", x))
        values = self.split_heads(self.product(blk + "attn_v", x))
        for (past_keys, past_values), key, value in zip(self.memory[layer], keys, values):
            past_keys.append(self.rotate(key))
            past_values.append(value)
        mixed = []
        for number, query in enumerate(self.split_heads(self.product(blk + "attn_q", x))):
            query = self.rotate(query)
            past_keys, past_values = self.memory[layer][number * self.kv_heads // self.heads]
            shares = softmax([dot(query, key) / math.sqrt(self.head_width) for key in past_keys])
            mixed += [dot(shares, column) for column in zip(*past_values)]
        return self.product(blk + "attn_output", mixed)

    def feed_forward(self, layer, x):
        blk = f"blk.{layer}."
        gates = self.product(blk + "ffn_gate", x)
        ups = self.product(blk + "ffn_up", x)
        return self.product(blk + "ffn_down", [gate / (1 + math.exp(-gate)) * up
                                               for gate, up in zip(gates, ups)])

    def next_logits(self, token):
        """Reads `token`; one logit for each token that may come next."""
        x = self.weights["token_embd"][token]
        for layer in range(self.layers):
            x = add(x, self.attention(layer, self.norm(f"blk.{layer}.attn_norm", x)))
            x = add(x, self.feed_forward(layer, self.norm(f"blk.{layer}.ffn_norm", x)))
        self.position += 1
        return self.product("token_embd", self.norm("output_norm", x))

    def loss(self, ids):
        """Mean cross-entropy of each id after the first, in nats."""
        self.reset()
        losses = [-math.log(softmax(self.next_logits(token))[target])
                  for token, target in zip(ids, ids[1:])]
        return sum(losses) / len(losses)

    def generate(self, prompt, limit, temperature, dice):
        """Yields the ids that follow the ids of `prompt`, up to an end token."""
        self.reset()
        for token in prompt:
            logits = self.next_logits(token)
        for _ in range(limit):
            if temperature == 0:
                token = logits.index(max(logits))
            else:
                shares = softmax([logit / temperature for logit in logits])
                token, = dice.choices(range(len(shares)), shares)
            if token in (END_OF_TEXT, TURN_END):
                return
            yield token
            logits = self.next_logits(token)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("prompt")
    parser.add_argument("--chat", action="store_true", help="the prompt is a request, not a start")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=400, help="tokens")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    metadata, tensors = gguf.read(args.file)
    tokenizer = Tokenizer.from_metadata(metadata)
    if args.chat:
        prompt = tokenizer.encode_chat([("user", args.prompt)], answer=True)
    else:
        prompt = [END_OF_TEXT, *tokenizer.encode(args.prompt)]
        print(args.prompt, end="")
    model = Model(metadata, tensors)
    for token in model.generate(prompt, args.limit, args.temperature, random.Random(args.seed)):
        print(tokenizer.decode([token]), end="", flush=True)
    print()


if __name__ == "__main__":
    main()
