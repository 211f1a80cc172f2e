# SPDX-License-Identifier: Apache-2.0
"""Requests are let in or refused by their header, and whatever is set aside for them comes back.

The client is curl: what it does with an early answer is what clients do.
"""
import contextlib
import json
import socket
import subprocess
import threading
import time
import unittest

import prometheus
from harness import Scratch, wait_until
from node import MODEL_NAME, Agent, model, wait_ready

PROMPT = {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 4}
MIB = 1 << 20


class Curl:
    """One run of curl: status, header fields in lower case, body."""

    def __init__(self, agent, body, *options, seconds=30):
        with Scratch() as scratch:
            path = scratch.path / "body"
            path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
            run = subprocess.run(
                ["curl", "-sS", "-D", scratch.path / "head", "-o", scratch.path / "answer",
                 "-H", "Content-Type: application/json", "--data-binary", f"@{path}", *options,
                 f"http://{agent.http}/infer"],
                capture_output=True, text=True, timeout=seconds)
            self.error = run.stderr
            head = (scratch.path / "head").read_text()
            self.body = (scratch.path / "answer").read_text()
        lines = head.strip().splitlines()
        # The last head: 100 Continue has one of its own.
        starts = [i for i, line in enumerate(lines) if line.startswith("HTTP/1.1 ")]
        self.status = int(lines[starts[-1]].split()[1])
        fields = (line.split(": ", 1) for line in lines[starts[-1] + 1:])
        self.headers = {name.lower(): value for name, value in fields}

    def code(self):
        return json.loads(self.body)["error"]["code"]

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body[:300]!r} {self.error}"


def admission_of(agent):
    families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
    return (prometheus.value(families, "weir_admission_requests"),
            prometheus.value(families, "weir_admission_reserved_bytes"))


def kv_of(agent):
    families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
    return [prometheus.value(families, f"weir_admission_kv_{name}", model=MODEL_NAME)
            for name in ("reserved_bytes", "limit_bytes", "refusals_total")]


def upload(agent, length, sent=b"{"):
    """A connection whose request announces `length` bytes and has sent `sent`."""
    host, port = agent.http.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(f"POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
                       f"Content-Length: {length}\r\n\r\n".encode() + sent)
    return connection


