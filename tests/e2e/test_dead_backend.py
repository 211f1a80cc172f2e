# SPDX-License-Identifier: Apache-2.0
"""A backend that refuses connections is taken out after a few failures, and back when it lives."""
from harness import REFUSED, SERVICE, Cgroup, KernelTest, wait_until
from node import QUICK, Agent, DelayServer, service


class DeadBackend(KernelTest):
    def test_breaker_opens_and_traffic_moves(self):
        cgroup = self.enterContext(Cgroup())
        alive = self.enterContext(DelayServer("alive"))
        dead = self.enterContext(DelayServer("dead"))
        agent = self.enterContext(Agent(
            cgroup, [service(alive, dead)],
            control={**QUICK, "open_after_failures": 3, "open_ms": 60000}))
        address = dead.address
        dead.close()

        # One connect at a time, so that the breaker's reaction time bounds the failures.
        failures = 0
        for _ in range(200):
            failures += cgroup.report("count", 5)["failed"]
            if agent.backends()[address]["state"] == "open":
                break
        else:
            self.fail(f"not open after {failures} failures")
        self.assertGreaterEqual(failures, 3)

        report = cgroup.report("count", 300)
        self.assertEqual((report["failed"], report["by_backend"]), (0, {"alive": 300}))
        backends = agent.backends()
        self.assertEqual(backends[address]["connect_failures"], failures)
        self.assertEqual(backends[address]["established"], 0)
        self.assertEqual(backends[address]["share"], 0)
        self.assertAlmostEqual(backends[alive.address]["share"], 1)
        self.assertEqual(backends[address]["in_flight"], 0)

    def test_backend_comes_back_after_the_open_time(self):
        cgroup = self.enterContext(Cgroup())
        alive = self.enterContext(DelayServer("alive"))
        dead = self.enterContext(DelayServer("dead"))
        agent = self.enterContext(Agent(
            cgroup, [service(alive, dead)],
            control={**QUICK, "open_ms": 300, "max_open_ms": 600}))
        address = dead.address
        dead.close()

        def state():
            cgroup.report("count", 5)
            return agent.backends()[address]["state"]

        wait_until(lambda: state() == "open", "the breaker is open", 20)
        self.enterContext(DelayServer("dead", listen=address))
        wait_until(lambda: cgroup.report("count", 50)["by_backend"].get("dead", 0) > 10,
                   "the revived backend has its share again", 20)
        self.assertEqual(state(), "active")

    def test_a_pool_without_backends_refuses_when_told_to(self):
        cgroup = self.enterContext(Cgroup())
        dead = self.enterContext(DelayServer("dead"))
        address = dead.address
        agent = self.enterContext(Agent(
            cgroup, [service(dead, when_empty="refuse")],
            control={**QUICK, "open_ms": 60000}))
        dead.close()

        def open_state():
            cgroup.report("count", 3)
            return agent.backends()[address]["state"] == "open"

        wait_until(open_state, "the only backend is open", 20)
        before = agent.weir_json("backends")
        report = cgroup.report("count", 10, address=SERVICE)
        self.assertEqual(report["failed"], 10)
        self.assertEqual(report["errors"], {REFUSED: 10})
        after = agent.weir_json("backends")
        self.assertEqual(after["services"][0]["misses"] - before["services"][0]["misses"], 10)
        self.assertEqual(agent.backends()[address]["connects"],
                         before["services"][0]["backends"][0]["connects"])
