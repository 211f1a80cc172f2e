# SPDX-License-Identifier: Apache-2.0
"""A missing or malformed model file is refused with the reason; the agent and its other models live."""
import unittest

from harness import MODEL, Scratch, wait_until
from node import MODEL_NAME, Agent, model, wait_ready


class BadModel(unittest.TestCase):
    def files(self):
        """name -> path of something that is no model."""
        directory = self.enterContext(Scratch()).path
        good = MODEL.read_bytes()
        contents = {
            "empty": b"",
            "not-gguf": b"MZ" + b"\0" * 4096,
            "header-only": good[:24],
            "half": good[:len(good) // 2],
            "huge-counts": good[:8] + b"\xff" * 16 + good[24:],
        }
        paths = {"missing": directory / "missing.gguf"}
        for name, content in contents.items():
            paths[name] = directory / f"{name}.gguf"
            paths[name].write_bytes(content)
        return paths

    def test_each_is_refused_and_the_good_model_serves(self):
        paths = self.files()
        broken = [model(name=name, path=str(path), preload=False) for name, path in paths.items()]
        agent = self.enterContext(Agent(models=[model(), *broken]))
        wait_ready(agent)
        for name in paths:
            with self.subTest(model=name):
                def answer():
                    reply = agent.request("POST", "/infer",
                                          {"model": name, "prompt": "x", "max_tokens": 2})
                    # While it is being loaded: 503 with Retry-After. After: the failure itself.
                    return None if reply.headers.get("Retry-After") else reply

                reply = wait_until(answer, f"{name} has failed", 10)
                self.assertGreaterEqual(reply.status, 500, reply)
                error = reply.json()["error"]
                self.assertRegex(error["message"], r"(?i)" + name + r".*\b(gguf|file|magic|truncated|size|"
                                 r"short|tensor|open|exist|header|read)")
        self.assertTrue(agent.process.running())
        good = agent.request("POST", "/infer", {"model": MODEL_NAME, "prompt": "Once",
                                                "max_tokens": 4})
        self.assertEqual(good.status, 200, good)
