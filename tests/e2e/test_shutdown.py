# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: what was accepted is finished, then the agent leaves no trace in the kernel."""
import http.client
import json
import signal
import threading
import time

import prometheus
from harness import REFUSED, Cgroup, KernelTest, last_json, wait_until
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
        self.wait_accepted(agent)
        self.assertEqual(agent.stop(), 0, agent.log())
        for client in clients:
            client.join(10)
        done = [c for c in clients if c.status == 200 and c.body.rstrip().endswith(b"data: [DONE]")]
        self.assertEqual(len(done), CLIENTS, [(c.status, c.body[-80:]) for c in clients])

        self.assertEqual(links_of(links), set(), "links outlive the agent")
        self.assertEqual(agent.pins(), [])

    def wait_accepted(self, agent):
        """Waits until the agent says that it accepted all of them."""

        def accepted():
            families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
            return prometheus.value(families, "weir_model_requests_accepted_total") == CLIENTS

        wait_until(accepted, f"{CLIENTS} requests are accepted", 2)

    def test_sigterm_resets_no_connection(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a"))
        agent = self.enterContext(Agent(cgroup, [service(server, (LOCAL, 10))], control=QUICK))
        traffic = self.enterContext(cgroup.traffic("load", 8))
        wait_until(lambda: agent.backends()[agent.http]["requests"] > 200, "the agent is used")
        self.assertEqual(agent.stop(), 0, agent.log())
        traffic.signal(signal.SIGTERM)
        self.assertEqual(traffic.wait(), 0)
        report = last_json(traffic)
        # Refused is what the service address is without steering; cut off is what must not be.
        self.assertLessEqual(set(report["errors"]), {REFUSED}, report)
        self.assertGreater(report["by_backend"]["local"], 200)

    def test_sigterm_when_idle_exits_at_once(self):
        cgroup = self.enterContext(Cgroup())
        agent = self.enterContext(Agent(cgroup, [service(LOCAL)], [model()], control=QUICK))
        start = time.monotonic()
        self.assertEqual(agent.stop(), 0, agent.log())
        self.assertLess(time.monotonic() - start, 2.0)
        self.assertEqual(agent.pins(), [])
        self.assertEqual(agent.status()["agent"]["state"], "none")
