# SPDX-License-Identifier: Apache-2.0
"""A backend that becomes slow while it runs loses share, and gets it back when it recovers."""
from harness import Cgroup, KernelTest, wait_until
from node import QUICK, Agent, DelayServer, service

WINDOW = 200  # connections


class SlowBackend(KernelTest):
    def test_share_falls_and_recovers(self):
        cgroup = self.enterContext(Cgroup())
        servers = [self.enterContext(DelayServer(n, 2000)) for n in "abc"]
        slow = servers[0]
        agent = self.enterContext(Agent(cgroup, [service(*servers)], control=QUICK))
        self.enterContext(cgroup.traffic("load", 4))

        def share():
            """Of the next WINDOW connections, measured: the published one follows every tick."""
            before = agent.backends()

            def new():
                after = agent.backends()
                counts = {a: after[a]["connects"] - before[a]["connects"] for a in after}
                return counts if sum(counts.values()) >= WINDOW else None

            counts = wait_until(new, f"{WINDOW} connections", 20, 0.05)
            return counts[slow.address] / sum(counts.values())

        wait_until(lambda: agent.total("requests") > WINDOW, "latencies are measured")
        self.assertGreater(share(), 0.2)
        # 100/(latency + 1): 2 ms against 40 ms is 13.7 to 1, so a share of 0.035 in the end.
        slow.set_delay_us(40_000)
        wait_until(lambda: share() < 0.1, "the slow backend's share is below 0.1", 20)
        slow.set_delay_us(2000)
        wait_until(lambda: share() > 0.2, "the recovered backend has its share again", 40)
