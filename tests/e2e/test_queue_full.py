# SPDX-License-Identifier: Apache-2.0
"""A full queue refuses at once, says why and when to come back, and loses nobody."""
import threading
import unittest

import prometheus
from node import MODEL_NAME, Agent, model, wait_ready

CLIENTS = 12


class QueueFull(unittest.TestCase):
    def test_what_does_not_fit_is_answered_429(self):
        agent = self.enterContext(Agent(models=[model(max_sequences=1, max_queue=1)]))
        wait_ready(agent)
        replies, start = [], threading.Barrier(CLIENTS)

        def ask(seed):
            start.wait()
            replies.append(agent.request("POST", "/infer", {
                "model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 400,
                "seed": seed}))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        self.assertEqual(len(replies), CLIENTS)
        served = [r for r in replies if r.status == 200]
        refused = [r for r in replies if r.status == 429]
        self.assertEqual(len(served) + len(refused), CLIENTS, replies)
        # Two when the engine takes the first from the queue in time for a second; one is certain.
        self.assertGreaterEqual(len(served), 1)
        self.assertGreaterEqual(len(refused), 1)
        for reply in refused:
            self.assertEqual(reply.json()["error"]["code"], "queue_full")
            self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
        for reply in served:
            self.assertTrue(reply.json()["result"].strip())
        metrics = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        self.assertEqual(prometheus.value(metrics, "weir_http_refusals_total",
                                          reason="queue_full"), len(refused))
