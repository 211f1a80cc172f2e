# SPDX-License-Identifier: Apache-2.0
"""A model file that cannot be loaded is refused with the reason; agent and other models live."""
import unittest

import prometheus
from harness import MODEL, Scratch
from node import MODEL_NAME, Agent, model, wait_ready


class BadModel(unittest.TestCase):
    def setUp(self):
        good = MODEL.read_bytes()
        contents = {
            "gone": good,
            "empty": b"",
            "not-gguf": b"MZ" + b"\0" * 4096,
            "header-only": good[:24],
            "half": good[:len(good) // 2],
            "huge-counts": good[:8] + b"\xff" * 16 + good[24:],
        }
        directory = self.enterContext(Scratch()).path
        self.paths = {name: directory / f"{name}.gguf" for name in contents}
        for name, content in contents.items():
            self.paths[name].write_bytes(content)

    def test_each_is_refused_and_the_good_model_serves(self):
        lazy = [model(name=n, path=str(p), preload=False) for n, p in self.paths.items()]
        agent = self.enterContext(Agent(models=[model(), *lazy]))
        wait_ready(agent)
        self.paths["gone"].unlink()
        for name, path in self.paths.items():
            with self.subTest(model=name):
                reply = agent.request("POST", "/infer",
                                      {"model": name, "prompt": "x", "max_tokens": 2})
                self.assertEqual(reply.status, 503, reply)
                self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
                message = reply.json()["error"]["message"]
                self.assertIn(str(path), message)
                reason = message.split(str(path), 1)[1].strip(": ")
                self.assertGreater(len(reason), 10, f"no reason in {message!r}")
                self.assertIn(str(path), agent.log())
        self.assertTrue(agent.process.running())
        metrics = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        for name in self.paths:
            self.assertEqual(
                prometheus.value(metrics, "weir_model_state", model=name, state="failed"), 1)
        good = agent.request("POST", "/infer", {"model": MODEL_NAME, "prompt": "Once",
                                                "max_tokens": 4})
        self.assertEqual(good.status, 200, good)
