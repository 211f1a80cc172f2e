# SPDX-License-Identifier: Apache-2.0
"""By weight alone, new connections follow the configured weights; the maps count each of them."""
from harness import SERVICE, Cgroup, KernelTest
from node import STILL, Agent, DelayServer, service, wait_idle

CONNECTIONS = 1500
# Pearson's chi-square with 2 degrees of freedom passes this once in 50,000 runs by chance.
CHI_SQUARE_LIMIT = 21.6


class Shares(KernelTest):
    def test_shares_follow_weights(self):
        cgroup = self.enterContext(Cgroup())
        weights = {"a": 6, "b": 3, "c": 1}
        servers = {name: self.enterContext(DelayServer(name)) for name in weights}
        agent = self.enterContext(Agent(
            cgroup, [service(*((servers[n], w) for n, w in weights.items()),
                             policy="weighted_random")], control=STILL))

        report = cgroup.report("count", CONNECTIONS)
        self.assertEqual((report["ok"], report["failed"]), (CONNECTIONS, 0), report)

        chi_square = sum((report["by_backend"].get(n, 0) - CONNECTIONS * w / 10) ** 2 /
                         (CONNECTIONS * w / 10) for n, w in weights.items())
        self.assertLess(chi_square, CHI_SQUARE_LIMIT, report)

        wait_idle(agent)
        backends = agent.backends()
        for name, weight in weights.items():
            backend = backends[servers[name].address]
            self.assertEqual(backend["state"], "active")
            self.assertAlmostEqual(backend["share"], weight / 10, places=3)
            served = report["by_backend"][name]
            self.assertEqual([backend[field] for field in
                              ("connects", "established", "requests", "connect_failures")],
                             [served, served, served, 0], backend)
            self.assertEqual(backend["connect_us"]["count"], served)
            self.assertEqual(backend["ttfb_us"]["count"], served)
        listed, = agent.weir_json("backends")["services"]
        self.assertEqual((listed["address"], listed["picks"], listed["misses"]),
                         (SERVICE, CONNECTIONS, 0))
