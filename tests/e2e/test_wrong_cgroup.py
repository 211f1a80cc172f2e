# SPDX-License-Identifier: Apache-2.0
"""A cgroup that is none: the agent says so and leaves nothing behind."""
import json
import subprocess

from harness import BIN, BPFFS, KernelTest, Scratch


class WrongCgroup(KernelTest):
    def test_trap08_what_is_no_cgroup_v2_is_refused(self):
        folder = self.enterContext(Scratch()).path
        pins = BPFFS / "weir-e2e-wrong-cgroup"
        config = folder / "weir.yaml"
        config.write_text(json.dumps({"serve": {"http": "127.0.0.1:0"},
                                      "kernel": {"cgroup": str(folder), "pin_root": str(pins)}}))
        ended = subprocess.run([BIN / "weir-agent", "--config", config], capture_output=True,
                               text=True, timeout=20)
        self.assertEqual(ended.returncode, 1, ended)
        self.assertIn(f"{folder} is not a directory of cgroup v2", ended.stderr)
        self.assertFalse(pins.exists())
