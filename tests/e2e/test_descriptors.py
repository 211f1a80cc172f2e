# SPDX-License-Identifier: Apache-2.0
"""The soft limit of descriptors, 1024 on most systems, does not bound the connections."""
import resource
import socket
import unittest

from node import Agent

CONNECTIONS = 300
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: weir\r\n\r\n"


class Descriptors(unittest.TestCase):
    def start(self, soft, **serve):
        """An agent that begins with so many."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
        try:
            return self.enterContext(Agent(serve=serve))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def test_more_connections_than_the_soft_limit_are_answered(self):
        agent = self.start(200)
        host, port = agent.http.rsplit(":", 1)
        clients = [self.enterContext(socket.create_connection((host, int(port)), 10))
                   for _ in range(CONNECTIONS)]
        for client in clients:
            client.sendall(HEALTH)
        for client in clients:
            self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 200 "))

    def test_more_than_the_hard_limit_is_told_at_the_start(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if not 0 < hard < 1048576:
            self.skipTest(f"no max_connections is above the hard limit of {hard}")
        agent = self.start(200, max_connections=1048576)
        self.assertRegex(agent.log(), rf"level=warning .*serve.max_connections.* limit={hard} ")
