# SPDX-License-Identifier: Apache-2.0
"""A model with two instances: one file in memory, one queue, two that work."""
import concurrent.futures
import json
import unittest

import prometheus
from harness import MODEL, wait_until
from node import MODEL_NAME, Agent, model, wait_ready

PROMPTS = ("Once upon a time", "One windy day", "There was a", "The fox said")


def ask(agent, prompt, max_tokens=150):
    return agent.request("POST", "/v1/completions", {
        "model": MODEL_NAME, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0})


def mapped_bytes(agent):
    """Of the model's file."""
    with open(f"/proc/{agent.process.pid}/maps", encoding="ascii") as maps:
        ranges = [line.split()[0].split("-") for line in maps if line.rstrip().endswith(str(MODEL))]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


class Instances(unittest.TestCase):
    def metrics(self, agent):
        return prometheus.parse(agent.request("GET", "/metrics").body.decode())

    def of_each(self, agent, name):
        families = self.metrics(agent)
        return [prometheus.value(families, f"weir_model_instance_{name}", model=MODEL_NAME,
                                 instance=str(i)) for i in range(2)]

    def test_two_work_on_one_file_and_answer_as_one_does(self):
        with Agent(models=[model()]) as alone:
            wait_ready(alone)
            texts = {p: ask(alone, p).json()["choices"][0]["text"] for p in PROMPTS}
            mapped = mapped_bytes(alone)
        agent = self.enterContext(Agent(models=[model(instances=2, max_sequences=2)]))
        wait_ready(agent)
        with concurrent.futures.ThreadPoolExecutor(16) as clients:
            answers = list(clients.map(lambda i: (i, ask(agent, PROMPTS[i % 4])), range(48)))
        for i, answer in answers:
            self.assertEqual(answer.status, 200, answer)
            self.assertEqual(answer.json()["choices"][0]["text"], texts[PROMPTS[i % 4]])
        self.assertGreater(min(self.of_each(agent, "decode_steps_total")), 0)
        families = self.metrics(agent)
        self.assertEqual(sum(self.of_each(agent, "completion_tokens_total")),
                         prometheus.value(families, "weir_model_completion_tokens_total",
                                          model=MODEL_NAME))
        self.assertEqual(prometheus.value(families, "weir_model_loads_total", model=MODEL_NAME), 1)
        self.assertEqual(mapped_bytes(agent), mapped)
        listed = agent.weir("models", "--url", f"http://{agent.http}", "--json")
        self.assertEqual(json.loads(listed.stdout)[0]["weir"]["instances"], 2)
        self.assertEqual(agent.stop(), 0)

    def test_both_are_drained_at_a_stop(self):
        agent = self.enterContext(Agent(models=[model(instances=2, max_sequences=1)]))
        wait_ready(agent)
        with concurrent.futures.ThreadPoolExecutor(2) as clients:
            # Each of its own: an instance has one sequence.
            running = [clients.submit(ask, agent, p, 400) for p in PROMPTS[:2]]
            wait_until(lambda: self.of_each(agent, "running") == [1, 1] or
                       all(r.done() for r in running), "both run", period=0.001)
            self.assertEqual(agent.stop(), 0)
            for one in running:
                self.assertEqual(one.result().status, 200)


if __name__ == "__main__":
    unittest.main()
