# SPDX-License-Identifier: Apache-2.0
"""Fail static: kill -9 of the agent costs no connection, and the next agent takes over exactly."""
import signal

from harness import Cgroup, KernelTest, last_json, wait_until
from node import STILL, Agent, DelayServer, service, wait_idle


class AgentKilled(KernelTest):
    def cgroup_links(self, agent):
        """name -> id. The program of a tracing link cannot be replaced, so it gets a new link."""
        return {link["name"]: link["link_id"] for link in agent.status()["links"]
                if link["attach_type"].startswith("cgroup_")}

    def test_steering_goes_on_and_restart_adopts(self):
        cgroup = self.enterContext(Cgroup())
        servers = [self.enterContext(DelayServer(n, 500)) for n in "ab"]
        agent = self.enterContext(
            Agent(cgroup, [service((servers[0], 3), (servers[1], 1))], control=STILL))
        links = self.cgroup_links(agent)
        self.assertTrue(links)

        traffic = self.enterContext(cgroup.traffic("load", 4))
        wait_until(lambda: agent.total("requests") > 100, "traffic runs")
        agent.kill()
        at_kill = agent.total("connects")
        self.assertEqual(agent.status()["agent"]["state"], "dead")
        wait_until(lambda: agent.total("connects") > at_kill + 300, "300 connects without an agent")
        self.assertEqual(self.cgroup_links(agent), links)

        agent.start()
        status = agent.status()
        self.assertEqual(status["agent"]["state"], "running")
        self.assertEqual(status["agent"]["pid"], agent.process.pid)
        self.assertEqual(self.cgroup_links(agent), links, "adopted links keep their ids")
        self.assertIn("kernel=adopted", agent.log())
        at_restart = agent.total("connects")
        wait_until(lambda: agent.total("connects") > at_restart + 300, "300 connects after restart")

        traffic.signal(signal.SIGTERM)
        self.assertEqual(traffic.wait(), 0)
        report = last_json(traffic)
        self.assertEqual(report["failed"], 0, report)
        wait_idle(agent)
        backends = agent.backends()
        for server in servers:  # counted before, without, and after: none lost, none twice
            backend = backends[server.address]
            served = report["by_backend"][server.name]
            self.assertEqual((backend["connects"], backend["established"], backend["requests"],
                              backend["connect_failures"]), (served, served, served, 0))
        self.assertEqual(agent.weir_json("backends")["services"][0]["picks"], report["ok"])
