# SPDX-License-Identifier: Apache-2.0
"""A long prompt beside streams is computed between their steps, and nobody says anything else."""
import http.client
import json
import socket
import threading
import unittest

import prometheus
from harness import wait_until
from node import MODEL_NAME, Agent, model, wait_ready

# Kept from ending a story, the model goes on and on.
ENDLESS = {"temperature": 0, "logit_bias": {"0": -100, "2": -100}}
STREAMS = ("Tom saw a big red ball. Mia saw a big red ball. " * 6, "One, two, three, four. " * 10)
STREAM_TOKENS = 2000
ANSWER_TOKENS = 24
# Tokens whose logarithms differ by less may change places where libllama rounds in another way in
# a batch of another size.
TIE = 0.01


def long_prompt(begin, verses):
    """Of a dozen tokens for each verse."""
    return begin + " Lily had a red ball. Tom had a blue boat." * verses


class Stream(threading.Thread):
    """A completion, piece by piece, until it ends or is left. Starts at once."""

    def __init__(self, agent, prompt, max_tokens, at_first_piece=None):
        super().__init__(daemon=True)
        self.pieces = []
        self.finish_reason = None
        self._at_first_piece = at_first_piece
        host, port = agent.http.split(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=30)
        self._connection.request("POST", "/v1/completions", json.dumps(
            {"model": MODEL_NAME, "prompt": prompt, "max_tokens": max_tokens, "stream": True,
             **ENDLESS}), {"Content-Type": "application/json"})
        # http.client gives the socket to the response, which closes it when it has been read.
        self._socket = self._connection.sock.dup()
        self.start()

    def run(self):
        try:
            for line in self._connection.getresponse():
                if line.startswith(b"data: {"):
                    self._take(json.loads(line[len(b"data: "):])["choices"][0])
        except (OSError, http.client.HTTPException):
            pass  # left
        finally:
            self._connection.close()
            self._socket.close()

    def _take(self, choice):
        if choice["text"] and not self.pieces and self._at_first_piece:
            self._at_first_piece()
        if choice["text"]:
            self.pieces.append(choice["text"])
        self.finish_reason = choice["finish_reason"] or self.finish_reason

    def leave(self):
        self._socket.shutdown(socket.SHUT_RDWR)

    def whole(self):
        """Its text, once it has ended by itself."""
        self.join(30)
        assert self.finish_reason == "length", self.finish_reason
        return "".join(self.pieces)


