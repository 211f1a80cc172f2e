# SPDX-License-Identifier: Apache-2.0
"""Every way to ask wrongly gets a status, a code, and the field that was wrong."""
import http.client
import socket
import unittest

from node import MODEL_NAME, Agent, model, wait_ready

GOOD = {"model": MODEL_NAME, "prompt": "Once", "max_tokens": 4}


class HttpErrors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.agent = cls.enterClassContext(
            Agent(models=[model(), model(name="other", preload=False)],
                  serve={"max_body_bytes": 4096}))
        wait_ready(cls.agent)

    def tearDown(self):
        self.assertEqual(self.agent.request("POST", "/infer", GOOD).status, 200,
                         "the next good request must be served")

    def refused(self, reply, status, param=None):
        self.assertEqual(reply.status, status, reply)
        self.assertEqual(reply.headers.get_content_type(), "application/json")
        self.assertEqual(set(reply.json()), {"error"})
        error = reply.json()["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(error["message"] and error["type"], error)
        if param is not None:
            self.assertEqual(error["param"], param, error)
        return error

    def test_bad_json(self):
        for path in ("/infer", "/v1/completions"):
            for body in (b"{", b"", b"[1,2]", b"\xff\xfe", b'{"model":'):
                with self.subTest(path=path, body=body):
                    self.refused(self.agent.request("POST", path, body), 400)

    def test_deep_json_is_refused(self):
        self.refused(self.agent.request("POST", "/infer", b"[" * 4000), 400)

    def test_unknown_model_is_named(self):
        for path in ("/infer", "/v1/completions"):
            with self.subTest(path=path):
                error = self.refused(
                    self.agent.request("POST", path, {**GOOD, "model": "no-such"}), 404, "model")
                self.assertIn("no-such", error["message"])

    def test_wrong_type_or_range_names_the_field(self):
        wrong = {"model": 7, "prompt": {"text": "x"}, "max_tokens": "many", "priority": "high",
                 "temperature": "hot", "seed": "x", "stop": 5}
        ranges = {"max_tokens": 0, "temperature": -1}
        for table in (wrong, ranges):
            for field, value in table.items():
                with self.subTest(field=field, value=value):
                    self.refused(
                        self.agent.request("POST", "/infer", {**GOOD, field: value}), 400, field)

    def test_missing_fields_are_named(self):
        for field in ("model", "prompt"):
            body = {k: v for k, v in GOOD.items() if k != field}
            with self.subTest(field=field):
                self.refused(self.agent.request("POST", "/infer", body), 400, field)

    def test_body_over_the_limit(self):
        self.refused(self.agent.request("POST", "/infer", {**GOOD, "prompt": "x" * 5000}), 413)

    def test_announced_body_over_the_limit_is_refused_unread(self):
        host, port = self.agent.http.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        self.addCleanup(connection.close)
        connection.putrequest("POST", "/infer")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders()
        self.assertEqual(connection.getresponse().status, 413)

    def test_prompt_longer_than_the_context(self):
        error = self.refused(
            self.agent.request("POST", "/infer", {**GOOD, "prompt": "z9 " * 1000}), 400)
        self.assertIn("512", error["message"])

    def test_wrong_method_says_which_is_right(self):
        for method, path, right in (("GET", "/infer", "POST"), ("PUT", "/metrics", "GET"),
                                    ("DELETE", "/v1/completions", "POST"),
                                    ("POST", "/v1/models", "GET")):
            with self.subTest(method=method, path=path):
                reply = self.agent.request(method, path)
                self.refused(reply, 405)
                self.assertIn(right, reply.headers["Allow"])

    def test_body_that_is_not_declared_json(self):
        error = self.refused(self.agent.request(
            "POST", "/infer", GOOD, {"Content-Type": "application/x-www-form-urlencoded"}), 415)
        self.assertIn("application/json", error["message"])

    def test_unknown_path(self):
        self.refused(self.agent.request("GET", "/no/such/path"), 404)

    def test_not_http_gets_an_answer_or_the_door(self):
        host, port = self.agent.http.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            answer = sock.recv(4096)
        self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer)
