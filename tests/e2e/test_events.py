# SPDX-License-Identifier: Apache-2.0
"""`weir events` beside real traffic, and `weir explain` against what `weir backends` says."""
import json
import os
import re
import signal
import subprocess

from harness import BIN, BPFTOOL, Cgroup, KernelTest, Process, wait_until
from node import SERVICE_NAME, STILL, Agent, DelayServer, service, wait_idle

WATCHING = re.compile(r"^weir: watching .*$", re.M)


def closed_port():
    """An address on which nobody listens any more."""
    with DelayServer("gone") as server:
        return {"address": server.address}


class Watcher(Process):
    """A `weir` command that streams, once it watches."""

    def __init__(self, agent, *arguments):
        super().__init__([BIN / "weir", "--pin-root", agent.pin_root, *arguments])
        self.wait_for_output(WATCHING)

    def lines(self):
        """The whole lines so far, without the message that the watch has begun."""
        whole = self.output().rpartition("\n")[0].splitlines()
        return [line for line in whole if not WATCHING.match(line)]

    def events(self):
        return [json.loads(line) for line in self.lines()]

    def stop(self, number=signal.SIGTERM):
        self.signal(number)
        return self.wait()


def knobs(agent):
    """The leases, as the kernel's own tool shows them."""
    pin, = agent.pin_root.glob("v*/weir_knobs")
    text = subprocess.run([BPFTOOL, "-j", "map", "dump", "pinned", pin], capture_output=True,
                          text=True, check=True).stdout
    value = json.loads(text)[0]["formatted"]["value"]
    return {name: value[name] for name in ("watch_until_ns", "explain_until_ns",
                                           "trace_until_ns")}


