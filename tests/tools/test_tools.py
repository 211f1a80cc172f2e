# SPDX-License-Identifier: Apache-2.0
"""The load tools against each other: a clock that is wrong here makes every benchmark wrong.

Real time is what is under test, so bounds are one-sided where the machine may be late: a delay is
never shorter than set, and its median is less than 2 ms longer.
"""
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import BIN, request  # noqa: E402
from node import DelayServer  # noqa: E402


def loadgen(target, *arguments):
    """(exit status, the report or the error text)."""
    run = subprocess.run([BIN / "weir-loadgen", "--target", target, "--warmup", "0", "--json",
                          *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return run.returncode, json.loads(run.stdout) if run.stdout else run.stderr


class DelayServerTest(unittest.TestCase):
    def start(self, **options):
        return self.enterContext(DelayServer("a", **options))

    def test_answers_with_its_name_and_counts_the_request(self):
        server = self.start()
        reply = request(server.address, "GET", "/anything")
        self.assertEqual((reply.status, reply.headers["x-backend"]), (200, "a"))
        stats = server.stats()
        self.assertEqual((stats["requests"], stats["delay_us"]["count"]), (1, 1))

    def test_delay_is_at_least_what_is_set_and_changes_at_run_time(self):
        server = self.start(delay_us=3000)
        request(server.address, "GET", "/")
        first = server.stats()["delay_us"]["p50"]
        self.assertTrue(3000 <= first < 5000, first)
        request(server.address, "DELETE", "/stats")
        server.set_delay_us(9000)
        request(server.address, "GET", "/")
        second = server.stats()["delay_us"]
        self.assertEqual(second["count"], 1)
        self.assertTrue(9000 <= second["p50"] < 11000, second)

    def test_refuses_a_delay_that_is_no_number(self):
        server = self.start(delay_us=0)
        self.assertEqual(request(server.address, "PUT", "/delay?us=soon").status, 400)
        self.assertEqual(server.stats()["requests"], 0)

    def test_reads_a_body_in_pieces_and_answers_pipelined_requests_in_order(self):
        server = self.start(delay_us=1000)
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), 5) as client:
            client.sendall(b"POST /a HTTP/1.1\r\nContent-Len")
            client.sendall(b"gth: 200000\r\n\r\n" + b"x" * 150000)
            client.sendall(b"x" * 50000 + b"GET /stats HTTP/1.1\r\nconnection: close\r\n\r\n")
            with client.makefile("rb") as stream:
                replies = stream.read()  # to the end: "close" was obeyed
        self.assertEqual(replies.count(b"HTTP/1.1 200 OK"), 2)
        self.assertIn(b'"requests":1', replies.split(b"HTTP/1.1 200 OK")[2])

    def test_a_response_in_pieces_takes_the_time_between_them_and_counts_once(self):
        server = self.start(delay_us=1000, options=("--pieces", 4, "--piece-us", 5000))
        began = time.monotonic()
        reply = request(server.address, "GET", "/")
        self.assertGreaterEqual(time.monotonic() - began, 0.016)
        self.assertEqual((reply.status, reply.body), (200, b"a\n"))
        stats = server.stats()
        self.assertEqual((stats["requests"], stats["delay_us"]["count"]), (1, 1))
        self.assertLess(stats["delay_us"]["p50"], 5000)  # up to the first piece

    def test_sigterm_ends_it_with_status_0(self):
        server = self.start()
        server.signal(15)
        self.assertEqual(server.wait(), 0)


