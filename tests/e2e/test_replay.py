# SPDX-License-Identifier: Apache-2.0
"""`weir replay` against a real agent: what it reports is what the agent counted itself."""
import gzip
import json
import subprocess
import unittest

import prometheus
from harness import BIN, Scratch
from node import MODEL_NAME, Agent, model, wait_ready

# (s, prompt tokens, output tokens)
ARRIVALS = [(0.02 * i, 4 + i % 7, 2 + i % 5) for i in range(40)]


class Replay(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(Scratch()).path

    def replay(self, *arguments, status=0):
        run = subprocess.run([BIN / "weir", "replay", *map(str, arguments)], capture_output=True,
                             text=True, timeout=60)
        self.assertEqual(run.returncode, status, run)
        return run

    def report(self, agent, *arguments):
        path = self.folder / "report.json"
        self.replay("--target", f"http://{agent.http}", "--model", MODEL_NAME, "--json", path,
                    "--quiet", *arguments)
        return json.loads(path.read_text())

    def metrics(self, agent):
        families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
        return lambda name, **labels: prometheus.value(families, name, **labels)

    def csv(self):
        path = self.folder / "trace.csv"
        path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n"
                        + "".join(f"{100 + at:.3f},{p},{o}\n" for at, p, o in ARRIVALS))
        return path

    def test_reports_that_cannot_be_written_are_told_of_before_anything_is_sent(self):
        agent = self.enterContext(Agent(models=[model()]))
        wait_ready(agent)
        for path in ("/nonexistent/report", self.folder):
            for option in ("--html", "--json"):
                run = self.replay("--target", f"http://{agent.http}", "--model", MODEL_NAME,
                                  "--poisson", 20, "--limit", 1, option, path, status=1)
                self.assertIn(str(path), run.stderr)
        self.assertEqual(self.metrics(agent)("weir_model_requests_accepted_total"), 0)
        self.assertEqual(list(self.folder.glob("report*")), [])

    def test_counts_and_tokens_agree_with_the_agent(self):
        agent = self.enterContext(Agent(models=[model()]))
        wait_ready(agent)
        report = self.report(agent, "--trace", self.csv(), "--class", "high:1:0", "--class",
                             "low:2:6", "--tenant", "a:1", "--tenant", "b:1")
        every, metric = report["all"], self.metrics(agent)
        self.assertEqual(every["planned"], len(ARRIVALS))
        self.assertEqual(every["ok"], len(ARRIVALS))
        self.assertEqual(metric("weir_http_requests_total", path="/infer", code="200"),
                         every["ok"])
        self.assertEqual(metric("weir_model_requests_accepted_total"), every["ok"])
        self.assertEqual(metric("weir_model_completion_tokens_total"),
                         every["completion_tokens"])
        self.assertEqual(metric("weir_model_prompt_tokens_total"), every["prompt_tokens"])
        for group in ("classes", "tenants"):
            self.assertEqual(sum(g["ok"] for g in report[group].values()), every["ok"])
        self.assertEqual(report["load"]["trace"]["format"], "csv")
        # It sent when the trace said, not as fast as it could.
        self.assertGreaterEqual(report["elapsed_s"], ARRIVALS[-1][0])
        self.assertEqual(every["e2e_ms"]["count"], every["ok"])

    def test_streams_a_packed_trace_and_draws_a_page(self):
        agent = self.enterContext(Agent(models=[model()]))
        wait_ready(agent)
        trace, page = self.folder / "trace.gz", self.folder / "report.html"
        with gzip.open(trace, "wt") as out:
            for at, prompt, output in ARRIVALS:
                out.write(json.dumps({"timestamp": at * 1000, "input_length": prompt,
                                      "output_length": output, "hash_ids": [3]}) + "\n")
        report = self.report(agent, "--trace", trace, "--speed", 2, "--limit", 20, "--api",
                             "completions", "--slo", "ttft=10s,itl=10s", "--html", page)
        every, metric = report["all"], self.metrics(agent)
        self.assertEqual(every["ok"], 20)
        self.assertEqual(every["goodput"]["met"], 20)
        self.assertEqual(metric("weir_model_completion_tokens_total"),
                         every["completion_tokens"])
        # Between the events with text of each stream: hardly more than tokens, the last event may
        # bring what was held back before it.
        self.assertGreater(every["itl_ms"]["count"], 0)
        self.assertLessEqual(every["itl_ms"]["count"], every["completion_tokens"])
        self.assertLess(every["ttft_ms"]["p50"], every["e2e_ms"]["p50"])
        text = page.read_text()
        self.assertEqual(text.count("<svg"), 6)
        self.assertNotIn("http://", text)

    def test_a_url_that_the_target_does_not_have_is_told_in_its_words(self):
        agent = self.enterContext(Agent(models=[model()]))
        run = self.replay("--poisson", 100, "--limit", 5, "--target",
                          f"http://{agent.http}/infre", status=1)
        said = "there is no POST /infre; there is: "
        self.assertIn(f"error 404 unknown_url: 5, the first: {said}", run.stdout)
        self.assertIn(f"no request had a result from {agent.http}; 5 of 5 ended with "
                      f"404 unknown_url: {said}", run.stderr)

    def test_refusals_are_those_that_the_agent_counted(self):
        agent = self.enterContext(Agent(models=[model(max_sequences=1, max_queue=1)]))
        wait_ready(agent)
        report = self.report(agent, "--poisson", 400, "--duration", 1, "--output-tokens", 100)
        every, metric = report["all"], self.metrics(agent)
        self.assertGreater(every["ok"], 0)
        self.assertGreater(every["refused"], 0)
        self.assertEqual(every["planned"], every["ok"] + every["refused"])
        self.assertEqual(every["refusals"]["429 queue_full"]["count"], every["refused"])
        self.assertEqual(metric("weir_http_refusals_total", reason="queue_full"),
                         every["refused"])
        self.assertEqual(metric("weir_model_requests_accepted_total"), every["ok"])

    def test_wrong_input_is_named_and_nobody_at_the_target_is_said(self):
        trace = self.csv()
        trace.write_text(trace.read_text() + "1,x,2\n")
        run = self.replay("--trace", trace, "--target", "127.0.0.1:1", status=2)
        self.assertIn(f"{trace}:{len(ARRIVALS) + 2}: num_prefill_tokens \"x\" is no number",
                      run.stderr)
        run = self.replay("--poisson", 1, "--target", "127.0.0.1:1", status=1)
        self.assertIn("cannot connect to 127.0.0.1:1: Connection refused", run.stderr)
        run = self.replay("--poisson", 1, "--target", "127.99.0.1", status=1)
        self.assertIn("cannot connect to 127.99.0.1 (port 80, as none is given)", run.stderr)
        run = self.replay("--target", "127.0.0.1:1", status=2)
        self.assertIn("exactly one of --trace, --poisson and --closed", run.stderr)
