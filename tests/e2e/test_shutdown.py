# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: what was accepted is finished, then the agent leaves no trace in the kernel."""
import http.client
import json
import threading
import time

from harness import Cgroup, KernelTest
from node import (LOCAL, MODEL_NAME, QUICK, Agent, DelayServer, links_of, model, service,
                  wait_ready)

CLIENTS = 6


class Client(threading.Thread):
    """Streams a generation; knows when it was accepted (first event) and how it ended."""

    def __init__(self, address):
        super().__init__()
        host, port = address.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=30)
        self.accepted = threading.Event()
        self.body = b""
        self.status = None

    def run(self):
        self.connection.request("POST", "/v1/completions", json.dumps(
            {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 400, "stream": True,
             "temperature": 1.0}), {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        self.status = response.status
        while piece := response.read1(65536):
            self.body += piece
            self.accepted.set()
        self.connection.close()


class Shutdown(KernelTest):
    def test_sigterm_under_load_finishes_requests_and_removes_pins(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a", 500))
        agent = self.enterContext(
            Agent(cgroup, [service(server)], [model(max_sequences=2)], control=QUICK))
        wait_ready(agent)
        links = [link["link_id"] for link in agent.status()["links"]]
        self.assertEqual(links_of(links), set(links))
        self.assertTrue(agent.pins())

        # Two sequences for six clients: at SIGTERM some stream and the others wait in the queue.
        clients = [Client(agent.http) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        self.assertTrue(clients[0].accepted.wait(10))
        accepted = self.accepted_requests(agent)
        self.assertEqual(agent.stop(), 0, agent.log())
        for client in clients:
            client.join(10)
        done = [c for c in clients if c.status == 200 and c.body.rstrip().endswith(b"data: [DONE]")]
        self.assertGreaterEqual(len(done), accepted, [(c.status, c.body[-80:]) for c in clients])

        self.assertEqual(links_of(links), set(), "links outlive the agent")
        self.assertEqual(agent.pins(), [])

    def accepted_requests(self, agent):
        """What the agent says that it accepted, once it is all six; or as many as came in 1 s."""
        deadline = time.monotonic() + 1
        accepted = 0
        while accepted < CLIENTS and time.monotonic() < deadline:
            for line in agent.request("GET", "/metrics").body.decode().splitlines():
                name, _, value = line.rpartition(" ")
                if name.startswith("weir_model_requests_accepted_total"):
                    accepted = int(float(value))
        self.assertEqual(accepted, CLIENTS)
        return accepted

    def test_sigterm_when_idle_exits_at_once(self):
        cgroup = self.enterContext(Cgroup())
        agent = self.enterContext(Agent(cgroup, [service(LOCAL)], [model()], control=QUICK))
        start = time.monotonic()
        self.assertEqual(agent.stop(), 0, agent.log())
        self.assertLess(time.monotonic() - start, 2.0)
        self.assertEqual(agent.pins(), [])
        self.assertEqual(agent.status()["agent"]["state"], "none")
