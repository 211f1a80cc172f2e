# SPDX-License-Identifier: Apache-2.0
"""A bad configuration ends with status 2 and names file:line, field and limit; nothing starts."""
import subprocess
import unittest

from harness import BIN, MODEL, ROOT, Scratch

SERVICES = """services:
  - name: chat
    address: 127.111.0.10:8000
    backends:
      - address: 127.0.0.1:9001
"""

# text, line of the fault, what the message must name
CASES = {
    "unknown field": ("serve:\n  htpp: 127.0.0.1:0\n", 2, ["htpp"]),
    "unknown section": ("log:\n  level: info\nservises: []\n", 3, ["servises"]),
    "number over its limit": ("serve:\n  http: 127.0.0.1:0\n  io_threads: 257\n", 3,
                              ["io_threads", "256", "257"]),
    "number under its limit": ("control:\n  tick_ms: 99\n", 2, ["tick_ms", "100", "99"]),
    "not a number": ("control:\n  tick_ms: often\n", 2, ["tick_ms", "often"]),
    "negative": ("control:\n  tick_ms: -100\n", 2, ["tick_ms", "-100"]),
    "not an address": ("serve:\n  http: localhost\n", 2, ["http", "localhost"]),
    "unknown log level": ("log:\n  level: loud\n", 2, ["level", "loud", "debug"]),
    "unknown clock": ("kernel:\n  request_clock: sundial\n", 2, ["request_clock", "sundial"]),
    "weight over its limit": (SERVICES + "        weight: 1001\n", 6, ["weight", "1000", "1001"]),
    "no backends": (SERVICES.split("    backends")[0] + "    backends: []\n", 4,
                    ["backends", "1..16384"]),
    "name with capitals": (SERVICES.replace("chat", "Chat"), 2, ["name", "Chat"]),
    "two services of one name": (SERVICES + SERVICES.split("\n", 1)[1].replace("8000", "8001"), 6,
                                 ["name", "chat"]),
    "queue over its limit": (
        f"models:\n  - name: m\n    path: {MODEL}\n    max_queue: 1048577\n", 4,
        ["max_queue", "1048576", "1048577"]),
    "model file that is not there": (
        "models:\n  - name: m\n    path: /nonexistent/m.gguf\n", 3,
        ["path", "/nonexistent/m.gguf", "No such file"]),
    "open_ms over max_open_ms": ("control:\n  open_ms: 6000\n  max_open_ms: 5000\n", 3,
                                 ["max_open_ms", "open_ms"]),
    "broken YAML": ("serve:\n  http: [127.0.0.1:0\nlog: {\n", None, []),
}


class BadConfig(unittest.TestCase):
    def agent(self, *arguments):
        return subprocess.run([BIN / "weir-agent", *arguments], capture_output=True, text=True,
                              timeout=20)

    def write(self, text):
        path = self.enterContext(Scratch()).path / "weir.yaml"
        path.write_text(text)
        return path

    def test_each_fault_is_found_where_it_is(self):
        for name, (text, line, words) in CASES.items():
            path = self.write(text)
            for check in (["--check"], []):
                with self.subTest(fault=name, check=bool(check)):
                    result = self.agent("--config", path, *check)
                    self.assertEqual(result.returncode, 2, result)
                    self.assertIn(f"{path}:{line}:" if line else f"{path}:", result.stderr)
                    for word in words:
                        self.assertIn(word, result.stderr)

    def test_missing_file(self):
        result = self.agent("--config", "/nonexistent/weir.yaml")
        self.assertEqual(result.returncode, 2, result)
        self.assertIn("/nonexistent/weir.yaml", result.stderr)

    def test_check_accepts_the_shipped_configuration(self):
        result = self.agent("--config", ROOT / "deploy" / "config" / "weir.yaml", "--check")
        self.assertEqual(result.returncode, 0, result)

    def test_check_says_when_there_is_nothing_to_do(self):
        for text in ("", "log:\n  level: info\n"):
            result = self.agent("--config", self.write(text), "--check")
            self.assertEqual(result.returncode, 0, result)
            self.assertIn("without services and models", result.stdout)
        folder = self.enterContext(Scratch()).path
        result = self.agent("--config", self.write(f"registry:\n  model_dir: {folder}\n"), "--check")
        self.assertEqual((result.returncode, result.stdout.strip()[-4:]), (0, "good"))
        result = self.agent("--config", self.write(SERVICES + "kernel:\n  enabled: false\n"),
                            "--check")
        self.assertEqual(result.returncode, 0, result)
        self.assertIn("no connection to its services is steered", result.stdout)
        result = self.agent("--config", self.write(SERVICES), "--check")
        self.assertRegex(result.stdout, r": good\n$")

    def test_check_starts_nothing(self):
        path = self.write(f"serve:\n  http: 127.0.0.1:0\n{SERVICES}")
        result = self.agent("--config", path, "--check")
        self.assertEqual(result.returncode, 0, result)
        self.assertNotIn("http=", result.stderr)

    def test_version_names_the_program(self):
        result = self.agent("--version")
        self.assertEqual(result.returncode, 0, result)
        self.assertRegex(result.stdout, r"^weir-agent \S+")

    def test_mistyped_words_are_named(self):
        for program, *arguments in (["weir-agent", "--cofnig", "x"], ["weir", "nope"],
                                    ["weir", "status", "nope"]):
            result = subprocess.run([BIN / program, *arguments], capture_output=True, text=True,
                                    timeout=10)
            self.assertEqual(result.returncode, 2, result)
            self.assertIn(arguments[-1] if program == "weir" else "--cofnig", result.stderr)
            self.assertTrue(result.stderr.startswith(f"{program}: "), result.stderr)

    def test_what_is_required_is_named(self):
        for program, word in (("weir-agent", "--config"),
                              ("weir", "status, backends, events, explain, models, replay, "
                                       "generate, bench-model or detach")):
            result = subprocess.run([BIN / program], capture_output=True, text=True, timeout=10)
            self.assertEqual(result.returncode, 2, result)
            self.assertIn(word, result.stderr)
            self.assertTrue(result.stderr.startswith(f"{program}: "), result.stderr)

    def test_help_is_no_error(self):
        for program in ("weir-agent", "weir"):
            result = subprocess.run([BIN / program, "--help"], capture_output=True, text=True,
                                    timeout=10)
            self.assertEqual((result.returncode, result.stderr), (0, ""), result)
            self.assertIn("--version", result.stdout)

    def test_unknown_flag(self):
        result = self.agent("--config", "weir.yaml", "--frobnicate")
        self.assertEqual(result.returncode, 2, result)
        self.assertIn("--frobnicate", result.stderr)
