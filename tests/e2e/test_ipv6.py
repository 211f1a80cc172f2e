# SPDX-License-Identifier: Apache-2.0
"""A service with an IPv6 address, by both request clocks."""
from harness import PYTHON, Cgroup, KernelTest
from node import STILL, Agent, DelayServer, service, wait_idle

SERVICE6 = "[fd00:111::10]:8000"  # no route leads there

PEER = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
print(s.getpeername()[:2])
"""


class Ipv6(KernelTest):
    def check(self, clock):
        cgroup = self.enterContext(Cgroup())
        servers = [self.enterContext(DelayServer(n, listen="[::1]:0")) for n in "ab"]
        agent = self.enterContext(Agent(cgroup, [service(*servers, address=SERVICE6)],
                                        control=STILL, kernel={"request_clock": clock}))
        report = cgroup.report("count", 100, address=SERVICE6)
        self.assertEqual((report["ok"], report["failed"]), (100, 0), report)
        self.assertEqual(set(report["by_backend"]), {"a", "b"})
        status, output = cgroup.run([PYTHON, "-c", PEER, "fd00:111::10", 8000])
        self.assertEqual((status, output.strip()), (0, "('fd00:111::10', 8000)"))
        wait_idle(agent)
        backends = agent.backends()
        self.assertEqual({a: b["requests"] for a, b in backends.items()},
                         {s.address: report["by_backend"][s.name] for s in servers})
        self.assertEqual(agent.total("established"), 101)

    def test_steered_and_measured_by_tracepoints(self):
        self.check("tracepoint")

    def test_steered_and_measured_by_packets(self):
        self.check("skb")
