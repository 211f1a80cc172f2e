# SPDX-License-Identifier: Apache-2.0
"""tests/TRAPS.md and the tests agree: what it names exists, and what is called after a trap is named."""
import pathlib
import re
import unittest

TESTS = pathlib.Path(__file__).resolve().parents[1]
NAME = re.compile(r"^TEST(?:_[FP])?\(\w+,\s*(\w+)\)|^    def (test_\w+)", re.M)


class Traps(unittest.TestCase):
    def test_table_and_tests_agree(self):
        table = (TESTS / "TRAPS.md").read_text()
        named = set(re.findall(r"`((?:test_)?\w+)`", table))
        sources = [p for pattern in ("*_test.cc", "test_*.py") for p in TESTS.rglob(pattern)]
        there = {a or b for p in sources for a, b in NAME.findall(p.read_text())}
        self.assertGreater(len(there), 200)
        self.assertEqual(named - there, set(), "named, but not there")
        called = {name for name in there if re.match(r"Trap\d", name)}
        self.assertEqual(called - named, set(), "called after a trap, but not in the table")
        self.assertEqual(re.findall(r"^\| (\d+) \|", table, re.M), [str(n) for n in range(1, 26)])
