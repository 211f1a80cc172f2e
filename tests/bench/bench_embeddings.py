#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Embeddings over HTTP: texts per second beside llama-server, and beside the agent without batches.

Models: random weights in the shapes of a tiny BERT (0.5 M, one thread) and of MiniLM L6 (22 M, a
thread for each of up to two CPUs), in F16; every server has the same file and as many threads. wrk
sends a text with each request, in a closed loop of so many connections; texts differ.

  weir          as it is configured by default
  unbatched     the same with max_batch_size 1: the same instances, a text in each call
  one           the same with one instance besides: one text at a time, on all threads
  llama-server  --embedding --pooling mean, with a slot for each connection

Rounds are interleaved: within each every server runs every row, one right after the other, in turns
first. A ratio is taken within a round, that of a row is the median of its rounds, and of a field the
worst row counts. Before that, each text of a few must have the same vector (cosine above 0.9999)
from both servers.

A p99 is of what was answered: who waits until the end of a run is in none. So beside it stands what
the connection with the fewest answers must have waited at least for one of them (`longest`).

How much batches can give depends on whether a single text keeps the CPUs busy. In a bare loop over
libllama, without a server, two threads of a Zen 5 with the 22 M model compute 333..496 texts/s of 8..32
tokens one by one and 484..544 in the best batches, and 66 of 140 tokens either way: there is no
factor of 3 to be had from batches.

Without the peer it says so and prints the agent's own figures.

Writes everything to build/bench/embeddings.json. The last line is `RESULT {json}`. Exit status: 1
when something could not be run or a request failed. Needs `make bin tools` and wrk; no root.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys

import engine_rig as er
import rig
from engine_rig import median
from rig import BIN, OUTPUT, ROOT

from harness import MODEL, interrupt_on_sigterm, request

SHAPES = {"tiny": "bert-tiny", "22m": "bert-22m"}
THREADS = {"tiny": 1, "22m": 2}
LENGTHS = {"short": (8, 32), "medium": (128, 128)}  # tokens, with those around a text
AROUND = 2
BODIES = 2000
SAME = 0.9999
CONTEXT = 512
PATH = "/v1/embeddings"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=rig.names(SHAPES), default=list(SHAPES))
    parser.add_argument("--lengths", type=rig.names(LENGTHS), default=list(LENGTHS))
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true", help="only the agent's own figures")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds < 1 or not 1 <= arguments.connections <= 256:
        parser.error("there is at least one round of a second, and there are 1 to 256 connections")
    return arguments


# ---- models and servers ------------------------------------------------------------------------

def model_file(name):
    """Path of the model; written once."""
    path = OUTPUT / "models" / f"{SHAPES[name]}-f16.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([BIN / "weir-synth-model", path, "--shape", SHAPES[name], "--type", "f16",
                        "--context", str(CONTEXT), "--tokenizer", MODEL], check=True,
                       capture_output=True)
    return path


def threads_for(name):
    return min(THREADS[name], os.cpu_count())


class Weir(rig.BareAgent):
    def __init__(self, label, model, **batch):
        self.label = label
        super().__init__([{"name": er.NAME, "path": str(model_file(model)), "task": "embed",
                           "threads": threads_for(model), "preload": True, "max_queue": 1024,
                           **({"batch": batch} if batch else {})}])
        self.wait_ready()


# ---- the load ----------------------------------------------------------------------------------

def bodies_file(length, seed):
    low, high = LENGTHS[length]
    chance = random.Random(seed)
    path = OUTPUT / f"embeddings-{length}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(
        json.dumps({"model": er.NAME, "input": " ".join(
            chance.choices(er.WORDS, k=chance.randint(low, high) - AROUND))}) + "\n"
        for _ in range(BODIES)))
    return path


def load(server, bodies, connections, seconds):
    before = rig.cpu_ns(server.pid)
    run = subprocess.run(
        ["wrk", f"-t{connections}", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout",
         "20s", "-s", ROOT / "tests" / "bench" / "embed.lua", f"http://{server.address}{PATH}",
         "--", bodies],
        capture_output=True, text=True, timeout=seconds + 60)
    if run.returncode != 0:
        sys.exit(f"bench_embeddings: wrk failed: {run.stdout}{run.stderr}")
    found = json.loads(run.stdout.splitlines()[-1])
    if found["not_ok"] or found["not_answered"] or not found["requests"]:
        sys.exit(f"bench_embeddings: {server.label}: {found}; {server.output()[-2000:]}")
    found["texts_per_s"] = round(found["requests"] / found["took_us"] * 1e6, 1)
    found["longest_us"] = found["took_us"] // (found["least"] + 1)
    found["cpu_s"] = round((rig.cpu_ns(server.pid) - before) / 1e9, 3)
    return found


