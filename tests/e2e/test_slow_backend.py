# SPDX-License-Identifier: Apache-2.0
"""A backend that becomes slow while it runs loses share, and gets it back when it recovers."""
from harness import Cgroup, KernelTest, wait_until
from node import QUICK, Agent, DelayServer, service


class SlowBackend(KernelTest):
    def test_share_falls_and_recovers(self):
        cgroup = self.enterContext(Cgroup())
        servers = [self.enterContext(DelayServer(n, 2000)) for n in "abc"]
        slow = servers[0]
        agent = self.enterContext(Agent(cgroup, [service(*servers)], control=QUICK))
        self.enterContext(cgroup.traffic("load", 4))

        def share():
            return agent.backends()[slow.address]["share"]

        wait_until(lambda: agent.total("requests") > 300, "300 requests were measured")
        self.assertGreater(share(), 0.25)

        slow.set_delay_us(40_000)
        # Sole signal: first-byte latency 20 times the median, so a weight of 1/3 of the others.
        wait_until(lambda: share() < 0.2, "the slow backend's share is below 0.2", 30, 0.1)
        before = agent.backends()
        wait_until(lambda: agent.total("connects") - sum(b["connects"] for b in before.values())
                   > 300, "300 more connects", 30, 0.1)
        after = agent.backends()
        new = {a: after[a]["connects"] - before[a]["connects"] for a in after}
        self.assertLess(new[slow.address] / sum(new.values()), 0.27, new)

        slow.set_delay_us(2000)
        wait_until(lambda: share() > 0.28, "the recovered backend has its share again", 40, 0.1)
