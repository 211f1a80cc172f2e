# SPDX-License-Identifier: Apache-2.0
"""The kernel's first-byte latency against the clock of the server that causes it."""
from harness import Cgroup, KernelTest
from node import STILL, Agent, DelayServer, service, wait_idle

REQUESTS = 400
DELAY_US = 5000
ERROR_LIMIT_US = 100


class TtfbAccuracy(KernelTest):
    def check(self, clock, mode):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a", DELAY_US))
        agent = self.enterContext(Agent(cgroup, [service(server)], control=STILL,
                                        kernel={"request_clock": clock}))
        self.assertEqual(agent.status()["request_clock"], clock)
        self.assertEqual(cgroup.report(mode, REQUESTS)["ok"], REQUESTS)
        wait_idle(agent)
        measured = agent.backends()[server.address]["ttfb_us"]
        truth = server.stats()["delay_us"]
        self.assertEqual((measured["count"], truth["count"]), (REQUESTS, REQUESTS))
        self.assertGreaterEqual(truth["p50"], DELAY_US)
        self.assertLessEqual(abs(measured["p50"] - truth["p50"]), ERROR_LIMIT_US,
                             (measured["p50"], truth))
        self.assertEqual(sum(b[1] for b in measured["buckets"]), REQUESTS)

    def test_p50_of_new_connections(self):
        self.check("tracepoint", "count")

    def test_p50_of_one_connection_kept_alive(self):
        self.check("tracepoint", "keep")

    def test_p50_by_packets(self):
        self.check("skb", "keep")
