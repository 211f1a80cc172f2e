# SPDX-License-Identifier: Apache-2.0
"""While engines take all CPUs, health and refusals are answered: each of them, and all streams go on."""
import os
import threading
import unittest

import prometheus
from node import MODEL_NAME, Agent, model, wait_ready

PROMPT = {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 1}
STREAMS = 8
PROBES = 200
PATIENCE_S = 60  # for all of it; a tenth of that is a slow machine


class Saturated(unittest.TestCase):
    def setUp(self):
        cpus = len(os.sched_getaffinity(0))
        self.agent = self.enterContext(Agent(
            models=[model(instances=cpus, max_sequences=STREAMS)], serve={"io_threads": 1},
            admission={"rate_limits": [{"tenant": "nobody", "requests_per_second": 0.001}]}))
        wait_ready(self.agent)
        self.stop = threading.Event()
        self.failures = []

    def tokens(self):
        families = prometheus.parse(self.agent.request("GET", "/metrics").body.decode())
        return prometheus.value(families, "weir_model_completion_tokens_total", model=MODEL_NAME)

    def stream(self, number):
        """One story after the other, read to its end."""
        while not self.stop.is_set():
            reply = self.agent.request("POST", "/v1/completions", {
                "model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 400,
                "stream": True, "seed": number}, seconds=PATIENCE_S)
            if reply.status != 200 or not reply.body.endswith(b"data: [DONE]\n\n"):
                self.failures.append((reply.status, reply.body[-200:]))
                return

    def test_every_probe_is_answered_and_the_streams_go_on(self):
        streams = [threading.Thread(target=self.stream, args=(i,)) for i in range(STREAMS)]
        for stream in streams:
            stream.start()
        try:
            tenant = {"x-weir-tenant": "nobody"}
            # One may come in a thousand seconds: that is this one.
            first = self.agent.request("POST", "/infer", PROMPT, tenant, seconds=PATIENCE_S)
            self.assertEqual(first.status, 200)
            before, healthy, refused = self.tokens(), 0, 0
            for _ in range(PROBES):
                healthy += self.agent.request("GET", "/healthz", seconds=PATIENCE_S).status == 200
                reply = self.agent.request("POST", "/infer", PROMPT, tenant, seconds=PATIENCE_S)
                refused += reply.status == 429 and reply.json()["error"]["code"] == "rate_limited"
            self.assertEqual((healthy, refused), (PROBES, PROBES))
            self.assertGreater(self.tokens(), before, "nothing was generated meanwhile")
        finally:
            self.stop.set()
            for stream in streams:
                stream.join(PATIENCE_S)
        self.assertEqual(self.failures, [])


if __name__ == "__main__":
    unittest.main()
