# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of bench-observe: what matches, what is missing, and how far off it is."""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from request_records import client_account, compare, kernel_account, quantile  # noqa: E402


def lines(*objects):
    return [json.dumps(one) for one in objects]


class Quantile(unittest.TestCase):
    def test_is_a_value_that_the_share_does_not_exceed(self):
        self.assertEqual(quantile(list(range(1, 101)), 0.99), 99)
        self.assertEqual(quantile(list(range(1, 101)), 0.5), 50)
        self.assertEqual(quantile([7], 0.99), 7)
        self.assertIsNone(quantile([], 0.5))


class Accounts(unittest.TestCase):
    def test_reads_the_clients_records_and_its_total(self):
        own, requests, errors = client_account(["weir-ttfb-client: said something", *lines(
            {"cookie": 9, "seq": 1, "ttfb_us": 10.5}, {"cookie": 9, "seq": 2, "ttfb_us": 11},
            {"requests": 3, "errors": 1})])
        self.assertEqual(own, {(9, 1): 10.5, (9, 2): 11})
        self.assertEqual((requests, errors), (3, 1))

    def test_reads_requests_among_other_events_and_what_was_lost(self):
        kernel, lost = kernel_account(["weir: watching for requests until Ctrl-C", *lines(
            {"event": "request", "cookie": 9, "seq": 1, "ttfb_us": 10.0},
            {"event": "close", "cookie": 9},
            {"event": "lost", "records": 4, "unwatched_us": 0.0})])
        self.assertEqual((kernel, lost), ({(9, 1): 10.0}, 4))

    def test_a_request_told_twice_is_an_error(self):
        twice = lines(*[{"event": "request", "cookie": 9, "seq": 1, "ttfb_us": 1.0}] * 2)
        with self.assertRaisesRegex(ValueError, "request 1 on socket 9 twice"):
            kernel_account(twice)


class Compare(unittest.TestCase):
    def test_errors_are_taken_request_by_request(self):
        # Swapped times have the same distribution, and are wrong by 100 us each.
        found = compare({(1, 1): 100.0, (1, 2): 200.0}, {(1, 1): 200.0, (1, 2): 100.0})
        self.assertEqual((found["matched"], found["unmatched"], found["invented"]), (2, 0, 0))
        self.assertEqual((found["error_p50_us"], found["error_p99_us"]), (100.0, 100.0))
        self.assertEqual(found["bias_us"], -100.0)

    def test_a_request_without_a_record_or_a_time_is_unmatched(self):
        found = compare({(1, 1): 5.0, (1, 2): 5.0, (2, 1): 5.0},
                        {(1, 1): 6.0, (1, 2): None, (3, 1): 4.0})
        self.assertEqual((found["matched"], found["unmatched"]), (1, 2))
        self.assertEqual(found["error_max_us"], 1.0)

    def test_a_record_of_a_request_never_made_is_invented_unless_the_socket_is_anothers(self):
        found = compare({(1, 1): 5.0}, {(1, 1): 5.0, (1, 2): 5.0, (3, 1): 4.0})
        self.assertEqual(found["invented"], 1)

    def test_nothing_matched_gives_no_figures(self):
        found = compare({(1, 1): 5.0}, {})
        self.assertEqual((found["matched"], found["error_p99_us"]), (0, None))


if __name__ == "__main__":
    unittest.main()
