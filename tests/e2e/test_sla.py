# SPDX-License-Identifier: Apache-2.0
"""SLA policies over real models: one that cannot be loaded, its backup, answers without a model."""
import threading
import unittest

import prometheus
from harness import MODEL, Scratch, wait_until
from node import MODEL_NAME, Agent, model, wait_ready

BROKEN = "broken"
TEXT = "We are busy, please come back."


class Sla(unittest.TestCase):
    def agent(self, policy):
        """An agent with the shipped model and one whose file is damaged, neither asked so far."""
        path = self.enterContext(Scratch()).path / "broken.gguf"
        path.write_bytes(MODEL.read_bytes()[:4096])
        agent = self.enterContext(Agent(
            models=[model(), model(name=BROKEN, path=str(path), preload=False)],
            sla=[{"route": "/infer", **policy}]))
        wait_ready(agent)
        return agent

    @staticmethod
    def ask(agent, name, **fields):
        return agent.request("POST", "/infer", {"model": name, "prompt": "Once upon a time",
                                                "max_tokens": 4, "temperature": 0, **fields})

    @staticmethod
    def counters(agent, route="/infer"):
        """The policy's counters of a route by what follows weir_sla_."""
        metrics = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        names = ("requests_total", "retries_total", "adaptive_attempts_total",
                 "adaptive_wins_total", "over_budget_total", "fast_fails_total",
                 "backup_attempts_total", "probes_total", "cache_entries")
        found = {n: prometheus.value(metrics, "weir_sla_" + n, route=route) for n in names}
        for origin in ("cached", "default"):
            found[origin] = prometheus.value(metrics, "weir_sla_degraded_total", route=route,
                                             **{"from": origin})
        return found

    def test_default_text_when_the_model_cannot_be_loaded(self):
        agent = self.agent({"retry": {"enabled": True},
                            "degrade": {"enabled": True, "default_text": TEXT}})
        # The first request hears of the failed load and is tried again; the second is refused.
        for _ in range(2):
            reply = self.ask(agent, BROKEN)
            self.assertEqual(reply.status, 200, reply)
            self.assertEqual(reply.headers["X-Weir-Degraded"], "default")
            self.assertEqual(reply.json()["result"], TEXT)
        counters = self.counters(agent)
        self.assertEqual(counters["requests_total"], 2)
        self.assertEqual(counters["retries_total"], 1)
        self.assertEqual(counters["default"], 2)
        self.assertEqual(counters["cached"], 0)
        # The other model answers as ever, and is not marked.
        reply = self.ask(agent, MODEL_NAME)
        self.assertEqual(reply.status, 200, reply)
        self.assertNotIn("X-Weir-Degraded", reply.headers)
        self.assertNotEqual(reply.json()["result"], TEXT)
        self.assertEqual(self.counters(agent)["cache_entries"], 1)

    def test_default_text_reaches_a_stream(self):
        agent = self.agent({"route": "/v1/completions",
                            "degrade": {"enabled": True, "default_text": TEXT}})
        reply = agent.request("POST", "/v1/completions",
                              {"model": BROKEN, "prompt": "x", "stream": True})
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(reply.headers["X-Weir-Degraded"], "default")
        self.assertIn(TEXT, reply.body.decode())
        self.assertIn("[DONE]", reply.body.decode())

    def test_other_routes_are_not_touched(self):
        agent = self.agent({"degrade": {"enabled": True, "default_text": TEXT}})
        reply = agent.request("POST", "/v1/completions", {"model": BROKEN, "prompt": "x"})
        self.assertEqual(reply.status, 503, reply)
        self.assertNotIn("X-Weir-Degraded", reply.headers)
        self.assertEqual(self.counters(agent)["requests_total"], 0)

    def test_the_backup_answers_for_a_model_that_cannot_be_loaded(self):
        agent = self.agent({"retry": {"enabled": True, "backoff_ms": 5},
                            "fast_fail": {"enabled": True, "backup_model": MODEL_NAME}})
        own = self.ask(agent, MODEL_NAME).json()["result"]
        for _ in range(20):
            reply = self.ask(agent, BROKEN)
            self.assertEqual(reply.status, 200, reply)
            self.assertEqual(reply.json()["result"], own)
            self.assertNotIn("X-Weir-Degraded", reply.headers)
        counters = self.counters(agent)
        self.assertEqual(counters["requests_total"], 21)
        self.assertEqual(counters["backup_attempts_total"], 20)
        self.assertGreaterEqual(counters["retries_total"], 1)
        metrics = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        self.assertLess(prometheus.value(metrics, "weir_sla_health_ratio", model=BROKEN), 0.5)
        self.assertEqual(prometheus.value(metrics, "weir_sla_health_ratio", model=MODEL_NAME), 1)

    def test_without_a_backup_it_fails_fast_with_the_reason(self):
        agent = self.agent({"fast_fail": {"enabled": True}})
        reply = wait_until(
            lambda: (r := self.ask(agent, BROKEN)).status == 429 and r, "refused for its health")
        self.assertEqual(reply.json()["error"]["code"], "breaker_open")
        self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
        self.assertGreaterEqual(self.counters(agent)["fast_fails_total"], 1)
        # It is the model's health, not the route's.
        self.assertEqual(self.ask(agent, MODEL_NAME).status, 200)

    def test_a_slow_request_gets_a_second_attempt_and_one_answer(self):
        agent = self.agent({"adaptive_retry": {"enabled": True, "after_ms": 1}})
        own = self.ask(agent, MODEL_NAME, prompt="A long prompt. " * 60).json()["result"]
        for _ in range(5):
            reply = self.ask(agent, MODEL_NAME, prompt="A long prompt. " * 60)
            self.assertEqual(reply.status, 200, reply)
            self.assertEqual(reply.json()["result"], own)
        wait_until(lambda: self.counters(agent)["adaptive_attempts_total"] >= 1, "an attempt")

        def all_over():
            metrics = prometheus.parse(agent.request("GET", "/metrics").body.decode())
            return (prometheus.value(metrics, "weir_model_running", model=MODEL_NAME) == 0 and
                    prometheus.value(metrics, "weir_model_queued", model=MODEL_NAME) == 0)

        wait_until(all_over, "no attempt is left behind")

    def test_a_full_queue_is_told_as_such_after_the_last_attempt(self):
        agent = self.enterContext(Agent(
            models=[model(max_sequences=1, max_queue=1)],
            sla=[{"retry": {"enabled": True, "backoff_ms": 1},
                  "degrade": {"enabled": True, "default_text": TEXT}}]))
        wait_ready(agent)
        replies = []

        def ask(seed):
            replies.append(self.ask(agent, MODEL_NAME, max_tokens=400, seed=seed))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        self.assertEqual(len(replies), 12)
        refused = [r for r in replies if r.status == 429]
        self.assertEqual(len(refused) + sum(r.status == 200 for r in replies), 12, replies)
        self.assertGreaterEqual(len(refused), 1)
        for reply in refused:
            self.assertEqual(reply.json()["error"]["code"], "queue_full")
            self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
        self.assertGreaterEqual(self.counters(agent, "*")["retries_total"], 1)
        self.assertEqual(self.counters(agent, "*")["default"], 0)
