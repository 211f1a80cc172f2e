# SPDX-License-Identifier: Apache-2.0
"""Whatever client a process in the cgroup uses, its connects to the service reach a backend."""
import shutil
import unittest

from harness import PYTHON, SERVICE, Cgroup, KernelTest, request
from node import STILL, Agent, DelayServer, service

HTTP_CLIENT = """
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], timeout=10)
c.request("GET", "/healthz")
print(c.getresponse().headers["x-backend"], "%s:%d" % c.sock.getpeername())
"""

MAPPED_CLIENT = """
import socket, sys
host, port = sys.argv[1].split(":")
s = socket.socket(socket.AF_INET6)
s.settimeout(10)
s.connect(("::ffff:" + host, int(port)))
s.sendall(b"GET / HTTP/1.1\\r\\nHost: weir\\r\\nConnection: close\\r\\n\\r\\n")
data = b""
while b"\\r\\n\\r\\n" not in data:
    data += s.recv(4096)
print([l for l in data.decode().splitlines() if l.startswith("x-backend")][0], s.getpeername()[:2])
"""

NODE_CLIENT = """
require('http').get('http://' + process.argv[1] + '/', (r) => {
  console.log(r.headers['x-backend'] + ' ' + r.socket.remoteAddress + ':' + r.socket.remotePort);
  r.resume();
}).on('error', (e) => { console.log(e.message); process.exit(1); });
"""


class Steering(KernelTest):
    def setUp(self):
        self.cgroup = self.enterContext(Cgroup())
        self.server = self.enterContext(DelayServer("a"))
        self.agent = self.enterContext(
            Agent(self.cgroup, [service(self.server)], control=STILL))

    def test_python_client_sees_backend_behind_service_address(self):
        status, output = self.cgroup.run([PYTHON, "-c", HTTP_CLIENT, SERVICE])
        self.assertEqual((status, output.split()), (0, ["a", SERVICE]))

    def test_v4_mapped_ipv6_socket_goes_through_the_v4_table(self):
        status, output = self.cgroup.run([PYTHON, "-c", MAPPED_CLIENT, SERVICE])
        host, port = SERVICE.split(":")
        self.assertEqual((status, output.strip()),
                         (0, f"x-backend: a ('::ffff:{host}', {port})"))

    @unittest.skipUnless(shutil.which("curl"), "no curl")
    def test_curl(self):
        status, output = self.cgroup.run(
            ["curl", "-sS", "-m", "10", "-o", "/dev/null", "-D", "-",
             "-w", "peer %{remote_ip}:%{remote_port}", f"http://{SERVICE}/"])
        self.assertEqual(status, 0, output)
        self.assertRegex(output.lower(), r"\r?\nx-backend: a\r?\n")
        self.assertTrue(output.endswith(f"peer {SERVICE}"), output)

    @unittest.skipUnless(shutil.which("node"), "no node")
    def test_node(self):
        status, output = self.cgroup.run(["node", "-e", NODE_CLIENT, SERVICE])
        self.assertEqual((status, output.split()), (0, ["a", SERVICE]))

    def test_processes_outside_the_cgroup_are_left_alone(self):
        with self.assertRaises(ConnectionRefusedError):
            request(SERVICE, "GET", "/")
        self.assertEqual(self.agent.total("connects"), 0)

    def test_other_addresses_are_left_alone(self):
        report = self.cgroup.report("count", 3, address=self.server.address)
        self.assertEqual(report["by_backend"], {"a": 3})
        self.assertEqual(self.agent.total("connects"), 0)
