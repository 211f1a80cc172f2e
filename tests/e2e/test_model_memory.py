# SPDX-License-Identifier: Apache-2.0
"""What a model has in memory is told, shared, and given back."""
import json
import pathlib
import re
import shutil
import unittest

import prometheus
from harness import MODEL, Scratch, wait_until
from node import Agent, model

PARTS = ("mapped", "copied", "kv", "compute", "output")


def rss_of(pid, path):
    """Bytes of the mappings of this file that are in the process's page tables."""
    total, mine = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mine = line.endswith(f" {path}")
        elif mine and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def rss(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Rss:\s+(\d+) kB", text, re.M).group(1)) * 1024


class ModelMemory(unittest.TestCase):
    def start(self, *args, **kwargs):
        self.agent = self.enterContext(Agent(*args, **kwargs))

    def operate(self, name, what):
        reply = self.agent.request("POST", f"/v2/repository/models/{name}/{what}", {})
        self.assertEqual(reply.status, 200, reply)

    def entry(self, name):
        entries = self.agent.request("POST", "/v2/repository/index", {}).json()
        return next(e for e in entries if e["name"] == name)["weir"]

    def metrics(self):
        return prometheus.parse(self.agent.request("GET", "/metrics").body.decode())

    def parts(self, name):
        found = self.metrics()
        return {part: prometheus.value(found, "weir_model_part_bytes", model=name, part=part)
                for part in PARTS}

    def test_is_told_by_part_while_it_is_loaded(self):
        file_bytes = MODEL.stat().st_size
        self.start(models=[model(name="m", preload=False, context_tokens=512)])
        self.assertEqual(self.entry("m")["memory"], {})
        self.assertEqual(set(self.parts("m").values()), {0})
        self.operate("m", "load")
        parts = self.parts("m")
        self.assertEqual(parts["mapped"], file_bytes)
        # 8 x 512 cells, 5 layers, keys and values of 2 heads of 32.
        # Keys of 8 bits, with a scale of 16 for each head, and values of 16; libllama tells it to a
        # hundredth of a MiB.
        self.assertAlmostEqual(parts["kv"], 8 * 512 * 5 * 2 * (32 + 2 + 2 * 32), delta=1 << 14)
        self.assertGreater(parts["compute"], 1 << 20)
        told = self.entry("m")
        self.assertEqual({p: told["memory"][f"{p}_bytes"] for p in PARTS}, parts)
        self.assertEqual(told["memory_bytes"], sum(parts.values()))
        # Somebody has to ask before anybody looks.
        wait_until(lambda: self.entry("m")["memory"].get("resident_bytes") == file_bytes,
                   "the file is seen to be in memory")
        self.assertEqual(prometheus.value(self.metrics(), "weir_model_resident_bytes", model="m"),
                         file_bytes)
        table = self.agent.weir("models", "--url", f"http://{self.agent.http}").stdout
        self.assertRegex(table, r"RESIDENT.*\n.*\b100 %")
        self.operate("m", "unload")
        self.assertEqual(self.entry("m")["memory"], {})
        self.assertEqual(set(self.parts("m").values()), {0})
        self.assertEqual(prometheus.value(self.metrics(), "weir_model_thin_loads_total",
                                          model="m"), 0)

    def test_models_of_one_file_share_its_pages(self):
        scratch = self.enterContext(Scratch())
        path = pathlib.Path(shutil.copy(MODEL, scratch.path / "shared.gguf")).resolve()
        self.start(models=[model(name=n, path=str(path), preload=False) for n in "ab"])
        pid = self.agent.process.pid
        self.operate("a", "load")
        alone = rss_of(pid, path)
        self.assertGreater(alone, path.stat().st_size / 2)
        self.operate("b", "load")
        self.assertEqual(rss_of(pid, path), alone)
        self.operate("a", "unload")
        self.assertEqual(rss_of(pid, path), alone)
        reply = self.agent.request("POST", "/infer", {"model": "b", "prompt": "Once",
                                                      "max_tokens": 4})
        self.assertEqual(reply.status, 200, reply)
        self.operate("b", "unload")
        self.assertEqual(rss_of(pid, path), 0)

    def test_unloading_gives_it_back(self):
        self.start(models=[model(name="m", preload=False)])
        pid = self.agent.process.pid
        after = []
        for _ in range(20):
            self.operate("m", "load")
            loaded = rss(pid)
            self.operate("m", "unload")
            after.append(rss(pid))
        self.assertGreater(loaded - after[-1], 5 << 20)  # its cells alone
        self.assertLess(after[-1] - after[1], 1 << 20, after)

    def test_every_way_of_reading_ahead_ends_in_a_model(self):
        ways = ("willneed", "sequential", "populate", "none")
        scratch = self.enterContext(Scratch())
        models = []
        for way in ways:  # files of their own: nothing is shared
            path = shutil.copy(MODEL, scratch.path / f"{way}.gguf")
            models.append(model(name=way, path=str(path), preload=False, prefetch=way))
        self.start(models=models)
        for way in ways:
            self.operate(way, "load")
            self.assertEqual(self.entry(way)["load_progress"], 1)

    def test_too_much_is_refused_before_anything_is_read(self):
        # 8 x 65536 cells of 1280 bytes: 640 MiB, where 100 may be had.
        self.start(models=[model(name="m", preload=False, context_tokens=65536)],
                   registry={"memory_bytes": 100 << 20})
        reply = self.agent.request("POST", "/v2/repository/models/m/load", {})
        self.assertEqual(reply.status, 429, reply)
        message = json.loads(reply.body)["error"]["message"]
        self.assertRegex(message, r"it needs 7\d{8} bytes of memory")
        self.assertNotIn("model loaded", self.agent.process.output())


if __name__ == "__main__":
    unittest.main()
