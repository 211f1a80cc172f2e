# SPDX-License-Identifier: Apache-2.0
"""Who waits for a model: leaves at once, is late at its instant, and is served by level."""
import ctypes
import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import prometheus
from harness import KernelTest, Resource, wait_until
from node import Agent, model, wait_ready

# A stream of half a minute: far beyond what the model was trained for, it does not find an end.
LONG = {"prompt": "a " * 1000, "max_tokens": 6000, "temperature": 0, "stream": True}
SHORT = {"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0}
# The name is in every event: a stream is some hundred kilobytes sooner.
NAME = "m" * 128


class PrivateNetwork(Resource):
    """Moves this thread, and what it starts, into a network namespace whose sockets take little.

    Elsewhere the kernel would take four megabytes for a client that does not read.
    """

    _NEW_NETWORK = 0x40000000  # CLONE_NEWNET
    _libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self):
        self._before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        if self._libc.unshare(self._NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        super().__init__()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        pathlib.Path("/proc/sys/net/ipv4/tcp_wmem").write_text("4096 16384 65536")

    def _release(self):
        self._libc.setns(self._before, self._NEW_NETWORK)
        os.close(self._before)


class Client:
    """One request on a raw socket, which can be left unread, or closed at any time."""

    def __init__(self, agent, body, receive_buffer=None):
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(30)
        host, port = agent.http.split(":")
        self._socket.connect((host, int(port)))
        text = json.dumps(body).encode()
        self._socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n"
                             b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                             % (len(text), text))

    def read(self, most=65536):
        return self._socket.recv(most)

    def read_all(self):
        whole = b""
        while piece := self.read():
            whole += piece
        return whole

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Queue(KernelTest):
    def start(self, sequences=1, **fields):
        self.agent = self.enterContext(Agent(models=[
            model(name=NAME, max_sequences=sequences, context_tokens=8192, **fields)]))
        wait_ready(self.agent)

    def client(self, body, **options):
        return self.enterContext(Client(self.agent, body, **options))

    def value(self, name, **labels):
        reply = self.agent.request("GET", "/metrics")
        metrics = prometheus.parse(reply.body.decode())
        return prometheus.value(metrics, "weir_model_" + name, model=NAME, **labels)

    def wait_for(self, number, name, seconds=10):
        wait_until(lambda: self.value(name) == number, f"{name} is {number}", seconds)

    def wait_for_more(self, name, than):
        wait_until(lambda: self.value(name) > than, f"{name} is more than {than}")

    def block(self):
        """A stream that holds the only sequence: nobody is more urgent, so it is not parked."""
        blocker = self.client({**LONG, "priority": 0})
        self.assertIn(b" 200 ", blocker.read(1024))
        return blocker

    def test_closed_sockets_leave_the_queue_while_another_generates(self):
        self.start()
        blocker = self.block()
        waiting = [self.client(SHORT) for _ in range(3)]
        self.wait_for(3, "queued")
        for client in waiting:
            client.close()
        self.wait_for(0, "queued")
        self.assertEqual(self.value("requests_finished_total", outcome="cancelled"), 3)
        self.assertEqual(self.value("running"), 1, "the stream ended too early for this test")
        blocker.close()
        self.wait_for(0, "running")

    def test_closed_socket_frees_its_sequence(self):
        self.start()
        blocker = self.block()
        last = self.client(SHORT)
        self.wait_for(1, "queued")
        begun = time.monotonic()
        blocker.close()
        self.assertIn(b'"finish_reason"', last.read_all())
        self.assertLess(time.monotonic() - begun, 2)
        self.assertEqual(self.value("requests_finished_total", outcome="cancelled"), 1)

    def test_deadline_passes_while_the_engine_is_busy(self):
        self.start()
        self.block()
        begun = time.monotonic()
        reply = self.agent.request("POST", "/v1/completions", {**SHORT, "deadline_ms": 300})
        taken = time.monotonic() - begun
        self.assertEqual((reply.status, reply.json()["error"]["code"]), (429, "deadline"))
        self.assertGreaterEqual(taken, 0.3)
        self.assertLess(taken, 1.5)
        self.assertEqual(self.value("requests_finished_total", outcome="expired"), 1)
        self.assertEqual(self.value("running"), 1, "the stream ended too early for this test")

    def test_urgent_ones_go_first_when_there_is_no_room(self):
        self.start()
        blocker = self.block()
        ends, threads = [], []

        def ask(priority):
            reply = self.agent.request("POST", "/v1/completions", {**SHORT, "priority": priority})
            ends.append((time.monotonic(), priority, reply.status))

        for priority in (6, 6, 6, 6, 4, 1, 1, 1):
            threads.append(threading.Thread(target=ask, args=(priority,)))
            threads[-1].start()
        self.wait_for(8, "queued")
        blocker.close()
        for thread in threads:
            thread.join(30)
        self.assertEqual([(p, s) for _, p, s in sorted(ends)],
                         [(1, 200)] * 3 + [(4, 200)] + [(6, 200)] * 4)

    def test_a_level_has_its_own_bound(self):
        self.start(queue={"levels": [{"level": 6, "max_requests": 2}], "max_tokens": 7000})
        self.block()
        for _ in range(2):
            self.client({**SHORT, "priority": 6})
        self.wait_for(2, "queued")
        reply = self.agent.request("POST", "/v1/completions", {**SHORT, "priority": 6})
        self.assertEqual((reply.status, reply.json()["error"]["code"]), (429, "queue_full"))
        self.assertIn("requests of the level", reply.json()["error"]["message"])
        self.client({**SHORT, "priority": 5})
        self.wait_for(3, "queued")
        reply = self.agent.request("POST", "/v1/completions", {**SHORT, "max_tokens": 6900})
        self.assertIn("bound: tokens", reply.json()["error"]["message"])
        self.assertEqual(self.value("requests_refused_total", reason="queue_full"), 2)

    def test_slow_reader_holds_nobody_up(self):
        self.enterContext(PrivateNetwork())
        self.start(sequences=2)
        slow = self.client(LONG, receive_buffer=4096)
        # A megabyte may wait for a client, and its sequence rests from half of that on.
        self.wait_for(1, "resting", 60)
        tokens = self.value("completion_tokens_total")
        for _ in range(3):
            self.assertIn(b"[DONE]", self.client({**SHORT, "stream": True}).read_all())
        # Nothing was generated for it meanwhile; 60 at most for each of the others.
        self.assertLessEqual(self.value("completion_tokens_total") - tokens, 3 * 60)
        self.assertEqual(self.value("resting"), 1)
        # When it reads again, it goes on.
        read = 0
        while self.value("resting"):
            for _ in range(50):
                read += len(slow.read())
            self.assertLess(read, 3_000_000)
        self.wait_for_more("completion_tokens_total", tokens + 3 * 60)
