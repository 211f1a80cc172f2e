# SPDX-License-Identifier: Apache-2.0
"""How tokens are chosen, as clients ask for it over HTTP: biases, log probabilities, JSON."""
import json
import math
import unittest

from node import MODEL_NAME, Agent, model, wait_ready

ASK = {"model": MODEL_NAME, "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}


class Sampling(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.enterClassContext(Agent(models=[model()]))
        wait_ready(cls.agent)

    def post(self, path="/v1/completions", status=200, **fields):
        reply = self.agent.request("POST", path, {**ASK, **fields})
        self.assertEqual(reply.status, status, reply.body)
        return reply.json()

    def test_logprobs_are_of_the_text_whole_and_streamed(self):
        choice = self.post(logprobs=3)["choices"][0]
        logprobs = choice["logprobs"]
        self.assertEqual("".join(logprobs["tokens"]), choice["text"])
        self.assertEqual(len(logprobs["tokens"]), 16)
        for token, own, top in zip(logprobs["tokens"], logprobs["token_logprobs"],
                                   logprobs["top_logprobs"]):
            self.assertLessEqual(own, 0)
            self.assertEqual(top[token], own)
            self.assertEqual(max(top.values()), own)  # greedy
            self.assertLessEqual(sum(math.exp(value) for value in top.values()), 1 + 1e-5)
        offset = 0
        for token, at in zip(logprobs["tokens"], logprobs["text_offset"]):
            self.assertEqual(at, offset)
            offset += len(token)

        reply = self.agent.request("POST", "/v1/completions",
                                   {**ASK, "logprobs": 3, "stream": True})
        body = reply.body if isinstance(reply.body, str) else reply.body.decode()
        events = [json.loads(line[len("data: "):]) for line in body.splitlines()
                  if line.startswith("data: {")]
        pieces = [e["choices"][0]["logprobs"] for e in events]
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [value for piece in pieces if piece for value in piece[field]]
            self.assertEqual(joined, logprobs[field])

    def test_nobody_gets_logprobs_unasked(self):
        self.assertIsNone(self.post()["choices"][0]["logprobs"])
        self.assertNotIn("logprobs", self.post("/infer"))
        self.assertEqual(len(self.post("/infer", logprobs=0)["logprobs"]["tokens"]), 16)

    def test_a_bias_forces_a_token_and_forbids_one(self):
        free = self.post(logprobs=1)["choices"][0]["logprobs"]["tokens"]
        forced = self.post(logprobs=1, logit_bias={"300": 100})["choices"][0]["logprobs"]
        self.assertEqual(len(set(forced["tokens"])), 1, forced["tokens"])
        self.assertNotEqual(forced["tokens"], free)
        # The figures stay those of the model.
        self.assertLess(max(forced["token_logprobs"]), 0)

        error = self.post(status=400, logit_bias={"99999999": 1})["error"]
        self.assertEqual(error["param"], "logit_bias")
        self.assertIn("must name tokens in 0..", error["message"])

    def test_penalties_change_what_is_repeated(self):
        free = self.post(max_tokens=60)["choices"][0]["text"]
        for fields in ({"repetition_penalty": 1.8}, {"frequency_penalty": 2},
                       {"presence_penalty": 2}):
            text = self.post(max_tokens=60, **fields)["choices"][0]["text"]
            self.assertNotEqual(text, free, fields)
            off = self.post(max_tokens=60, repeat_last_n=0, **fields)["choices"][0]["text"]
            self.assertEqual(off, free, fields)

    def test_a_schema_yields_json_of_it(self):
        schema = {"type": "object",
                  "properties": {"name": {"type": "string", "maxLength": 20},
                                 "age": {"type": "integer", "minimum": 1, "maximum": 99},
                                 "pets": {"type": "array", "maxItems": 2,
                                          "items": {"enum": ["cat", "dog"]}}},
                  "required": ["name", "age", "pets"], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "child", "schema": schema}}
        for temperature in (0, 1):
            choice = self.post(response_format=form, max_tokens=200, temperature=temperature,
                               seed=5)["choices"][0]
            self.assertEqual(choice["finish_reason"], "stop")
            child = json.loads(choice["text"])
            self.assertEqual(list(child), ["name", "age", "pets"])
            self.assertIsInstance(child["name"], str)
            self.assertIn(child["age"], range(1, 100))
            self.assertTrue(set(child["pets"]) <= {"cat", "dog"} and len(child["pets"]) <= 2)

    def test_a_grammar_through_infer(self):
        reply = self.post("/infer", grammar='root ::= ("yes" | "no") " " [0-9]{3}', temperature=1)
        self.assertRegex(reply["result"], r"^(yes|no) [0-9]{3}$")
        self.assertEqual(reply["finish_reason"], "stop")

    def test_what_cannot_be_used_is_refused_with_the_place(self):
        for fields, param, part in (
                ({"grammar": "root ::= (\"a\""}, "grammar", "line 1, column 10"),
                ({"json_schema": {"properties": {"a": {"type": "string", "pattern": "x"}}}},
                 "json_schema", "#/properties/a"),
                ({"logprobs": 6}, "logprobs", "0..5"),
                ({"min_p": 2}, "min_p", "[0, 1]")):
            error = self.post(status=400, **fields)["error"]
            self.assertEqual(error["param"], param)
            self.assertIn(part, error["message"])

    def test_a_hostile_grammar_does_not_hold_the_others_up(self):
        # Ends with what the model does not say by itself, so that the text becomes long.
        error = self.post(status=400, max_tokens=400, temperature=1, seed=1,
                          grammar='root ::= more "|"\nmore ::= more more more | more more | [a-z ]'
                          )["error"]
        self.assertEqual(error["param"], "grammar")
        self.assertTrue(self.post()["choices"][0]["text"])
