# SPDX-License-Identifier: Apache-2.0
"""The agent's own model as a backend: text generated through the service address."""
import json

from harness import SERVICE, Cgroup, KernelTest
from node import LOCAL, MODEL_NAME, STILL, Agent, model, service, wait_idle, wait_ready


class Generation(KernelTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cgroup = cls.enterClassContext(Cgroup())
        cls.agent = cls.enterClassContext(
            Agent(cls.cgroup, [service(LOCAL)], [model()], control=STILL))
        wait_ready(cls.agent)

    def post(self, path, body):
        """By curl from inside the cgroup, to the service address."""
        status, output = self.cgroup.run(
            ["curl", "-sS", "-m", "20", "-H", "Content-Type: application/json", "-d",
             json.dumps(body), "-w", "\n%{http_code}", f"http://{SERVICE}{path}"])
        self.assertEqual(status, 0, output)
        text, code = output.rsplit("\n", 1)
        self.assertEqual(code, "200", output)
        return json.loads(text)

    def test_infer_through_the_service(self):
        before = self.agent.total("requests")
        reply = self.post("/infer", {"model": MODEL_NAME, "prompt": "Once upon a time",
                                     "max_tokens": 12, "temperature": 0})
        self.assertEqual(reply["model"], MODEL_NAME)
        self.assertEqual(reply["finish_reason"], "length")
        self.assertEqual(reply["usage"]["completion_tokens"], 12)
        self.assertTrue(reply["result"].strip())
        self.assertTrue(reply["id"])
        self.assertTrue(all(value >= 0 for value in reply["timings"].values()), reply["timings"])
        wait_idle(self.agent)
        self.assertEqual(self.agent.total("requests") - before, 1)

    def test_greedy_text_is_the_same_through_every_door(self):
        ask = {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 24,
               "temperature": 0}
        first = self.post("/infer", ask)
        second = self.post("/v1/completions", ask)
        direct = self.agent.request("POST", "/infer", ask).json()
        self.assertEqual(first["result"], second["choices"][0]["text"])
        self.assertEqual(first["result"], direct["result"])
        self.assertEqual(first["usage"], second["usage"])

    def test_a_seed_makes_sampling_repeatable(self):
        def text(seed):
            ask = {"model": MODEL_NAME, "prompt": "Once there was", "max_tokens": 24,
                   "temperature": 1.0, "seed": seed}
            return self.post("/infer", ask)["result"]

        self.assertEqual(text(7), text(7))
        self.assertGreater(len({text(seed) for seed in range(1, 6)}), 1)

    def test_stop_string_ends_the_text_before_it(self):
        ask = {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 60,
               "temperature": 0}
        whole = self.post("/infer", ask)["result"]
        stop = whole[20:26]
        cut = self.post("/infer", {**ask, "stop": [stop]})
        self.assertEqual(cut["result"], whole[:whole.index(stop)])
        self.assertEqual(cut["finish_reason"], "stop")

    def test_models_lists_the_model(self):
        listed = self.agent.request("GET", "/v1/models").json()
        self.assertEqual(listed["object"], "list")
        self.assertEqual([m["id"] for m in listed["data"]], [MODEL_NAME])
