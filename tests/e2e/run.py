#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the end-to-end tests: one line per test, and as the last line how many passed.

    tests/e2e/run.py [-k TEXT]     TEXT: only tests whose name contains it

Exit status 1 when a test failed. A skipped test says why.
"""
import argparse
import pathlib
import sys
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import harness  # noqa: E402  (found through the line above)


class Result(unittest.TestResult):
    """A failed class fixture or subtest counts as one failed test each time it is reported."""

    def __init__(self):
        super().__init__()
        self.passed = 0
        self._started = time.monotonic()
        self._bad = False

    def startTest(self, test):
        super().startTest(test)
        self._started = time.monotonic()
        self._bad = False

    def _line(self, word, test, why=""):
        name = test.id() if isinstance(test, unittest.TestCase) else str(test)
        seconds = time.monotonic() - self._started
        print(f"{word:<5} {name} ({seconds:.2f} s){': ' + why if why else ''}", flush=True)

    def addSuccess(self, test):
        self.passed += 1
        self._line("ok", test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._fail(test, self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self._fail(test, self.errors[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            problems = self.failures if issubclass(err[0], test.failureException) else self.errors
            self._fail(subtest, problems[-1][1])

    def _fail(self, test, text):
        self._line("FAIL", test)
        print("    " + text.rstrip().replace("\n", "\n    "), flush=True)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._line("skip", test, reason)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", metavar="TEXT", action="append",
                        help="only tests whose name contains TEXT")
    options = parser.parse_args()
    harness.interrupt_on_sigterm()
    if missing := harness.missing_programs():
        sys.exit(missing)

    loader = unittest.TestLoader()
    if options.k:
        loader.testNamePatterns = [f"*{text}*" for text in options.k]
    started = time.monotonic()
    result = Result()
    for folder in (HERE, HERE.parent / "tools"):  # and what the benches measure with
        loader.discover(str(folder), top_level_dir=str(folder)).run(result)
    failed = len(result.failures) + len(result.errors)
    print(f"{time.monotonic() - started:.0f} s")
    print(f"{result.passed} passed, {failed} failed, {len(result.skipped)} skipped")
    sys.exit(1 if failed or result.passed + len(result.skipped) == 0 else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        harness.close_all()
        sys.exit("interrupted; everything was cleaned up")
