# SPDX-License-Identifier: Apache-2.0
"""in_flight, waiting and streaming count what is open now, whatever happens to the clients."""
from harness import Cgroup, KernelTest, wait_until
from node import STILL, Agent, DelayServer, service, wait_idle

HOLDERS = 20


class Gauges(KernelTest):
    def test_killed_clients_are_released(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a", 60_000_000))  # no answer within the test
        agent = self.enterContext(Agent(cgroup, [service(server)], control=STILL))

        holder = self.enterContext(cgroup.traffic("hold", HOLDERS))
        wait_until(lambda: "holding" in holder.output(), "connections are held")
        backend = agent.backends()[server.address]
        self.assertEqual((backend["in_flight"], backend["waiting"], backend["streaming"]),
                         (HOLDERS, HOLDERS, 0))
        holder.kill()
        wait_idle(agent)
        backend = agent.backends()[server.address]
        self.assertEqual((backend["connects"], backend["requests"]), (HOLDERS, 0))
        stats = agent.weir_json("backends")["stats"]
        self.assertEqual([v for k, v in stats.items() if "underflow" in k], [0])

    def test_answered_connections_stream_until_they_close(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a", 0))
        agent = self.enterContext(Agent(cgroup, [service(server)], control=STILL))
        holder = self.enterContext(cgroup.traffic("hold", HOLDERS))
        wait_until(lambda: agent.total("requests") == HOLDERS, "every request is answered")
        backend = agent.backends()[server.address]
        self.assertEqual((backend["in_flight"], backend["waiting"], backend["streaming"]),
                         (HOLDERS, 0, HOLDERS))
        holder.kill()
        wait_idle(agent)

    def test_refused_connects_are_released(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a"))
        agent = self.enterContext(Agent(cgroup, [service(server)],
                                        control={**STILL, "open_after_failures": 1000}))
        address = server.address
        server.close()
        self.assertEqual(cgroup.report("count", 50)["failed"], 50)
        wait_idle(agent)
        backend = agent.backends()[address]
        self.assertEqual((backend["connects"], backend["established"],
                          backend["connect_failures"]), (50, 0, 50))
