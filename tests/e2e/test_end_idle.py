# SPDX-License-Identifier: Apache-2.0
"""end_idle_when_open: a client that keeps its connections leaves a backend that is taken out.

The dying backend here closes its listener only; what it has accepted it goes on serving, as a
process does that drains, or whose accept loop is stuck. Without the option its clients would stay.
"""
import json
import subprocess
import sys

from harness import PYTHON, SERVICE, Cgroup, KernelTest, Resource, wait_until
from node import QUICK, Agent, service

POOLED = 8  # of these, half go to each backend by turns

# Answers with its name for as long as its stdin is open; the first line on it closes the listener.
SERVER = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)

def serve(connection):
    answer = "HTTP/1.1 200 OK\\r\\nX-Backend: %s\\r\\nContent-Length: 0\\r\\n\\r\\n" % sys.argv[1]
    with connection, connection.makefile("rb") as reader:
        try:
            while line := reader.readline():
                if line == b"\\r\\n":
                    connection.sendall(answer.encode())
        except ConnectionResetError:
            pass  # how a connection ends that is ended at its other end

def accept():
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(connection,), daemon=True).start()

threading.Thread(target=accept, daemon=True).start()
if sys.stdin.readline():
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    print("closed", flush=True)
    sys.stdin.read()
"""

# A pool of connections, as HTTP clients have it: who was told that one is gone dials again, once.
# For each line on stdin, a request on every connection; a line of JSON says what became of them.
CLIENT = """
import errno, http.client, json, sys
host, port = sys.argv[1].split(":")

def ask(connection):
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    return response.headers["X-Backend"]

def dial():
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.connect()
    return connection

pool = [dial() for _ in range(int(sys.argv[2]))]
while sys.stdin.readline():
    by, redialled, errors = [], [], []
    for i, connection in enumerate(pool):
        try:
            by.append(ask(connection))
        except OSError as error:
            errors.append(errno.errorcode[error.errno])
            connection.close()
            pool[i] = dial()
            by.append(ask(pool[i]))
            redialled.append(i)
    print(json.dumps({"by": by, "redialled": redialled, "errors": errors}), flush=True)
"""


class Talking(Resource):
    """A program that is told something on its stdin and answers on its stdout, line by line."""

    def __init__(self, text, *arguments, cgroup=None):
        argv = [PYTHON, "-c", text, *map(str, arguments)]
        if cgroup is not None:
            argv = ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup.path),
                    *argv]
        self.popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=sys.stderr, text=True)
        super().__init__()

    def line(self):
        return self.popen.stdout.readline()

    def tell(self):
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()
        return self.line()

    def _release(self):
        self.popen.kill()
        self.popen.wait()
        self.popen.stdin.close()
        self.popen.stdout.close()


class EndIdle(KernelTest):
    def setUp(self):
        self.cgroup = self.enterContext(Cgroup())
        self.staying = self.enterContext(Talking(SERVER, "staying"))
        self.dying = self.enterContext(Talking(SERVER, "dying"))
        self.addresses = [f"127.0.0.1:{s.line().strip()}" for s in (self.staying, self.dying)]

    def start(self, **fields):
        """The agent, and a client whose pooled connections are idle, half of them to each."""
        agent = self.enterContext(Agent(
            self.cgroup, [service(*({"address": a} for a in self.addresses),
                                  policy="round_robin", **fields)],
            control={**QUICK, "open_ms": 60000}))
        client = self.enterContext(Talking(CLIENT, SERVICE, POOLED, cgroup=self.cgroup))
        before = json.loads(client.tell())
        self.assertEqual((before["by"].count("dying"), before["errors"]), (POOLED // 2, []))
        # Silence for a second is the end of a response; the next recount, 5 s at most, says so.
        wait_until(lambda: agent.total("streaming") == 0, "the connections are idle", 10)
        return agent, client, before

    def take_out(self, agent):
        self.assertEqual(self.dying.tell().strip(), "closed")
        report = self.cgroup.report("count", 12)
        self.assertEqual((report["failed"], report["by_backend"]), (3, {"staying": 9}), report)
        self.assertEqual(agent.backends()[self.addresses[1]]["breaker"]["state"], "open")

    def test_pooled_connections_to_a_backend_taken_out_are_ended_and_dialled_again(self):
        agent, client, before = self.start(end_idle_when_open=True)
        self.take_out(agent)
        wait_until(lambda: agent.backends()[self.addresses[1]]["in_flight"] == 0,
                   "idle connections to the dying backend are ended", 5)
        self.assertEqual(agent.backends()[self.addresses[1]]["idle_ended"], POOLED // 2)
        line = (f"idle connections ended service=chat backend={self.addresses[1]} "
                f"connections={POOLED // 2}")
        wait_until(lambda: line in agent.log(), line, 5)

        after = json.loads(client.tell())
        self.assertEqual(after["by"], ["staying"] * POOLED)
        self.assertEqual(after["redialled"],
                         [i for i, name in enumerate(before["by"]) if name == "dying"])
        self.assertEqual(after["errors"], ["ECONNABORTED"] * (POOLED // 2))
        staying = agent.backends()[self.addresses[0]]
        self.assertEqual((staying["idle_ended"], staying["in_flight"]), (0, POOLED))
        self.assertEqual(json.loads(client.tell())["errors"], [], "the new ones stay")

    def test_without_the_option_they_stay(self):
        agent, client, before = self.start()
        self.take_out(agent)
        wait_until(lambda: "to=open" in agent.log(), "the agent has seen it", 5)
        after = json.loads(client.tell())
        self.assertEqual((after["by"], after["errors"]), (before["by"], []))
        self.assertEqual(agent.total("idle_ended"), 0)
