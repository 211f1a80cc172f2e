# SPDX-License-Identifier: Apache-2.0
"""A backend that refuses connections is taken out by the third failure, and back when it lives."""
import json
import signal

from harness import PYTHON, REFUSED, SERVICE, Cgroup, KernelTest, wait_until
from node import QUICK, STILL, Agent, DelayServer, service


def breaker(agent, address):
    return agent.backends()[address]["breaker"]["state"]


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

        # One connect at a time: the third failure is the last.
        failures = 0
        for _ in range(200):
            failures += cgroup.report("count", 5)["failed"]
            if breaker(agent, address) == "open":
                break
        self.assertEqual((failures, breaker(agent, address)), (3, "open"))

        report = cgroup.report("count", 300)
        self.assertEqual((report["failed"], report["by_backend"]), (0, {"alive": 300}))
        backends = agent.backends()
        dead = backends[address]
        self.assertEqual((dead["connect_failures"], dead["refused"], dead["connects"]), (3, 3, 3))
        self.assertEqual(dead["breaker"]["opens"], 1)
        self.assertTrue(50_000 < dead["breaker"]["open_ms"] <= 72_000, dead["breaker"])
        wait_until(lambda: "to=open level=0 consecutive_failures=3" in agent.log(),
                   "the log tells of it", 2)
        self.assertEqual(backends[address]["established"], 0)
        self.assertEqual(backends[address]["share"], 0)
        self.assertAlmostEqual(backends[alive.address]["share"], 1)
        self.assertEqual(backends[address]["in_flight"], 0)

    def test_backend_comes_back_after_the_open_time(self):
        cgroup = self.enterContext(Cgroup())
        alive = self.enterContext(DelayServer("alive"))
        dead = self.enterContext(DelayServer("dead"))
        agent = self.enterContext(Agent(
            cgroup, [service(alive, dead, policy="p2c")],
            control={**QUICK, "open_ms": 300, "max_open_ms": 600}))
        address = dead.address
        dead.close()

        def state():
            cgroup.report("count", 5)
            return breaker(agent, address)

        wait_until(lambda: state() == "open", "the breaker is open", 20)
        self.enterContext(DelayServer("dead", listen=address))
        wait_until(lambda: cgroup.report("count", 50)["by_backend"].get("dead", 0) > 10,
                   "the revived backend has its share again", 20)
        self.assertEqual(state(), "closed")

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
            return breaker(agent, address) == "open"

        wait_until(open_state, "the only backend is open", 20)
        before = agent.weir_json("backends")
        report = cgroup.report("count", 10, address=SERVICE)
        self.assertEqual(report["failed"], 10)
        self.assertEqual(report["errors"], {REFUSED: 10})
        after = agent.weir_json("backends")
        self.assertEqual(after["services"][0]["misses"] - before["services"][0]["misses"], 10)
        self.assertEqual(agent.backends()[address]["connects"],
                         before["services"][0]["backends"][0]["connects"])


# Connects from several threads until told to end; says of each failed one when it began and ended.
CROWD = """
import json, socket, sys, threading, time
host, port = sys.argv[1].split(":")
failed, done = [], []

def run():
    for _ in range(int(sys.argv[2])):
        began = time.monotonic()
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except ConnectionRefusedError:
            failed.append((began, time.monotonic()))
        done.append(began)

threads = [threading.Thread(target=run) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"failed": failed, "done": sorted(done)}))
"""


class WithoutTheAgent(KernelTest):
    """The agent is stopped (SIGSTOP): whatever happens, the kernel does by itself."""

    def setUp(self):
        self.cgroup = self.enterContext(Cgroup())
        self.alive, self.dead = (self.enterContext(DelayServer(n)) for n in ("alive", "dead"))

    def start(self, *backends, **fields):
        agent = self.enterContext(Agent(
            self.cgroup, [service(*backends, policy="round_robin", **fields)],
            control={**STILL, "open_ms": 60000}))
        self.dead.close()
        agent.process.signal(signal.SIGSTOP)
        # Or it could not be told to end.
        self.addCleanup(agent.process.signal, signal.SIGCONT)
        return agent

    def test_breaker_opens_within_10_ms_of_the_third_failure(self):
        agent = self.start(self.alive, self.dead)
        status, output = self.cgroup.run([PYTHON, "-c", CROWD, SERVICE, "100"])
        self.assertEqual(status, 0, output)
        report = json.loads(output)
        failures = sorted(report["failed"], key=lambda failure: failure[1])
        third = failures[2][1]
        self.assertLess(max(began for began, _ in failures), third + 0.010, failures)
        self.assertGreater(sum(began > third + 0.010 for began in report["done"]), 400,
                           "most of the crowd came later")
        dead = agent.backends()[self.dead.address]
        self.assertEqual((dead["breaker"]["state"], dead["connects"], dead["connect_failures"]),
                         ("open", len(failures), len(failures)))

    def test_most_of_a_pool_down_is_panic_and_everybody_is_tried(self):
        other = self.enterContext(DelayServer("other"))
        agent = self.start(self.alive, self.dead, other)
        other.close()
        self.assertEqual(self.cgroup.report("count", 9)["failed"], 6)
        listed, = agent.weir_json("backends")["services"]
        self.assertEqual((listed["open"], listed["panic"]), (2, True))
        # In turn whatever the breakers say: a third is answered.
        report = self.cgroup.report("count", 30)
        self.assertEqual(report["by_backend"], {"alive": 10}, report)
        listed, = agent.weir_json("backends")["services"]
        self.assertGreaterEqual(listed["panic_picks"], 29)

    def test_a_service_that_refuses_does_not_panic(self):
        other = self.enterContext(DelayServer("other"))
        agent = self.start(self.alive, self.dead, other, when_empty="refuse")
        other.close()
        self.assertEqual(self.cgroup.report("count", 12)["failed"], 6)
        listed, = agent.weir_json("backends")["services"]
        self.assertEqual((listed["open"], listed["panic"], listed["panic_picks"]), (2, False, 0))
        self.assertEqual(self.cgroup.report("count", 30)["by_backend"], {"alive": 30})

    def test_backup_pool_serves_while_the_primary_is_down(self):
        spare = self.enterContext(DelayServer("spare"))
        agent = self.start(self.dead, backup_backends=[{"address": spare.address}])
        report = self.cgroup.report("count", 20)
        self.assertEqual((report["failed"], report["by_backend"]), (3, {"spare": 17}), report)
        primary, backup = agent.weir_json("backends")["services"]
        self.assertEqual((primary["backup"], backup["name"]), (backup["name"], "chat.backup"))
        self.assertEqual((primary["backup_picks"], primary["misses"]), (17, 0))
        self.assertEqual(agent.backends("chat.backup")[spare.address]["connects"], 17)


class BackupPool(KernelTest):
    def test_it_is_left_when_the_primary_returns(self):
        cgroup = self.enterContext(Cgroup())
        dead, spare = (self.enterContext(DelayServer(n)) for n in ("primary", "spare"))
        address = dead.address
        agent = self.enterContext(Agent(
            cgroup, [service(dead, backup_backends=[{"address": spare.address}])],
            control={**QUICK, "open_ms": 200, "max_open_ms": 200}))
        dead.close()
        wait_until(lambda: cgroup.report("count", 5)["by_backend"].get("spare", 0) > 0,
                   "the backup pool serves", 10)
        self.enterContext(DelayServer("primary", listen=address))
        wait_until(lambda: cgroup.report("count", 20)["by_backend"] == {"primary": 20},
                   "the primary alone serves again", 20)
        self.assertEqual(breaker(agent, address), "closed")
