# SPDX-License-Identifier: Apache-2.0
"""One-shot work through the whole agent: batches form, are counted, and nobody waits in vain."""
import json
import subprocess
import threading
import time
import unittest

import prometheus
from harness import wait_until
from node import Agent

MODEL_NAME = "echo"


def echo(batch=None, identity=None, **fields):
    found = {"name": MODEL_NAME, "executor": "identity", **fields}
    if batch is not None:
        found["batch"] = batch
    if identity is not None:
        found["identity"] = identity
    return found


def ask(agent, prompt, **fields):
    return agent.request("POST", "/infer", {"model": MODEL_NAME, "prompt": prompt, **fields})


def at_once(agent, count, **fields):
    """The replies to `count` requests that are sent together, in the order of their prompts."""
    replies, start = [None] * count, threading.Barrier(count)

    def one(number):
        start.wait()
        replies[number] = ask(agent, f"prompt {number}", **fields)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return replies


def metric(agent, name, **labels):
    metrics = prometheus.parse(agent.request("GET", "/metrics").body.decode())
    return prometheus.value(metrics, name, model=MODEL_NAME, **labels)


def await_metric(agent, number, name, **labels):
    """A batch is counted a moment after its members have their answers."""
    wait_until(lambda: metric(agent, name, **labels) == number, f"{name} is {number}")


class Batching(unittest.TestCase):
    def test_curl_gets_its_prompt_back(self):
        agent = self.enterContext(Agent(models=[echo()]))
        run = subprocess.run(
            ["curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json", "-d",
             json.dumps({"model": MODEL_NAME, "prompt": "what goes in"}),
             f"http://{agent.http}/infer"], capture_output=True, text=True, timeout=20)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertEqual(json.loads(run.stdout)["result"], "what goes in")

    def test_the_model_is_listed_with_what_executes_it(self):
        agent = self.enterContext(Agent(models=[echo()]))
        (listed,) = agent.request("GET", "/v1/models").json()["data"]
        self.assertEqual((listed["id"], listed["state"], listed["executor"]),
                         (MODEL_NAME, "ready", "identity"))

    def test_requests_that_come_together_are_one_batch(self):
        count = 16
        agent = self.enterContext(Agent(models=[echo(
            batch={"batch_timeout_micros": 5_000_000, "preferred_batch_size": count})]))
        replies = at_once(agent, count)
        self.assertEqual([r.json()["result"] for r in replies],
                         [f"prompt {n}" for n in range(count)])
        await_metric(agent, 1, "weir_model_batches_total", cause="preferred")
        await_metric(agent, 1, "weir_model_batch_size_count")
        await_metric(agent, count, "weir_model_batch_size_sum")

    def test_a_lone_request_waits_the_window_and_no_longer(self):
        agent = self.enterContext(Agent(models=[echo(batch={"batch_timeout_micros": 300_000})]))
        begin = time.monotonic()
        self.assertEqual(ask(agent, "x").status, 200)
        self.assertGreaterEqual(time.monotonic() - begin, 0.3)
        await_metric(agent, 1, "weir_model_batches_total", cause="timeout")

    def test_every_mode_answers(self):
        for mode in ("fixed", "levels", "learned"):
            with self.subTest(mode), Agent(models=[echo(
                    batch={"mode": mode, "instances": 2},
                    identity={"batch_micros": 1000, "item_micros": 100})]) as agent:
                for _ in range(3):
                    replies = at_once(agent, 8)
                    self.assertEqual([r.status for r in replies], [200] * 8)
                await_metric(agent, 24, "weir_model_batch_size_sum")

    def test_a_client_that_leaves_frees_its_place(self):
        agent = self.enterContext(Agent(models=[echo(
            batch={"batch_timeout_micros": 10_000_000, "preferred_batch_size": 32})]))
        client = subprocess.Popen(
            ["curl", "-sS", "-H", "Content-Type: application/json", "-d",
             json.dumps({"model": MODEL_NAME, "prompt": "x"}), f"http://{agent.http}/infer"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: metric(agent, "weir_model_queued") == 1, "the request waits")
        finally:
            client.kill()
            client.wait()
        wait_until(lambda: metric(agent, "weir_model_queued") == 0, "its place is free", 5)
        self.assertEqual(
            metric(agent, "weir_model_requests_finished_total", outcome="cancelled"), 1)
        self.assertEqual(metric(agent, "weir_model_batch_size_count"), 0)

    def test_a_deadline_ends_the_wait_for_an_instance(self):
        agent = self.enterContext(Agent(models=[echo(
            batch={"max_batch_size": 1, "batch_timeout_micros": 0},
            identity={"batch_micros": 2_000_000})]))
        first = threading.Thread(target=ask, args=(agent, "first"))
        first.start()
        self.addCleanup(first.join)
        wait_until(lambda: metric(agent, "weir_model_running") == 1, "the first is executed")
        begin = time.monotonic()
        reply = ask(agent, "second", deadline_ms=100)
        self.assertLess(time.monotonic() - begin, 1.5)
        self.assertEqual(reply.status, 429, reply)
        self.assertEqual(reply.json()["error"]["code"], "deadline")

    def test_the_configuration_says_what_does_not_fit(self):
        with self.assertRaisesRegex(AssertionError, "applies to executor identity only"):
            Agent(models=[{"name": "m", "path": "x.gguf", "identity": {"busy": True}}])
        with self.assertRaisesRegex(AssertionError, "is more than max_batch_size"):
            Agent(models=[echo(batch={"max_batch_size": 4, "preferred_batch_size": 5})])


if __name__ == "__main__":
    unittest.main()
