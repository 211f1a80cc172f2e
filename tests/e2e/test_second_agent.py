# SPDX-License-Identifier: Apache-2.0
"""One agent per pin root: a second one refuses and names the first."""
import subprocess

from harness import BIN, Cgroup, KernelTest
from node import STILL, Agent, DelayServer, service


class SecondAgent(KernelTest):
    def test_second_agent_refuses_with_the_pid_of_the_first(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a"))
        agent = self.enterContext(Agent(cgroup, [service(server)], control=STILL))
        pins = agent.pins()
        second = subprocess.run([BIN / "weir-agent", "--config", agent.config_path],
                                capture_output=True, text=True, timeout=20)
        self.assertNotIn(second.returncode, (0, 2), second)
        self.assertRegex(second.stderr, rf"\b{agent.process.pid}\b")
        self.assertTrue(agent.process.running())
        self.assertEqual(agent.pins(), pins)
        self.assertEqual(cgroup.report("count", 5)["by_backend"], {"a": 5})