def vectors(server, texts):
    reply = request(server.address, "POST", PATH, {"model": er.NAME, "input": texts})
    if reply.status != 200:
        sys.exit(f"bench_embeddings: {server.label}: {reply}")
    return [item["embedding"] for item in reply.json()["data"]]


def least_cosine(a, b):
    """Of vectors of unit length."""
    return min(sum(x * y for x, y in zip(u, v)) for u, v in zip(a, b))


# ---- rows --------------------------------------------------------------------------------------

def measure(arguments, model, peer):
    servers = [Weir("weir", model), Weir("unbatched", model, max_batch_size=1)]
    if threads_for(model) > 1:
        servers.append(Weir("one", model, max_batch_size=1, instances=1))
    rows = []
    try:
        same = None
        if peer:
            servers.append(er.LlamaServer(model_file(model), arguments.connections, CONTEXT,
                                          threads_for(model), "--embedding", "--pooling", "mean"))
            texts = ["the red bird", "a story of a little boy " * 12, "she walked"]
            same = least_cosine(vectors(servers[0], texts), vectors(servers[-1], texts))
            if same < SAME:
                sys.exit(f"bench_embeddings: {model}: the vectors differ: cosine {same}")
        for length in arguments.lengths:
            bodies = bodies_file(length, arguments.seed)
            row = {"model": model, "length": length, "least_cosine": same, "rounds": []}
            for server in servers:
                load(server, bodies, arguments.connections, 1)
            for number in range(arguments.rounds):
                turns = servers if number % 2 == 0 else servers[::-1]
                row["rounds"].append({server.label: load(server, bodies, arguments.connections,
                                                         arguments.seconds) for server in turns})
            rows.append(row)
            print_row(row)
    finally:
        for server in servers:
            server.close()
    return rows


def ratio(row, over):
    """The agent's rate over another one's; None without that."""
    return median(r["weir"]["texts_per_s"] / r[over]["texts_per_s"]
                  for r in row["rounds"] if over in r)


def print_row(row):
    def shown(label):
        rounds = [r[label] for r in row["rounds"] if label in r]
        if not rounds:
            return ""
        times = f" {ratio(row, label):5.2f}x" if label != "weir" else ""
        return (f"  {label} {median(r['texts_per_s'] for r in rounds):7.1f}/s "
                f"p99 {median(r['p99_us'] for r in rounds) / 1000:6.1f} "
                f"longest {median(r['longest_us'] for r in rounds) / 1000:6.1f} ms{times}")

    print(f"  {row['model']:5} {row['length']:7}"
          + "".join(shown(label) for label in ("weir", "unbatched", "one", "llama-server")),
          flush=True)


def worst(rows, over):
    values = [value for value in (ratio(row, over) for row in rows) if value is not None]
    return round(min(values), 3) if values else None


def summary_of(rows):
    return {
        "rate_ratio_vs_unbatched": worst(rows, "unbatched"),
        "rate_ratio_vs_one_at_a_time": worst(rows, "one"),
        "rate_ratio_vs_llama_server": worst(rows, "llama-server"),
        "rows": [{"model": row["model"], "length": row["length"],
                  "texts_per_s": median(r["weir"]["texts_per_s"] for r in row["rounds"]),
                  **{f"vs_{label.replace('-', '_')}": round(value, 3)
                     for label in ("unbatched", "one", "llama-server")
                     if (value := ratio(row, label)) is not None}} for row in rows],
    }


def main():
    arguments = parse_arguments()
    missing = [p for p in ("weir-agent", "weir-synth-model") if not (BIN / p).exists()]
    if missing:
        sys.exit(f"bench_embeddings: {BIN} has no {', '.join(missing)}: run `make bin tools`")
    if not shutil.which("wrk"):
        sys.exit("bench_embeddings: there is no wrk (Debian: wrk)")
    interrupt_on_sigterm()
    peer = not arguments.no_peers and er.has_peer("llama-server")
    if not peer:
        print(f"  no llama-server in {er.PEERS}: the agent's own figures follow "
              "(deploy/build-llama.sh --peers)", flush=True)
    run = rig.Run("embeddings", arguments)
    print(f"  {run.machine_line()}; threads "
          + ", ".join(f"{m} {threads_for(m)}" for m in arguments.models), flush=True)
    rows = [row for model in arguments.models for row in measure(arguments, model, peer)]
    run.publish(summary_of(rows), rows=rows)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