class Events(KernelTest):
    def setUp(self):
        self.cgroup = self.enterContext(Cgroup())
        self.servers = [self.enterContext(DelayServer(n, delay_us=3000)) for n in ("a", "b")]

    def agent(self, *backends, **fields):
        return self.enterContext(
            Agent(self.cgroup, [service(*(backends or self.servers), **fields)], control=STILL))

    def test_every_request_and_close_is_a_line(self):
        agent = self.agent()
        watcher = self.enterContext(Watcher(agent, "events", "--requests", "--json"))
        self.assertEqual(self.cgroup.report("keep", 7)["ok"], 7)
        self.assertEqual(self.cgroup.report("count", 5)["ok"], 5)
        wait_idle(agent)
        wait_until(lambda: sum(e["event"] == "close" for e in watcher.events()) == 6,
                   "the last close is reported")
        self.assertEqual(watcher.stop(), 0)
        events = watcher.events()
        requests = [e for e in events if e["event"] == "request"]
        closes = [e for e in events if e["event"] == "close"]
        self.assertEqual((len(requests), len(closes), len(events)), (12, 6, 18))

        by_cookie = {}
        for request in requests:
            self.assertEqual(request["service"], SERVICE_NAME)
            self.assertIn(request["backend"], [s.address for s in self.servers])
            self.assertIsInstance(request["ttfb_us"], (int, float))  # 3084.0 is written 3084
            self.assertGreaterEqual(request["ttfb_us"], 3000)
            self.assertRegex(request["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
            by_cookie.setdefault(request["cookie"], []).append(request["seq"])
        self.assertEqual(sorted(by_cookie.values(), key=len),
                         [[1]] * 5 + [[1, 2, 3, 4, 5, 6, 7]])
        for close in closes:
            self.assertEqual(close["requests"], len(by_cookie[close["cookie"]]))
            self.assertIsNone(close["error"])
        backends = agent.backends()
        for server in self.servers:
            self.assertEqual(sum(r["backend"] == server.address for r in requests),
                             backends[server.address]["requests"])

    def test_failures_and_the_breaker(self):
        agent = self.agent(closed_port(), when_empty="refuse")
        watcher = self.enterContext(Watcher(agent, "events", "--json", "--count", 4))
        self.assertEqual(self.cgroup.report("count", 3)["failed"], 3)
        self.assertEqual(watcher.wait(), 0)
        events = watcher.events()
        failures = [e for e in events if e["event"] == "failure"]
        self.assertEqual([(f["error"], f["consecutive"]) for f in failures],
                         [("ECONNREFUSED", 1), ("ECONNREFUSED", 2), ("ECONNREFUSED", 3)])
        breaker, = [e for e in events if e["event"] == "breaker"]
        self.assertEqual((breaker["from"], breaker["to"], breaker["level"]), ("closed", "open", 0))

    def test_filters(self):
        agent = self.agent()
        text = self.enterContext(Watcher(agent, "events", "--kind", "request", "--service",
                                         SERVICE_NAME))
        self.assertEqual(self.cgroup.report("keep", 2)["ok"], 2)
        wait_idle(agent)
        wait_until(lambda: len(text.lines()) == 2, "two lines")
        self.assertEqual(text.stop(signal.SIGINT), 0)
        for number, line in enumerate(text.lines(), 1):
            self.assertRegex(line, rf"^\d\d:\d\d:\d\d\.\d{{3}}  request  {SERVICE_NAME}  \S+  "
                                   rf"#{number} of socket \d+: first byte after ")

    def test_leases_end_with_the_watcher(self):
        agent = self.agent()
        nobody = {"watch_until_ns": 0, "explain_until_ns": 0, "trace_until_ns": 0}
        self.assertEqual(knobs(agent), nobody)
        for stop in (signal.SIGTERM, signal.SIGINT):
            watcher = self.enterContext(Watcher(agent, "events", "--requests"))
            held = knobs(agent)
            self.assertEqual([held[n] > 0 for n in nobody], [True, False, True])
            self.assertEqual(watcher.stop(stop), 0)
            self.assertEqual(knobs(agent), nobody)

        # A pipeline whose end goes away, on a service where nothing happens.
        reading, writing = os.pipe()
        quiet = subprocess.Popen([BIN / "weir", "--pin-root", agent.pin_root, "events"],
                                 stdout=writing, stderr=subprocess.PIPE, text=True)
        os.close(writing)
        with quiet:
            self.assertIn("watching", quiet.stderr.readline())
            os.close(reading)
            self.assertEqual(quiet.wait(10), 0)
        self.assertEqual(knobs(agent), nobody)

    def test_a_second_watcher_learns_who_watches(self):
        agent = self.agent()
        first = self.enterContext(Watcher(agent, "events"))
        for command in (("events",), ("explain", SERVICE_NAME)):
            second = agent.weir(*command)
            self.assertEqual((second.returncode, second.stdout), (1, ""), second)
            self.assertIn(f"process {first.pid} watches already", second.stderr)
        self.assertTrue(first.running())
        first.kill()
        third = self.enterContext(Watcher(agent, "events"))
        self.assertEqual(third.stop(), 0)

    def test_a_dead_agent_is_watched_and_a_detached_one_ends_the_watch(self):
        agent = self.agent()
        agent.kill()
        watcher = self.enterContext(Watcher(agent, "events", "--json"))
        self.assertEqual(self.cgroup.report("count", 2)["ok"], 2)
        wait_until(lambda: len(watcher.events()) == 2, "two closes")
        detached = agent.weir("detach")
        self.assertEqual(detached.returncode, 0, detached)
        self.assertEqual(watcher.wait(), 1)
        self.assertIn("the maps were removed", watcher.output())

    def test_used_wrongly(self):
        agent = self.agent()
        for arguments, message in (
                (("events", "--kind", "pick"), '--kind: "pick" is none of close, failure'),
                (("events", "--service", "caht"), 'no service is called "caht"; there is: chat'),
                (("events", "--count", "0"), "--count: must be 1 or more"),
                (("explain",), "SERVICE is required"),
                (("explain", "caht"), 'no service is called "caht"; there is: chat'),
                (("explain", "chat", "--count", "0"), "--count: must be 1 or more"),
                (("explain", "chat", "--one-in", "0"), "--one-in: must be 1 or more"),
                (("explain", "chat", "--count", "few"), "--count")):
            with self.subTest(arguments):
                result = agent.weir(*arguments)
                self.assertEqual((result.returncode, result.stdout), (2, ""), result)
                self.assertIn(message, result.stderr)
        nowhere = subprocess.run([BIN / "weir", "--pin-root", "/sys/fs/bpf/weir-nowhere", "events"],
                                 capture_output=True, text=True, timeout=20)
        self.assertEqual(nowhere.returncode, 1, nowhere)
        self.assertIn("nothing is pinned", nowhere.stderr)


class Explain(KernelTest):
    def setUp(self):
        self.cgroup = self.enterContext(Cgroup())
        self.servers = [self.enterContext(DelayServer(name)) for name in ("a", "b")]
        self.agent = self.enterContext(Agent(
            self.cgroup, [service((self.servers[0], 3), (self.servers[1], 1))], control=STILL))

    def test_explained_picks_are_the_connections_that_were_made(self):
        watcher = self.enterContext(
            Watcher(self.agent, "explain", SERVICE_NAME, "--json", "--count", 40))
        report = self.cgroup.report("count", 40)
        self.assertEqual(watcher.wait(), 0)
        picks = watcher.events()
        self.assertEqual(len(picks), 40)
        backends = self.agent.backends()
        for server in self.servers:
            chosen = sum(p["backend"] == server.address for p in picks)
            self.assertEqual(chosen, report["by_backend"].get(server.name, 0))
            self.assertEqual(chosen, backends[server.address]["connects"])
        for pick in picks:
            self.assertEqual((pick["event"], pick["service"], pick["policy"]),
                             ("pick", SERVICE_NAME, "prequal"))
            for candidate in pick["candidates"]:
                known = backends[candidate["backend"]]
                self.assertAlmostEqual(candidate["weight"], known["weight"], places=3)
                self.assertEqual(candidate["breaker"], "closed")
                self.assertEqual(candidate["picked"], candidate["backend"] == pick["backend"])
            self.assertEqual(sum(c["picked"] for c in pick["candidates"]), 1)

    def test_text_names_both_candidates_and_the_reason(self):
        watcher = self.enterContext(Watcher(self.agent, "explain", SERVICE_NAME, "--count", 20))
        self.cgroup.report("count", 20)
        self.assertEqual(watcher.wait(), 0)
        lines = watcher.lines()
        heads = [l for l in lines if re.match(rf"^\d\d:\d\d:\d\d\.\d+  {SERVICE_NAME} -> ", l)]
        self.assertEqual(len(heads), 20)
        self.assertEqual(sum(line.startswith("    why: ") for line in lines), 20)
        self.assertEqual(sum(line.startswith("  >") for line in lines), 20)
        two = re.compile(r"^(  >|   )  (127\.0\.0\.1:\d+)  load \S+ +(hot|cold)  latency \S+ +"
                         r"weight \S+ +breaker closed$")
        for line in lines:
            self.assertTrue(line in heads or line.startswith("    why: ") or two.match(line), line)
