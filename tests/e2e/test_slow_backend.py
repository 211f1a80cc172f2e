# SPDX-License-Identifier: Apache-2.0
"""A backend that becomes slow while it runs loses share, and gets it back when it recovers."""
from harness import Cgroup, KernelTest, wait_until
from node import QUICK, Agent, DelayServer, service

WINDOW = 200  # connections
FAST_US, SLOW_US = 2000, 40_000


class SlowBackend(KernelTest):
    def run_with(self, policy, clients):
        """Sets self.share, a function, up to measure the slow one of three backends."""
        cgroup = self.enterContext(Cgroup())
        servers = [self.enterContext(DelayServer(n, FAST_US)) for n in "abc"]
        self.slow = servers[0]
        agent = self.enterContext(
            Agent(cgroup, [service(*servers, policy=policy)], control=QUICK))
        self.assertEqual(agent.weir_json("backends")["services"][0]["policy"],
                         "round_robin" if policy == "composite" else policy)
        self.enterContext(cgroup.traffic("load", clients))

        def share():
            """Of the next WINDOW connections, measured: weights and latencies follow every tick."""
            before = agent.backends()

            def new():
                after = agent.backends()
                counts = {a: after[a]["connects"] - before[a]["connects"] for a in after}
                return counts if sum(counts.values()) >= WINDOW else None

            counts = wait_until(new, f"{WINDOW} connections", 20, 0.05)
            return counts[self.slow.address] / sum(counts.values())

        self.share = share
        wait_until(lambda: agent.total("requests") > WINDOW, "latencies are measured")
        return agent

    def test_composite(self):
        self.run_with("composite", 4)
        wait_until(lambda: self.share() > 0.2, "it has its share", 20)
        # 100/(latency + 1): 2 ms against 40 ms is 13.7 to 1, so a share of 0.035 in the end.
        self.slow.set_delay_us(SLOW_US)
        wait_until(lambda: self.share() < 0.1, "the slow backend's share is below 0.1", 20)
        self.slow.set_delay_us(FAST_US)
        wait_until(lambda: self.share() > 0.2, "the recovered backend has its share again", 40)

    def test_p2c(self):
        """By load alone: what a slow backend has not answered yet keeps new connections away."""
        self.run_with("p2c", 8)
        self.assertGreater(self.share(), 0.2)
        self.slow.set_delay_us(SLOW_US)
        wait_until(lambda: self.share() < 0.15, "the slow backend's share is below 0.15", 20)
        self.slow.set_delay_us(FAST_US)
        wait_until(lambda: self.share() > 0.2, "the recovered backend has its share again", 20)

    def test_prequal(self):
        """By latency while it is cold: drawn twice in a row is what is left to a slow backend."""
        agent = self.run_with("prequal", 8)
        self.slow.set_delay_us(SLOW_US)
        # Of three, drawn again once when the same: 1/3 * 1/3 * 1/3 = 0.037.
        wait_until(lambda: self.share() < 0.1, "the slow backend's share is below 0.1", 20)
        wait_until(lambda: agent.backends()[self.slow.address]["latency_us"] > 0.9 * SLOW_US,
                   "its latency is known", 20)
        self.slow.set_delay_us(FAST_US)
        # The three are alike again and the fastest by a hair is preferred: any share is well.
        wait_until(lambda: agent.backends()[self.slow.address]["latency_us"] < SLOW_US / 4,
                   "the recovered backend is known to be fast", 40)


class WeightedRandom(KernelTest):
    def test_neither_latency_nor_load_moves_a_configured_weight(self):
        cgroup = self.enterContext(Cgroup())
        slow, fast = (self.enterContext(DelayServer(n, d)) for n, d in (("s", 20_000), ("f", 0)))
        agent = self.enterContext(
            Agent(cgroup, [service(slow, fast, policy="weighted_random")], control=QUICK))
        report = cgroup.report("count", 400)
        # Five standard deviations of a share of 0.5 over 400 connections.
        self.assertAlmostEqual(report["by_backend"]["s"] / 400, 0.5, delta=0.125)
        backends = agent.backends()
        self.assertEqual([backends[server.address]["weight"] for server in (slow, fast)], [1, 1])
