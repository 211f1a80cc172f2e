# SPDX-License-Identifier: Apache-2.0
"""Crafted model files: each is refused with its reason, and the agent serves the good one."""
import struct
import unittest

import prometheus
from harness import MODEL, Scratch
from node import MODEL_NAME, Agent, model, wait_ready


def at_value(content, key):
    """Where the value of a metadata entry begins."""
    return content.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4


def with_value(content, key, value, form="<I"):
    at = at_value(content, key)
    packed = struct.pack(form, value)
    return content[:at] + packed + content[at + len(packed):]


def with_tensor(content, name, field, value):
    """Changes the `type` or the `offset` of a tensor of two dimensions."""
    at = content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name) + 4 + 16
    if field == "type":
        return content[:at] + struct.pack("<I", value) + content[at + 4:]
    return content[:at + 4] + struct.pack("<Q", value) + content[at + 12:]


def one_dimension_heads(content):
    """Passes every rule; ggml asserts that positions are rotated by pairs."""
    for key, value in (("llama.attention.head_count", 128), ("llama.attention.head_count_kv", 64),
                       ("llama.rope.dimension_count", 1)):
        content = with_value(content, key, value)
    return content


class HostileModel(unittest.TestCase):
    def setUp(self):
        good = MODEL.read_bytes()
        architecture = at_value(good, "general.architecture") + 8
        other = good.replace(b"llama.", b"lhama.")
        key_type = at_value(good, "llama.block_count") - 4
        strings = at_value(good, "tokenizer.ggml.tokens") + 4
        # Name: contents, what the answer says of it.
        crafted = {
            "cut": (good[:-1000], "bytes are missing"),
            "big-endian": (good[:4] + b"\0\0\0\3" + good[8:], "big-endian"),
            "huge-array": (good[:strings] + b"\xff" * 8 + good[strings + 8:],
                           "claims 18446744073709551615 elements of string"),
            "wrong-type": (good[:key_type] + struct.pack("<I", 6) + good[key_type + 4:],
                           "llama.block_count is of type float32; it must be a uint32"),
            "no-such-type": (good[:key_type] + struct.pack("<I", 99) + good[key_type + 4:],
                             "has value type 99; there are 0 to 12"),
            "no-heads": (with_value(good, "llama.attention.head_count", 0),
                         "llama.attention.head_count is 0"),
            "no-context": (with_value(good, "llama.context_length", 0),
                           "llama.context_length is 0; possible are"),
            "end-token": (with_value(good, "tokenizer.ggml.eos_token_id", 1024),
                          "tokenizer.ggml.eos_token_id is 1024, but the vocabulary has only 1024"),
            "token-twice": (good.replace(b"lantern", b"learned", 1),
                            "learned\" occurs twice in its vocabulary"),
            "tensor-type": (with_tensor(good, "blk.0.attn_q.weight", "type", 1000),
                            "has type 1000, which libllama does not know"),
            "overlap": (with_tensor(good, "blk.0.attn_q.weight", "offset", 64), "overlaps others"),
            "beyond": (with_tensor(good, "blk.0.attn_q.weight", "offset", 1 << 40),
                       "it has to begin at"),
            # These are for libllama to say, in the child, which dies of the last.
            "architecture": (other[:architecture] + b"lhama" + other[architecture + 5:],
                             "unknown model architecture: 'lhama'"),
            "deadly": (one_dimension_heads(good), "libllama dies of it while"),
        }
        folder = self.enterContext(Scratch()).path
        self.reasons = {}
        self.paths = {}
        for name, (content, reason) in crafted.items():
            self.paths[name] = folder / f"{name}.gguf"
            self.paths[name].write_bytes(content)
            self.reasons[name] = reason

    def test_each_is_refused_and_the_agent_lives(self):
        lazy = [model(name=n, path=str(p), preload=False) for n, p in self.paths.items()]
        agent = self.enterContext(Agent(models=[model(), *lazy]))
        wait_ready(agent)
        for name, path in self.paths.items():
            with self.subTest(model=name):
                reply = agent.request("POST", "/infer",
                                      {"model": name, "prompt": "x", "max_tokens": 2})
                self.assertEqual(reply.status, 503, reply)
                message = reply.json()["error"]["message"]
                self.assertIn(f"{path}: ", message)
                self.assertIn(self.reasons[name], message)
        self.assertTrue(agent.process.running())
        good = agent.request("POST", "/infer", {"model": MODEL_NAME, "prompt": "Once",
                                                "max_tokens": 4})
        self.assertEqual(good.status, 200, good)
        metrics = prometheus.parse(agent.request("GET", "/metrics").body.decode())

        def trials(outcome):
            return prometheus.value(metrics, "weir_file_trials_total", outcome=outcome)

        # Two are for libllama.
        self.assertEqual(prometheus.value(metrics, "weir_file_check_refusals_total"),
                         len(self.paths) - 2)
        self.assertEqual(trials("died"), 1)
        self.assertEqual(trials("refused"), 1)
        self.assertEqual(trials("passed"), 1)  # the good one
        self.assertEqual(trials("unavailable"), 0)
