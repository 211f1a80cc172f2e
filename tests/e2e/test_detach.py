# SPDX-License-Identifier: Apache-2.0
"""`weir detach` removes what a dead agent left, and nothing else."""
import subprocess
import tempfile

from harness import BIN, BPFTOOL, SERVICE, Cgroup, KernelTest
from node import STILL, Agent, DelayServer, links_of, service


class Detach(KernelTest):
    def test_detach_after_kill_removes_only_our_pins(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a"))
        agent = self.enterContext(Agent(cgroup, [service(server)], control=STILL))
        links = [link["link_id"] for link in agent.status()["links"]]
        agent.kill()
        self.assertEqual(links_of(links), set(links))
        self.assertEqual(cgroup.report("count", 5)["ok"], 5)

        foreign = agent.pin_root / "foreign"
        subprocess.run([BPFTOOL, "map", "create", foreign, "type", "array", "key", "4", "value",
                        "4", "entries", "1", "name", "foreign"], check=True, capture_output=True)
        result = agent.weir("detach")
        self.assertEqual(result.returncode, 0, result)
        self.assertEqual(links_of(links), set())
        self.assertEqual(agent.pins(), [foreign])
        self.assertEqual(cgroup.report("count", 5)["failed"], 5, f"{SERVICE} is still steered")

        again = agent.weir("detach")
        self.assertEqual(again.returncode, 0, again)
        self.assertEqual(agent.pins(), [foreign])

    def test_what_cannot_be_read_is_not_called_empty(self):
        with tempfile.NamedTemporaryFile() as file:
            result = subprocess.run([BIN / "weir", "--pin-root", file.name, "detach"],
                                    capture_output=True, text=True, timeout=20)
            self.assertEqual((result.returncode, result.stdout), (1, ""), result)
            self.assertIn(f"cannot read {file.name}: Not a directory", result.stderr)

    def test_detach_refuses_while_the_agent_runs(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a"))
        agent = self.enterContext(Agent(cgroup, [service(server)], control=STILL))
        pins = agent.pins()
        refused = agent.weir("detach")
        self.assertEqual(refused.returncode, 1, refused)
        self.assertIn(str(agent.process.pid), refused.stderr)
        self.assertEqual(agent.pins(), pins)
        self.assertEqual(cgroup.report("count", 5)["ok"], 5)
