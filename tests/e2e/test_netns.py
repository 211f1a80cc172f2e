# SPDX-License-Identifier: Apache-2.0
"""Agent, client and backends in a network namespace of their own, as in a container."""
import json

from harness import SERVICE, Cgroup, KernelTest, NetworkNamespace, Process
from node import LOCAL, MODEL_NAME, STILL, Agent, DelayServer, model, service, wait_idle

CONNECTIONS = 300


class Netns(KernelTest):
    def test_agent_client_and_backends_in_their_own_namespace(self):
        netns = self.enterContext(NetworkNamespace()).name
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a", netns=netns))
        # By weight alone, so that both are used.
        agent = self.enterContext(
            Agent(cgroup, [service(server, LOCAL, policy="weighted_random")], [model()],
                  control=STILL, netns=netns))

        report = cgroup.report("count", CONNECTIONS, netns=netns)
        self.assertEqual((report["ok"], report["failed"]), (CONNECTIONS, 0), report)
        self.assertEqual(set(report["by_backend"]), {"a", "local"}, report)
        wait_idle(agent)
        backends = agent.backends()
        self.assertEqual(backends[server.address]["requests"], report["by_backend"]["a"])
        self.assertEqual(backends[agent.http]["requests"], report["by_backend"]["local"])

        ask = {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 8}
        with Process(["curl", "-sS", "-m", "20", "-H", "Content-Type: application/json",
                      "-d", json.dumps(ask), f"http://{agent.http}/infer"], netns=netns) as curl:
            self.assertEqual(curl.wait(30), 0, curl.output())
            self.assertEqual(json.loads(curl.output())["usage"]["completion_tokens"], 8)
        self.assertEqual(agent.stop(), 0, agent.log())
        self.assertEqual(agent.pins(), [], SERVICE)
