# SPDX-License-Identifier: Apache-2.0
"""Fail static: kill -9 of the agent costs no connection, and the next agent takes over exactly."""
import collections
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

    def test_breakers_go_on_without_an_agent(self):
        cgroup = self.enterContext(Cgroup())
        alive = self.enterContext(DelayServer("alive"))
        mortal = self.enterContext(DelayServer("mortal"))
        agent = self.enterContext(Agent(cgroup, [service(alive, mortal)],
                                        control={**STILL, "open_ms": 1000, "max_open_ms": 2000}))
        address = mortal.address
        made = collections.Counter()

        def connect(number):
            report = cgroup.report("count", number)
            made.update(ok=report["ok"], failed=report["failed"])
            made.update(report["by_backend"])
            return report

        def breaker():
            return agent.backends()[address]["breaker"]["state"]

        agent.kill()
        mortal.close()
        wait_until(lambda: connect(1) and breaker() != "closed", "the kernel opens the breaker")
        self.assertEqual(made["failed"], 3)
        self.enterContext(DelayServer("mortal", listen=address))
        wait_until(lambda: connect(10) and breaker() == "closed", "the kernel closes it again", 20)
        self.assertEqual(agent.status()["agent"]["state"], "dead")
        served = made["mortal"]
        wait_until(lambda: connect(10) and made["mortal"] > served, "it has its share again")

        agent.start()
        connect(50)
        wait_idle(agent)
        backend, other = agent.backends()[address], agent.backends()[alive.address]
        self.assertEqual(backend["connects"], made["mortal"] + made["failed"])
        self.assertEqual(backend["established"], made["mortal"])
        self.assertEqual(backend["connect_failures"], made["failed"])
        self.assertGreaterEqual(backend["breaker"]["opens"], 1)
        self.assertEqual(other["connects"], made["alive"])
        picks = agent.weir_json("backends")["services"][0]["picks"]
        self.assertEqual(picks, made["ok"] + made["failed"])

    def test_a_larger_configuration_loses_no_count_under_load(self):
        cgroup = self.enterContext(Cgroup())
        # One server under many addresses.
        server = self.enterContext(DelayServer("server", listen="0.0.0.0:0"))
        port = server.address.rsplit(":", 1)[1]

        def backends(number):
            return [{"address": f"127.0.0.{1 + i}:{port}"} for i in range(number)]

        agent = self.enterContext(Agent(cgroup, [service(*backends(1))], control=STILL))
        traffic = self.enterContext(cgroup.traffic("load", 4))
        for number in (100, 200):  # more than there was room for, each time
            before = agent.total("connects")
            wait_until(lambda: agent.total("connects") > before + 300, "300 connects")
            agent.kill()
            agent.configure(services=[service(*backends(number))])
            agent.start()
            self.assertIn("kernel=adopted", agent.log())
        before = agent.total("connects")
        wait_until(lambda: agent.total("connects") > before + 300, "300 connects")

        traffic.signal(signal.SIGTERM)
        self.assertEqual(traffic.wait(), 0)
        report = last_json(traffic)
        self.assertEqual(report["failed"], 0, report)
        wait_idle(agent)
        for field in ("connects", "established", "requests"):
            self.assertEqual(agent.total(field), report["ok"], field)
        self.assertEqual(agent.total("connect_failures"), 0)
        self.assertEqual(agent.weir_json("backends")["services"][0]["picks"], report["ok"])

    def test_two_agents_on_one_cgroup_refuse_each_other(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("server"))
        first = self.enterContext(Agent(cgroup, [service(server)], control=STILL))
        with self.assertRaises(AssertionError) as refused:
            Agent(cgroup, [service(server)], control=STILL)
        for word in ("another Weir", f"pid {first.process.pid}", str(first.pin_root),
                     str(cgroup.path), "weir detach"):
            self.assertIn(word, str(refused.exception))
        self.assertEqual(cgroup.report("count", 20)["ok"], 20)
