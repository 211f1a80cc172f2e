# SPDX-License-Identifier: Apache-2.0
"""--takeover: one agent replaces another under load, and no client notices."""
import collections
import contextlib
import http.client
import json
import pathlib
import re
import resource
import select
import shutil
import signal
import socket
import threading
import time

import prometheus
from harness import (BIN, PYTHON, SERVICE, Cgroup, KernelTest, Process, Scratch, last_json,
                     wait_until)
from node import (LOCAL, MODEL_NAME, QUICK, Agent, DelayServer, model, service, wait_idle,
                  wait_ready)

KEEPALIVE = pathlib.Path(__file__).resolve().parent / "keepalive.py"
READY = re.compile(r"agent ready ")


def free_port():
    """A port that two agents can be given; the kernel hands it to nobody else so soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Streams(threading.Thread):
    """One streamed generation after another, each on a new connection, until stop()."""

    def __init__(self, address):
        super().__init__()
        self.address = address
        self.spans = []  # (first byte sent, last byte received), by time.monotonic()
        self.errors = collections.Counter()
        self._ended = threading.Event()

    def run(self):
        host, port = self.address.rsplit(":", 1)
        body = json.dumps({"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 300,
                           "stream": True, "temperature": 1.0})
        while not self._ended.is_set():
            begin = time.monotonic()
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            try:
                connection.request("POST", "/v1/completions", body,
                                   {"Content-Type": "application/json"})
                response = connection.getresponse()
                text = response.read()
                if response.status != 200 or not text.rstrip().endswith(b"data: [DONE]"):
                    raise ValueError(f"{response.status} {text[-80:]}")
                self.spans.append((begin, time.monotonic()))
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.errors[repr(error)] += 1
            finally:
                connection.close()

    def stop(self):
        self._ended.set()
        self.join(40)


class Connects(threading.Thread):
    """One connection after another to the agent's own port, a request on each, until stop()."""

    def __init__(self, address):
        super().__init__()
        host, port = address.rsplit(":", 1)
        self.address = host, int(port)
        self.done = 0
        self.errors = collections.Counter()
        self._ended = threading.Event()

    def run(self):
        while not self._ended.wait(0.001):
            try:
                with socket.create_connection(self.address, timeout=10) as sock:
                    sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")
                    answer = b""
                    while piece := sock.recv(4096):
                        answer += piece
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise ValueError(repr(answer))
                self.done += 1
            except (OSError, ValueError) as error:
                self.errors[repr(error)] += 1

    def stop(self):
        self._ended.set()
        self.join(20)


def metrics_sum(agent, name):
    """Over all threads."""
    families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
    return sum(families[name]["samples"].values())


@contextlib.contextmanager
def running(thread):
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