class AdmissionTest(unittest.TestCase):
    def agent(self, admission, **serve):
        agent = self.enterContext(Agent(models=[model()], admission=admission, serve=serve))
        wait_ready(agent)
        return agent

    def test_rate_limit_holds_per_tenant_and_recovers(self):
        agent = self.agent({"rate_limits": [{"tenant": "acme", "requests_per_second": 0.5}]})
        acme = ("-H", "x-weir-tenant: acme")
        self.assertEqual(Curl(agent, PROMPT, *acme).status, 200)
        refused = Curl(agent, PROMPT, *acme)
        self.assertEqual(refused.status, 429, refused)
        self.assertEqual(refused.code(), "rate_limited")
        retry_after = int(refused.headers["retry-after"])
        self.assertIn(retry_after, (1, 2))
        self.assertNotIn("x-should-retry", refused.headers)
        self.assertEqual(Curl(agent, PROMPT).status, 200)
        self.assertEqual(Curl(agent, PROMPT, "-H", "x-weir-tenant: other").status, 200)
        time.sleep(retry_after)  # what the header asked for must be enough
        self.assertEqual(Curl(agent, PROMPT, *acme).status, 200)
        families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        self.assertEqual(prometheus.value(families, "weir_http_refusals_total",
                                          reason="rate_limited"), 1)
        self.assertEqual(prometheus.value(families, "weir_admission_refusals_total",
                                          stage="head", reason="rate_limited"), 1)
        self.assertEqual(prometheus.value(families, "weir_tenant_requests_refused_total",
                                          tenant="acme"), 1)
        self.assertIn("reason=rate_limited", agent.log())

    def test_full_memory_refuses_large_ones_and_serves_small_ones(self):
        agent = self.agent({"memory_bytes": 4 * MIB})
        with contextlib.closing(upload(agent, MIB)):
            wait_until(lambda: admission_of(agent)[0] == 1, "the upload is admitted")
            refused = Curl(agent, b" " * (MIB - 10))
            self.assertEqual((refused.status, refused.code()), (429, "memory"), refused)
            self.assertGreaterEqual(int(refused.headers["retry-after"]), 1)
            self.assertEqual(Curl(agent, PROMPT).status, 200)
        wait_until(lambda: admission_of(agent) == (0, 0), "nothing is set aside")
        self.assertEqual(Curl(agent, b" " * (MIB - 10)).status, 400)  # read, and no JSON

    def test_requests_that_need_more_kv_than_may_stand_in_line_are_refused(self):
        agent = self.enterContext(Agent(models=[
            model(max_sequences=1, queue={"max_kv_ratio": 1})]))
        wait_ready(agent)
        families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        limit = prometheus.value(families, "weir_model_part_bytes", model=MODEL_NAME, part="kv")
        # By the file first, then by what libllama's log says, which is rounded.
        known = f'weir_admission_kv_limit_bytes{{model="{MODEL_NAME}"}} {int(limit)}\n'
        wait_until(lambda: known in agent.request("GET", "/metrics").body.decode(),
                   "the cache is known")
        with contextlib.closing(upload(agent, 1800)):  # 450 tokens, of the 512 that there are
            wait_until(lambda: kv_of(agent)[0] > 0, "the upload is admitted")
            self.assertAlmostEqual(kv_of(agent)[0] / limit, 450 / 512, delta=0.01)
            # By its header alone; and with a header that fits, by what it asks for.
            for refused in (Curl(agent, b" " * 1000), Curl(agent, {**PROMPT, "max_tokens": 500})):
                self.assertEqual((refused.status, refused.code()), (429, "memory"), refused)
                self.assertIn("queue.max_kv_ratio", refused.body)
                self.assertGreaterEqual(int(refused.headers["retry-after"]), 1)
            self.assertEqual(Curl(agent, PROMPT).status, 200)
        wait_until(lambda: kv_of(agent)[0] == 0, "nothing is set aside")
        self.assertEqual(kv_of(agent)[2], 2)
        self.assertIn("reason=memory", agent.log())
        # A whole context fits when nobody else is there, however much is asked for.
        self.assertEqual(Curl(agent, {**PROMPT, "max_tokens": 100000}).status, 200)

    def test_answer_reaches_a_client_that_is_still_sending(self):
        agent = self.agent({"memory_bytes": 4 * MIB}, max_body_bytes=8 * MIB)
        for size, status, code in ((6 * MIB, 429, "memory"), (40 * MIB, 413, "body_too_large")):
            # Slow enough that the answer is there long before the end, without "Expect".
            reply = Curl(agent, b" " * size, "-H", "Expect:", "--limit-rate", "20M")
            self.assertEqual((reply.status, reply.code()), (status, code), reply)
        self.assertEqual(admission_of(agent), (0, 0))

    def test_hopeless_deadline_is_refused_at_once(self):
        agent = self.enterContext(Agent(models=[
            {"name": "slow", "executor": "identity",
             "identity": {"batch_micros": 400000}, "batch": {"max_batch_size": 1}}]))
        wait_ready(agent)
        ask = {"model": "slow", "prompt": "x", "max_tokens": 1}
        waiting = [threading.Thread(target=agent.request, args=("POST", "/infer", ask))
                   for _ in range(8)]
        self.assertEqual(agent.request("POST", "/infer", ask).status, 200)  # measured now
        for thread in waiting:
            thread.start()

        def queued():
            families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
            return prometheus.value(families, "weir_model_queued", model="slow") >= 6

        wait_until(queued, "six wait")
        start = time.monotonic()
        refused = Curl(agent, ask, "-H", "x-weir-timeout-ms: 300")
        self.assertLess(time.monotonic() - start, 0.3, "not only when the time was up")
        self.assertEqual((refused.status, refused.code()), (429, "deadline"), refused)
        self.assertEqual(refused.headers["x-should-retry"], "false")
        self.assertNotIn("retry-after", refused.headers)
        for thread in waiting:
            thread.join(20)

    def test_bad_headers_are_named(self):
        agent = self.agent({})
        for header, value in (("x-weir-priority", "8"), ("x-weir-timeout-ms", "0"),
                              ("x-weir-tenant", "a b"), ("x-weir-model", "x/y")):
            with self.subTest(header=header):
                refused = Curl(agent, PROMPT, "-H", f"{header}: {value}")
                self.assertEqual((refused.status, refused.code()), (400, "invalid_header"))
                error = json.loads(refused.body)["error"]
                self.assertEqual(error["param"], header)
                self.assertIn(f'"{value}"', error["message"])
        self.assertEqual(Curl(agent, PROMPT, "-H", "x-weir-priority: 0").status, 200)

    def test_storm_of_aborted_uploads_leaves_nothing_reserved(self):
        agent = self.agent({"memory_bytes": 8 * MIB})
        body = json.dumps({**PROMPT, "prompt": "x " * 20000}).encode()
        for i in range(400):
            connection = upload(agent, len(body), body[:i * len(body) // 400])
            if i % 2:  # a reset instead of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.close()
        wait_until(lambda: admission_of(agent) == (0, 0), "nothing is set aside")
        self.assertEqual(Curl(agent, PROMPT).status, 200)


if __name__ == "__main__":
    unittest.main()
