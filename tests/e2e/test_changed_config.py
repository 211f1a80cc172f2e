# SPDX-License-Identifier: Apache-2.0
"""An agent that adopts the maps of one with another configuration."""
import signal

import prometheus
from harness import SERVICE, Cgroup, KernelTest, last_json, wait_until
from node import QUICK, SERVICE_NAME, STILL, Agent, DelayServer, service

HOLDERS = 5
ELSEWHERE = "127.111.0.11:8000"


class ChangedConfig(KernelTest):
    def setUp(self):
        self.cgroup = self.enterContext(Cgroup())
        self.old, self.new = (self.enterContext(DelayServer(n)) for n in ("old", "new"))

    def start(self, control):
        return self.enterContext(Agent(self.cgroup, [service(self.old)], control=control))

    def restart(self, agent, *services):
        agent.kill()
        agent.configure(services=list(services))
        agent.start()
        self.assertIn("kernel=adopted", agent.log())

    def hold(self):
        holder = self.enterContext(self.cgroup.traffic("hold", HOLDERS))
        wait_until(lambda: "holding" in holder.output(), "connections are held")
        return holder

    def test_removed_backend_drains_and_is_forgotten_when_its_connections_close(self):
        agent = self.start(QUICK)
        holder = self.hold()
        self.restart(agent, service(self.new))
        backends = agent.backends()
        old = backends[self.old.address]
        self.assertEqual((old["state"], old["share"], old["in_flight"]), ("draining", 0, HOLDERS))
        self.assertEqual(backends[self.new.address]["state"], "active")
        self.assertEqual(self.cgroup.report("count", 20)["by_backend"], {"new": 20})
        holder.kill()
        wait_until(lambda: list(agent.backends()) == [self.new.address], "the old one is forgotten")

    def test_backend_that_comes_back_while_it_drains_keeps_its_counters(self):
        agent = self.start(STILL)
        self.hold()
        self.restart(agent, service(self.new))
        self.restart(agent, service(self.new, self.old))
        old = agent.backends()[self.old.address]
        self.assertEqual((old["state"], old["in_flight"], old["connects"]),
                         ("active", HOLDERS, HOLDERS))

    def test_replacing_every_backend_costs_no_connection(self):
        agent = self.start(STILL)
        traffic = self.enterContext(self.cgroup.traffic("load", 4))
        wait_until(lambda: agent.total("requests") > 50, "traffic runs")
        self.restart(agent, service(self.new))
        wait_until(lambda: agent.backends()[self.new.address]["requests"] > 50, "traffic moved")
        traffic.signal(signal.SIGTERM)
        self.assertEqual(traffic.wait(), 0)
        report = last_json(traffic)
        self.assertEqual(report["failed"], 0, report)

    def test_service_that_moves_leaves_its_connections_to_a_pool_of_another_name(self):
        agent = self.start(STILL)
        self.hold()
        self.restart(agent, service(self.old, address=ELSEWHERE))
        services = agent.weir_json("backends")["services"]
        self.assertEqual([(s["name"], s["address"], s["backends"][0]["in_flight"])
                          for s in services],
                         [(f"{SERVICE_NAME}#0", SERVICE, HOLDERS), (SERVICE_NAME, ELSEWHERE, 0)])
        self.assertEqual(self.cgroup.report("count", 3, address=SERVICE)["failed"], 3)
        self.assertEqual(self.cgroup.report("count", 3, address=ELSEWHERE)["ok"], 3)
        prometheus.parse(agent.request("GET", "/metrics").body.decode())  # no sample twice
