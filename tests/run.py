#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the test suites and adds up what they say.

usage: run.py SUITE...      (unit, bpf, e2e, model)

Prints each suite's own output as it comes, and as its last line `N passed, N failed, N skipped`.
A suite that crashes, or that runs no test at all, counts as one failure.
"""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("WEIR_BIN", os.path.join(ROOT, "build", "bin"))

SUITES = {
    "unit": [os.path.join(BIN, "weir-unit-tests"), "--gtest_brief=1"],
    "bpf": [os.path.join(BIN, "weir-bpf-tests")],
    "e2e": [sys.executable, "tests/e2e/run.py"],
    "model": [sys.executable, "deploy/models/verify.py"],
}
NEEDS_ROOT = {"bpf", "e2e"}

COUNTS = {
    "passed": re.compile(r"^\[  PASSED  \] (\d+) tests?\.|^(\d+) passed, \d+ failed"),
    "failed": re.compile(r"^\[  FAILED  \] (\d+) tests?, listed below|^\d+ passed, (\d+) failed"),
    "skipped": re.compile(
        r"^\[  SKIPPED \] (\d+) tests?, listed below|^\d+ passed, \d+ failed, (\d+) skipped"
    ),
}


def run_suite(name):
    """Runs one suite; returns its counts."""
    counts = dict.fromkeys(COUNTS, 0)
    if name in NEEDS_ROOT and os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            print(f"{name}: needs root, and CI=true forbids skipping", flush=True)
            return counts | {"failed": 1}
        print(f"{name}: skipped, it needs root to load kernel programs", flush=True)
        return counts | {"skipped": 1}
    process = subprocess.Popen(SUITES[name], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        print(line, end="", flush=True)
        for kind, pattern in COUNTS.items():
            if match := pattern.match(line):
                counts[kind] = int(next(group for group in match.groups() if group is not None))
    status = process.wait()
    if status != 0 and counts["failed"] == 0:
        print(f"{name}: ended with status {status}", flush=True)
        counts["failed"] = 1
    if status == 0 and counts["passed"] == 0:
        print(f"{name}: ran no test", flush=True)
        counts["failed"] += 1
    return counts


def main():
    totals = dict.fromkeys(COUNTS, 0)
    for name in sys.argv[1:]:
        if name not in SUITES:
            sys.exit(f"run.py: unknown suite {name!r}; there are: {', '.join(SUITES)}")
        print(f"--- {name}", flush=True)
        for kind, count in run_suite(name).items():
            totals[kind] += count
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