class LoadgenTest(unittest.TestCase):
    def test_latency_agrees_with_the_servers_clock_in_both_modes(self):
        for mode in ("keepalive", "close"):
            with self.subTest(mode), DelayServer("a", 5000) as server:
                status, report = loadgen(server.address, "--rate", 400, "--seconds", 1, "--mode",
                                         mode, "--connections", 64)
                self.assertEqual((status, report["errors"]), (0, 0), report)
                stats = server.stats()
                self.assertEqual(stats["requests"], report["scheduled"])
                kept = 64 if mode == "keepalive" else report["scheduled"]
                self.assertEqual(stats["connections"], kept + 1)  # and the one of stats()
                extra = report["latency_us"]["p50"] - stats["delay_us"]["p50"]
                self.assertTrue(0 < extra < 2000, (report, stats))

    def test_a_slow_server_does_not_slow_the_schedule_and_its_queue_shows(self):
        # 20 ms on one connection is at most 50 answers/s: at 100/s for 1 s the last request waits
        # about a second. A closed loop would report 20 ms.
        with DelayServer("a", 20000) as server:
            status, report = loadgen(server.address, "--rate", 100, "--seconds", 1,
                                     "--connections", 1)
        self.assertEqual((status, report["errors"]), (0, 0), report)
        self.assertGreater(report["latency_us"]["p99"], 400_000)
        self.assertGreater(report["queued"], report["scheduled"] // 2)

    def test_the_queue_is_bounded_and_what_it_drops_is_counted(self):
        with DelayServer("a", 100_000) as server:
            status, report = loadgen(server.address, "--rate", 500, "--seconds", 0.5,
                                     "--connections", 1, "--max-queue", 10)
        self.assertEqual(status, 1)
        self.assertEqual(report["deepest_queue"], 10)
        self.assertGreater(report["error_kinds"]["dropped"], 100)
        self.assertEqual(report["answered"] + report["errors"], report["scheduled"])

    def test_a_seed_fixes_the_schedule(self):
        with DelayServer("a") as server:
            reports = [loadgen(server.address, "--rate", 2000, "--seconds", 0.3, "--seed", seed)[1]
                       for seed in (1, 1, 2)]
        scheduled = [report["scheduled"] for report in reports]
        self.assertEqual(scheduled[0], scheduled[1])
        self.assertNotEqual(scheduled[0], scheduled[2])

    def test_a_closed_loop_keeps_every_connection_busy_until_the_end(self):
        for mode in ("keepalive", "close"):
            with self.subTest(mode), DelayServer("a", 10_000) as server:
                status, report = loadgen(server.address, "--closed", "--seconds", 1, "--mode", mode,
                                         "--connections", 4)
                self.assertEqual((status, report["errors"]), (0, 0), report)
                self.assertEqual(report["answered"], server.stats()["requests"])
                # At most 4 connections x 1 s / 10 ms, and the last ones end after the second.
                self.assertTrue(100 < report["answered"] <= 404, report)

    def test_a_response_in_pieces_and_another_head_are_both_read(self):
        # A long body comes in many pieces; /stats answers with another head than "/" did.
        with DelayServer("a", options=("--body-bytes", 300_000)) as server:
            for path in ("/", "/stats"):
                status, report = loadgen(server.address, "--path", path, "--rate", 100,
                                         "--seconds", 0.3, "--connections", 2)
                self.assertEqual((status, report["errors"]), (0, 0), report)

    def test_rate_and_closed_loop_exclude_each_other(self):
        status, error = loadgen("127.0.0.1:1", "--rate", 10, "--closed")
        self.assertNotIn(status, (0, 1))
        self.assertIn("--closed", error)

    def test_a_closed_port_is_an_error_not_a_result(self):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound, not listening
            status, error = loadgen("127.0.0.1:%d" % closed.getsockname()[1])
        self.assertEqual(status, 1)
        self.assertIn("could not open 32 connections", error)


class TtfbClientTest(unittest.TestCase):
    def run_client(self, target, *arguments):
        run = subprocess.run([BIN / "weir-ttfb-client", "--target", target, *map(str, arguments)],
                             capture_output=True, text=True, timeout=60)
        *records, total = map(json.loads, run.stdout.splitlines())
        return run.returncode, records, total

    def test_records_every_request_once_with_the_servers_delay_in_it(self):
        with DelayServer("a", 5000, options=("--pieces", 3, "--piece-us", 10_000)) as server:
            status, records, total = self.run_client(server.address, "--connections", 3,
                                                     "--requests", 50)
            self.assertEqual((status, total), (0, {"requests": 50, "errors": 0}))
            self.assertEqual(server.stats()["requests"], 50)
        by_cookie = {}
        for record in records:
            by_cookie.setdefault(record["cookie"], []).append(record["seq"])
        self.assertEqual((len(records), len(by_cookie)), (50, 3))
        for numbers in by_cookie.values():
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        # The first piece, not the last: 5 ms, not 25.
        self.assertGreaterEqual(min(record["ttfb_us"] for record in records), 4900)
        self.assertLess(statistics.median(record["ttfb_us"] for record in records), 10_000)

    def test_a_closed_port_is_an_error(self):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound, not listening
            address = "127.0.0.1:%d" % closed.getsockname()[1]
            self.assertEqual(self.run_client(address)[0], 1)


class ConnectLoopTest(unittest.TestCase):
    def run_loop(self, *arguments):
        run = subprocess.run([BIN / "weir-connect-loop", *map(str, arguments)],
                             capture_output=True, text=True, timeout=60)
        return run.returncode, json.loads(run.stdout)

    def free_port(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def test_connects_as_often_as_asked_to_any_local_address(self):
        port = self.free_port()
        status, report = self.run_loop("--target", f"127.20.3.4:{port}", "--listen",
                                       f"0.0.0.0:{port}", "--connects", 500)
        self.assertEqual((status, report["connects"], report["failed"]), (0, 500, 0), report)

    def test_a_connect_that_reaches_somebody_else_is_a_failure(self):
        with DelayServer("a") as server:
            status, report = self.run_loop("--target", server.address, "--listen",
                                           f"127.0.0.1:{self.free_port()}", "--connects", 5)
        self.assertEqual((status, report["connects"], report["failed"]), (1, 0, 5), report)


if __name__ == "__main__":
    unittest.main()
