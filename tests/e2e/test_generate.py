# SPDX-License-Identifier: Apache-2.0
"""`weir generate` and `weir bench-model`: a model file, no server."""
import json
import signal
import subprocess
import unittest

from harness import BIN, MODEL, Process, Scratch, wait_until

PROMPT = "Once there was a clever owl"


def weir(*arguments, **run):
    return subprocess.run([BIN / "weir", *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, **run)


class Generate(unittest.TestCase):
    def test_prints_the_text_and_tells_the_times_beside_it(self):
        run = weir("generate", "-m", MODEL, "-p", PROMPT, "-n", 12, "--temperature", 0)
        self.assertEqual(run.returncode, 0, run)
        self.assertRegex(run.stdout, r"\A [A-Za-z ,.'\"!]{20,}\n\Z")
        self.assertRegex(run.stderr, r"\Aweir: load \d+\.\d\d s, prompt \d+ tokens [\d.]+/s, "
                                     r"generated 12 tokens [\d.]+/s, ended by length\n\Z")

    def test_gives_the_same_text_as_json_and_for_the_same_seed(self):
        options = ("generate", "-m", MODEL, "-n", 12, "--temperature", 1, "--seed", 5)
        plain = weir(*options, "-p", PROMPT)
        run = weir(*options, "-p", "-", "--json", input=PROMPT)
        self.assertEqual(run.returncode, 0, run)
        answer = json.loads(run.stdout)
        self.assertEqual(answer["text"] + "\n", plain.stdout)
        self.assertEqual(answer["finish_reason"], "length")
        self.assertEqual(answer["usage"]["completion_tokens"], 12)
        self.assertGreater(answer["timings"]["generated_per_second"], 0)
        self.assertEqual(run.stderr, "")

    def test_ends_before_the_stop_text(self):
        whole = weir("generate", "-m", MODEL, "-p", PROMPT, "-n", 12, "--temperature", 0).stdout
        stop = whole.split()[2]
        run = weir("generate", "-m", MODEL, "-p", PROMPT, "-n", 12, "--temperature", 0,
                   "--stop", stop)
        self.assertEqual(run.stdout, whole[:whole.index(stop)] + "\n")
        self.assertIn("ended by stop", run.stderr)

    def test_says_what_is_wrong_with_a_file(self):
        folder = self.enterContext(Scratch()).path
        text = folder / "text.gguf"
        text.write_text("not a model\n" * 100)
        for path in (folder / "nothing.gguf", text):
            for command in (("generate", "-p", PROMPT), ("bench-model",)):
                run = weir(command[0], "-m", path, *command[1:])
                self.assertEqual(run.returncode, 1, run)
                self.assertEqual(run.stdout, "", run)
                self.assertIn(str(path), run.stderr)
                self.assertEqual(len(run.stderr.splitlines()), 1, run)

    def test_refuses_a_prompt_that_does_not_fit(self):
        run = weir("generate", "-m", MODEL, "-p", "a " * 200, "--context", 32)
        self.assertEqual(run.returncode, 2, run)
        self.assertIn("32", run.stderr)

    def test_an_interrupt_ends_it_after_what_it_has(self):
        # Beyond what the model was trained for, it finds no end of its own.
        with Process([BIN / "weir", "generate", "-m", MODEL, "-p", "a " * 1000, "-n", 500000,
                      "--context", 501000, "--temperature", 0]) as process:
            wait_until(lambda: len(process.output()) > 20, "some text")
            process.signal(signal.SIGINT)
            self.assertEqual(process.wait(5), 130)
            self.assertTrue(process.output().endswith("\n"))

    def test_a_reader_that_has_enough_ends_it(self):
        run = subprocess.run(f"{BIN}/weir generate -m {MODEL} -p '{'a ' * 1000}' -n 500000 "
                             "--context 501000 --temperature 0 | head -c 20",
                             shell=True, capture_output=True, text=True, timeout=30)
        self.assertEqual(len(run.stdout), 20)
        self.assertEqual(run.stderr, "")


class BenchModel(unittest.TestCase):
    def test_prints_a_row_for_each_number_of_sequences(self):
        run = weir("bench-model", "-m", MODEL, "-p", 32, "-n", 16, "--batch", "1,4", "--rounds", 1)
        self.assertEqual(run.returncode, 0, run)
        lines = run.stdout.splitlines()
        header = next(i for i, line in enumerate(lines) if line.startswith("SEQUENCES"))
        rows = [line.split() for line in lines[header + 1:lines.index("", header)]]
        self.assertEqual([row[0] for row in rows], ["1", "4"])
        self.assertTrue(all(float(row[1]) > 0 for row in rows), run.stdout)
