# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as `curl -N` shows them."""
import json

from harness import SERVICE, Cgroup, KernelTest
from node import LOCAL, MODEL_NAME, STILL, Agent, model, service, wait_idle, wait_ready


class Streaming(KernelTest):
    def test_chunks_join_to_the_whole_text_and_end_with_done(self):
        cgroup = self.enterContext(Cgroup())
        agent = self.enterContext(Agent(cgroup, [service(LOCAL)], [model()], control=STILL))
        wait_ready(agent)
        ask = {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 32,
               "temperature": 0}
        whole = agent.request("POST", "/v1/completions", ask).json()

        status, output = cgroup.run(
            ["curl", "-sSN", "-m", "20", "-D", "-", "-H", "Content-Type: application/json",
             "-d", json.dumps({**ask, "stream": True, "stream_options": {"include_usage": True}}),
             f"http://{SERVICE}/v1/completions"])
        self.assertEqual(status, 0, output)
        header, _, body = output.replace("\r\n", "\n").partition("\n\n")
        self.assertRegex(header.lower(), r"(?m)^http/1\.1 200")
        self.assertRegex(header.lower(), r"(?m)^content-type: text/event-stream")

        events = [e for e in body.split("\n\n") if e.strip()]
        self.assertTrue(all(e.startswith("data: ") for e in events), events)
        self.assertEqual(events[-1], "data: [DONE]")
        chunks = [json.loads(e[len("data: "):]) for e in events[:-1]]
        self.assertGreater(len(chunks), 8, "the text came in one piece")
        choices = [c["choices"][0] for c in chunks if c["choices"]]
        self.assertEqual("".join(c["text"] for c in choices), whole["choices"][0]["text"])
        reasons = [c["finish_reason"] for c in choices if c.get("finish_reason")]
        self.assertEqual(reasons, [whole["choices"][0]["finish_reason"]])
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        usages = [c["usage"] for c in chunks if c.get("usage")]
        self.assertEqual(usages, [whole["usage"]])
        wait_idle(agent)