class Takeover(KernelTest):
    def setUp(self):
        self.cgroup = self.enterContext(Cgroup())
        self.server = self.enterContext(DelayServer("a", 300))
        self.port = free_port()

    def agent(self, **sections):
        return self.enterContext(
            Agent(self.cgroup, [service(self.server, LOCAL)], control=QUICK,
                  serve={"http": f"127.0.0.1:{self.port}"}, **sections))

    def successor(self, agent, *flags):
        return self.enterContext(
            Process([BIN / "weir-agent", "--config", agent.config_path, *flags]))

    def take_over(self, agent):
        """The successor takes the predecessor's place in `agent`, which must exit with 0."""
        old = agent.process
        new = self.successor(agent, "--takeover")
        new.wait_for_output(READY, 30)
        self.assertEqual(old.wait(20), 0, old.output())
        self.assertIn("agent handed over", old.output())
        self.assertIn("kernel=adopted", new.output())
        agent.process = new

    def cgroup_links(self, agent):
        return {link["name"]: link["link_id"] for link in agent.status()["links"]
                if link["attach_type"].startswith("cgroup_")}

    def test_takeover_under_load_loses_nothing(self):
        agent = self.agent(models=[model(max_sequences=2)])
        wait_ready(agent)
        links = self.cgroup_links(agent)
        steered = self.enterContext(self.cgroup.traffic("load", 3))
        kept = self.enterContext(Process([PYTHON, KEEPALIVE, SERVICE, 4], cgroup=self.cgroup))
        with running(Streams(agent.http)) as streams, running(Streams(agent.http)) as more, \
                running(Connects(agent.http)) as connects:
            wait_until(lambda: connects.done > 50 and agent.total("requests") > 200, "all load runs")
            pids, handed_over = [agent.process.pid], []
            for _ in range(3):
                asked = time.monotonic()
                self.take_over(agent)
                handed_over.append((asked, time.monotonic()))
                pids.append(agent.process.pid)
                self.assertEqual(agent.status()["agent"]["pid"], agent.process.pid)
                done, requests = connects.done, agent.total("requests")
                wait_until(lambda: connects.done > done + 50 and
                           agent.total("requests") > requests + 200, "the successor serves")
        self.assertEqual(len(set(pids)), 4)
        self.assertEqual(connects.errors, {})
        self.assertEqual(streams.errors + more.errors, {})
        spans = streams.spans + more.spans
        for asked, done in handed_over:
            self.assertTrue(any(begin < done and end > asked for begin, end in spans),
                            "no stream was under way in a takeover")

        steered.signal(signal.SIGTERM)
        kept.signal(signal.SIGTERM)
        self.assertEqual(steered.wait(), 0)
        self.assertEqual(kept.wait(), 0)
        report, keeper = last_json(steered), last_json(kept)
        self.assertEqual((report["failed"], report["errors"]), (0, {}), report)
        self.assertEqual(keeper["errors"], {}, keeper)
        self.assertGreater(keeper["requests"], 500)
        self.assertGreater(report["by_backend"]["local"], 100)

        # Steering never stopped, and every connection was counted once, in and out.
        self.assertEqual(self.cgroup_links(agent), links)
        wait_idle(agent)
        self.assertEqual(agent.total("connects"), report["ok"] + keeper["connections"])
        self.assertEqual(agent.total("established"), report["ok"] + keeper["connections"])
        self.assertEqual(agent.total("connect_failures"), 0)
        self.assertEqual(agent.stop(), 0, agent.log())
        self.assertEqual(agent.pins(), [])

    def test_idle_connection_is_sent_on_not_cut(self):
        agent = self.agent()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        old, new = agent.process, self.successor(agent, "--takeover")
        new.wait_for_output(READY, 30)
        # On the connection that the old one accepted. It may still be about to hand over.
        def told_to_close():
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            self.assertEqual((response.status, response.read()), (200, b"ok\n"))
            return response.getheader("Connection") == "close"
        wait_until(told_to_close, "the old agent asks for the connection back", 5)
        connection.close()
        self.assertEqual(old.wait(5), 0, old.output())
        agent.process = new

    def test_queued_connections_move_to_the_successor(self):
        agent = self.agent()
        # Without file descriptors it cannot accept: its queue fills.
        used = [int(fd.name) for fd in pathlib.Path(f"/proc/{agent.process.pid}/fd").iterdir()]
        _, hard = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (max(used) + 1, hard))
        clients = []
        for _ in range(2 * max(used)):  # more than it can accept with what it lets go of
            client = self.enterContext(socket.create_connection(("127.0.0.1", self.port), 10))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: weir\r\n\r\n")
            clients.append(client)
        accepted = max(used) + 1 - len(used)  # those that found a descriptor
        wait_until(lambda: len(select.select(clients, [], [], 0)[0]) == accepted,
                   "what can be accepted is answered")
        old, new = agent.process, self.successor(agent, "--takeover")
        new.wait_for_output(READY, 30)
        for client in clients:
            self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 200 "))
            client.close()
        self.assertGreater(metrics_sum(agent, "weir_listener_taken_over_total"), 0)
        self.assertEqual(old.wait(20), 0, old.output())
        agent.process = new

    def test_successor_with_more_backends_takes_over_as_quickly(self):
        agent = self.agent()
        report = self.cgroup.report("count", 50)
        wide = [{"name": f"wide-{n}", "address": f"127.111.1.{n}:80",
                 "backends": [{"address": f"127.111.2.{n}:{port}"} for port in range(1, 65)]}
                for n in range(1, 6)]
        agent.configure(services=[service(self.server, LOCAL), *wide])
        steered = self.enterContext(self.cgroup.traffic("load", 3))
        wait_until(lambda: agent.total("connects") > report["ok"] + 50, "traffic runs")
        old = agent.process
        self.take_over(agent)  # into larger maps
        self.assertNotIn("steering on", old.output())
        connects = agent.total("connects")
        wait_until(lambda: agent.total("connects") > connects + 100, "the successor steers")
        steered.signal(signal.SIGTERM)
        self.assertEqual(steered.wait(), 0)
        self.assertEqual(last_json(steered)["errors"], {})
        wait_idle(agent)
        self.assertEqual(agent.total("connects"), report["ok"] + last_json(steered)["ok"])

    def test_takeover_of_nobody_is_an_ordinary_start(self):
        agent = self.agent()
        self.assertEqual(agent.stop(), 0)
        agent.process = self.successor(agent, "--takeover")
        agent.process.wait_for_output(READY, 20)
        self.assertIn("no agent to take over from", agent.log())
        self.assertEqual(self.cgroup.report("count", 5)["failed"], 0)

    def test_second_agent_on_the_port_is_refused_without_takeover(self):
        agent = self.agent()
        second = self.successor(agent)
        self.assertEqual(second.wait(), 1)
        self.assertIn(f"cannot listen on 127.0.0.1:{self.port}", second.output())
        self.assertIn("--takeover", second.output())
        self.assertEqual(agent.request("GET", "/healthz").status, 200)

    def test_takeover_elsewhere_is_refused(self):
        agent = self.agent()
        agent.configure(serve={"http": f"127.0.0.1:{free_port()}"})
        second = self.successor(agent, "--takeover")
        self.assertEqual(second.wait(), 1)
        self.assertIn("no agent listens on 127.0.0.1:", second.output())
        agent.configure(serve={"http": "127.0.0.1:0"})
        third = self.successor(agent, "--takeover")
        self.assertEqual(third.wait(), 1)
        self.assertIn("serve.http", third.output())
        self.assertEqual(agent.request("GET", "/healthz").status, 200)

    def test_successor_that_cannot_load_its_model_does_not_take_over(self):
        agent = self.agent(models=[model()])
        wait_ready(agent)
        damaged = agent.config_path.parent / "damaged.gguf"
        damaged.write_bytes(b"GGUF" + bytes(64))
        agent.configure(models=[model(path=str(damaged))])
        second = self.successor(agent, "--takeover")
        self.assertEqual(second.wait(20), 1, second.output())
        self.assertIn("could not be loaded: ", second.output())
        self.assertNotIn("handing over", agent.log())
        # Nothing will free the memory that this one lacks: no reason to wait.
        agent.configure(models=[model()], registry={"memory_bytes": 1048576})
        third = self.successor(agent, "--takeover")
        self.assertEqual(third.wait(20), 1, third.output())
        self.assertIn("could not be loaded: ", third.output())
        self.assertIn("memory_bytes", third.output())
        self.assertNotIn("handing over", agent.log())
        self.assertEqual(agent.request("GET", "/readyz").status, 200)

    def test_successor_can_be_stopped_while_it_loads(self):
        agent = self.agent()
        # Beside an agent of its own, a trial that does not come to an end.
        folder = self.enterContext(Scratch()).path
        shutil.copy(BIN / "weir-agent", folder)
        trial = folder / "weir-load-trial"
        trial.write_text('#!/bin/sh\n: > "${0%/*}/begun"\nexec sleep 60\n')
        trial.chmod(0o755)
        agent.configure(models=[model()])
        for number in (signal.SIGINT, signal.SIGTERM):
            second = self.enterContext(Process(
                [folder / "weir-agent", "--config", agent.config_path, "--takeover"]))
            begun = folder / "begun"
            wait_until(begun.exists, "the trial runs")
            begun.unlink()
            second.signal(number)
            self.assertEqual(second.wait(10), 1, second.output())
            self.assertIn("told to stop", second.output())
        self.assertNotIn("handing over", agent.log())
        self.assertEqual(agent.request("GET", "/healthz").status, 200)

    def test_agent_that_does_not_answer_serves_on(self):
        agent = self.agent()
        agent.process.signal(signal.SIGSTOP)
        second = self.successor(agent, "--takeover")
        try:
            self.assertEqual(second.wait(30), 1)
        finally:
            agent.process.signal(signal.SIGCONT)
        self.assertIn("the running agent did not hand over", second.output())
        self.assertRegex(second.output(), rf"\b{agent.process.pid}\b")
        for _ in range(20):
            self.assertEqual(agent.request("GET", "/healthz").status, 200)
        self.assertEqual(self.cgroup.report("count", 20)["failed"], 0)
        self.take_over(agent)  # it still can

    def test_agent_takes_the_pins_back_from_a_successor_that_dies(self):
        agent = self.agent()
        links = self.cgroup_links(agent)
        steered = self.enterContext(self.cgroup.traffic("load", 2))
        second = self.successor(agent, "--takeover")
        wait_until(lambda: "handing over" in agent.log(), "the takeover begins", period=0.001)
        second.kill()
        wait_until(lambda: "steering on" in agent.log(), "the pins are taken back")
        self.assertTrue(agent.process.running())
        self.assertEqual(agent.status()["agent"]["pid"], agent.process.pid)
        requests = agent.total("requests")
        wait_until(lambda: agent.total("requests") > requests + 100, "it serves on")
        steered.signal(signal.SIGTERM)
        self.assertEqual(steered.wait(), 0)
        self.assertEqual(self.cgroup_links(agent), links)
        self.take_over(agent)

    def test_kernel_steers_on_when_the_successor_dies_afterwards(self):
        agent = self.agent()
        self.take_over(agent)
        links = self.cgroup_links(agent)
        agent.kill()
        self.assertEqual(self.cgroup_links(agent), links)
        report = self.cgroup.report("count", 40)
        self.assertGreater(report["by_backend"]["a"], 5)  # the local one is gone
        agent.start()
        self.assertEqual(agent.http, f"127.0.0.1:{self.port}")
        self.assertIn("kernel=adopted", agent.log())

    def test_metrics_tell_the_listeners(self):
        agent = self.agent()
        families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        for thread in ("0", "1"):
            prometheus.value(families, "weir_listener_depth", thread=thread)
        self.assertEqual(metrics_sum(agent, "weir_listener_connections"), 1)  # this very one
        self.assertEqual(metrics_sum(agent, "weir_listener_taken_over_total"), 0)
