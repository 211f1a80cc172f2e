# SPDX-License-Identifier: Apache-2.0
"""Embedding and reranking over HTTP, with small models of random weights."""
import base64
import json
import math
import struct
import subprocess
import threading
import unittest

import prometheus
from harness import BIN, MODEL, Scratch
from node import MODEL_NAME, Agent, model

WIDTH = 128
TEXTS = ["the red bird", "a story of a tree", "she walked with her friend to the old garden"]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b))


class Embeddings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.close)
        cls.files = {}
        for pooling in ("mean", "rank"):
            cls.files[pooling] = cls.scratch.path / f"{pooling}.gguf"
            subprocess.run([BIN / "weir-synth-model", cls.files[pooling], "--shape", "bert-tiny",
                            "--type", "f16", "--context", "128", "--pooling", pooling,
                            "--tokenizer", MODEL], check=True, capture_output=True)

    def setUp(self):
        self.agent = self.enterContext(Agent(models=[
            model(),
            {"name": "bert", "path": str(self.files["mean"]), "task": "embed"},
            {"name": "rank", "path": str(self.files["rank"]), "task": "score"}]))

    def embed(self, texts, **fields):
        return self.agent.request("POST", "/v1/embeddings", {"input": texts, **fields})

    def vectors(self, texts, **fields):
        reply = self.embed(texts, **fields)
        self.assertEqual(reply.status, 200, reply)
        return [item["embedding"] for item in reply.json()["data"]]

    def test_vectors_are_the_same_alone_together_and_in_base64(self):
        together = self.vectors(TEXTS)
        self.assertEqual([len(v) for v in together], [WIDTH] * len(TEXTS))
        for text, vector in zip(TEXTS, together):
            self.assertAlmostEqual(sum(x * x for x in vector), 1, places=5)
            self.assertGreater(cosine(self.vectors(text)[0], vector), 1 - 1e-4)
        coded = self.vectors(TEXTS[0], encoding_format="base64")[0]
        floats = struct.unpack(f"<{WIDTH}f", base64.b64decode(coded, validate=True))
        self.assertGreater(cosine(floats, together[0]), 1 - 1e-4)
        short = self.vectors(TEXTS[0], dimensions=16)[0]
        self.assertEqual(len(short), 16)
        self.assertGreater(cosine(short, together[0][:16]), 1 - 1e-4)

    def test_many_clients_share_batches(self):
        expected = self.vectors(TEXTS)
        wrong = []

        def client(number):
            for i in range(20):
                at = (number + i) % len(TEXTS)
                vector = self.vectors([TEXTS[at]])[0]
                if cosine(vector, expected[at]) < 1 - 1e-4:
                    wrong.append((number, i))
        clients = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        self.assertEqual(wrong, [])
        text = self.agent.request("GET", "/metrics").body.decode()
        found = prometheus.parse(text)
        self.assertEqual(prometheus.value(found, "weir_model_batch_size_sum", model="bert"),
                         160 + len(TEXTS))

    def test_documents_come_by_falling_score(self):
        asked = {"query": "where is the bird", "documents": TEXTS, "return_documents": True}
        reply = self.agent.request("POST", "/v1/rerank", asked)
        self.assertEqual(reply.status, 200, reply)
        results = reply.json()["results"]
        self.assertEqual(sorted(r["index"] for r in results), [0, 1, 2])
        scores = [r["relevance_score"] for r in results]
        self.assertEqual(scores, sorted(scores, reverse=True))
        for result in results:
            self.assertEqual(result["document"]["text"], TEXTS[result["index"]])
        best = self.agent.request("POST", "/v1/rerank", {**asked, "top_n": 1}).json()["results"]
        self.assertEqual([r["index"] for r in best], [results[0]["index"]])

    def test_what_cannot_be_done_says_what_could(self):
        long = self.embed(["fine", "tree " * 400])
        self.assertEqual(long.status, 400, long)
        error = long.json()["error"]
        self.assertEqual(error["param"], "input")
        self.assertRegex(error["message"], r"input\[1\] has \d+ tokens; this model takes at most 128")
        wide = self.embed("x", dimensions=WIDTH + 1)
        self.assertEqual(wide.status, 400, wide)
        self.assertIn(f"1..{WIDTH}", wide.json()["error"]["message"])
        for path, body in (("/v1/embeddings", {"model": MODEL_NAME, "input": "x"}),
                           ("/v1/completions", {"model": "bert", "prompt": "x"}),
                           ("/v1/rerank", {"model": "bert", "query": "x", "documents": ["y"]})):
            wrong = self.agent.request("POST", path, body)
            self.assertEqual(wrong.status, 400, wrong)

    def test_curl(self):
        run = subprocess.run(
            ["curl", "-sS", f"http://{self.agent.http}/v1/embeddings", "-H",
             "Content-Type: application/json", "-d", json.dumps({"input": TEXTS})],
            capture_output=True, text=True, timeout=30)
        self.assertEqual(run.returncode, 0, run.stderr)
        answer = json.loads(run.stdout)
        self.assertEqual([item["index"] for item in answer["data"]], [0, 1, 2])
        self.assertEqual(answer["model"], "bert")
        self.assertEqual(answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"])


if __name__ == "__main__":
    unittest.main()