class LongPrompts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Without what prompts have in common each long one is computed from its beginning.
        cls.agent = cls.enterClassContext(Agent(models=[
            model(max_sequences=4, context_tokens=8192, prefix_reuse=False)]))
        wait_ready(cls.agent)
        cls.told = {prompt: cls.certain(prompt, STREAM_TOKENS) for prompt in STREAMS}

    @classmethod
    def certain(cls, prompt, max_tokens):
        """What is said to it alone, up to where another batch might make a difference."""
        reply = cls.agent.request("POST", "/v1/completions", {
            "model": MODEL_NAME, "prompt": prompt, "max_tokens": max_tokens, "logprobs": 5,
            **ENDLESS})
        assert reply.status == 200, reply
        logprobs = reply.json()["choices"][0]["logprobs"]
        text = ""
        for token, own, top in zip(*(logprobs[f] for f in
                                     ("tokens", "token_logprobs", "top_logprobs"))):
            # What is more likely than the chosen one is forbidden.
            if any(own - TIE < other <= own for name, other in top.items() if name != token):
                return text
            text += token
        return text

    def metrics(self):
        return prometheus.parse(self.agent.request("GET", "/metrics").body.decode())

    def counts(self):
        families = self.metrics()
        return {name: prometheus.value(families, f"weir_model_{name}", model=MODEL_NAME, **labels)
                for name, labels in (("sliced_prompts_total", {}), ("sliced_drops_total", {}),
                                     ("prompt_tokens_total", {}), ("decode_steps_total", {}),
                                     ("parks_total", {}), ("running", {}),
                                     ("requests_finished_total", {"outcome": "cancelled"}))}

    def since(self, name):
        return self.counts()[name] - self.before[name]

    def streams(self):
        """Some that generate, and have done so for long enough that steps have a known price."""
        streams = [Stream(self.agent, prompt, STREAM_TOKENS) for prompt in STREAMS]
        wait_until(lambda: all(len(s.pieces) > 20 for s in streams), "both streams run",
                   period=0.001)
        self.before = self.counts()
        return streams

    def assert_told(self, streams):
        for prompt, stream in zip(STREAMS, streams):
            said = stream.whole()
            self.assertGreater(len(self.told[prompt]), 500)
            self.assertEqual(said[:len(self.told[prompt])], self.told[prompt])

    def assert_answered(self, prompt, stream):
        expected = self.certain(prompt, ANSWER_TOKENS)
        self.assertGreater(len(expected), 20)
        self.assertEqual(stream.whole()[:len(expected)], expected)

    def assert_nothing_left(self):
        def held():
            families = self.metrics()
            names = ("running", "queued", "resting", "parked", "parked_bytes", "kv_cells_in_use",
                     "kv_cells_kept")
            return {name: value for name in names if
                    (value := prometheus.value(families, f"weir_model_{name}", model=MODEL_NAME))}

        wait_until(lambda: not held(), "nobody holds anything")

    def test_streams_go_on_while_it_is_computed(self):
        streams = self.streams()
        heard = []

        def hear():
            heard.append([len(s.pieces) for s in streams])

        hear()
        prompt = long_prompt("One day", 130)
        answer = Stream(self.agent, prompt, ANSWER_TOKENS, at_first_piece=hear)
        answer.whole()
        self.assertTrue(all(s.is_alive() for s in streams), "too short for this test")
        before, after = heard
        self.assertGreater(min(b - a for a, b in zip(before, after)), 10, heard)
        self.assert_told(streams)
        self.assertEqual(self.since("sliced_prompts_total"), 1)
        self.assertEqual(self.since("sliced_drops_total"), 0)
        self.assertEqual(self.since("parks_total"), 0)
        self.assert_answered(prompt, answer)
        self.assert_nothing_left()

    def test_who_leaves_half_way_is_gone_and_the_streams_go_on(self):
        streams = self.streams()
        answer = Stream(self.agent, long_prompt("One day", 550), ANSWER_TOKENS)
        wait_until(lambda: self.counts()["running"] == 3, "it is worked on", period=0.001)
        # The first slice comes after the next step.
        steps = self.since("decode_steps_total")
        wait_until(lambda: self.since("decode_steps_total") > steps + 4, "steps go on",
                   period=0.001)
        answer.leave()
        wait_until(lambda: self.since("sliced_drops_total"), "it is given up")
        answer.join(30)
        self.assertEqual(answer.pieces, [])
        self.assertEqual(self.since("sliced_drops_total"), 1)
        self.assertEqual(self.since("sliced_prompts_total"), 0)
        self.assertEqual(self.since("requests_finished_total"), 1)
        self.assertLess(self.since("prompt_tokens_total"), 6000, "it was computed to its end")
        self.assertTrue(all(s.is_alive() for s in streams), "too short for this test")
        self.assert_told(streams)
        self.assert_nothing_left()

    def test_two_at_once_are_computed_one_after_the_other(self):
        streams = self.streams()
        prompts = [long_prompt(begin, 100) for begin in ("One day", "Tom and Mia")]
        answers = [Stream(self.agent, prompt, ANSWER_TOKENS) for prompt in prompts]
        for answer in answers:
            answer.whole()
        self.assertTrue(all(s.is_alive() for s in streams), "too short for this test")
        self.assert_told(streams)
        self.assertEqual(self.since("sliced_prompts_total"), 2)
        self.assertEqual(self.since("sliced_drops_total"), 0)
        for prompt, answer in zip(prompts, answers):
            self.assert_answered(prompt, answer)
        self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main()
