# SPDX-License-Identifier: Apache-2.0
"""What bench_engine.py stands on: model files, the servers beside each other, clients, figures.

The peers are llama-server and llama-batched-bench of the same source as the agent's libllama
(`deploy/build-llama.sh --peers`), with the same options of ggml.

Not thread-safe.
"""
import contextlib
import json
import os
import pathlib
import random
import statistics
import subprocess

from rig import BIN, OUTPUT, ROOT, BareAgent, Process, free_address, wait_until

from harness import MODEL, request  # found through rig

PEERS = pathlib.Path(os.environ.get(
    "WEIR_LLAMA_PEERS", ROOT / "build" / "third_party" / "llama-0.5.0-peers")) / "bin"
NAME = "m"
PATH = "/v1/completions"
# What weir-synth-model is asked for; None: the shipped model. The threads are what the agent
# chooses by itself on two CPUs; every server gets the same number.
SHAPES = {"tiny": None, "135m": ("135m", "q8_0"), "0.5b": ("0.5b", "q8_0"),
          "135m-q4": ("135m", "q4_0"), "0.5b-q4": ("0.5b", "q4_0")}
# Words of one token each in the shipped tokenizer, with the blank before them.
WORDS = ("a and asked big bird boy brave but came day found friend garden girl happy he heard her "
         "him his house it little looked lost made of old on one red said saw she so story the "
         "then they to tree very walked was were with").split()


# ---- models ------------------------------------------------------------------------------------

def model_file(name):
    """Path of the model; written once."""
    if SHAPES[name] is None:
        return MODEL
    shape, kind = SHAPES[name]
    path = OUTPUT / "models" / f"{name}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([BIN / "weir-synth-model", path, "--shape", shape, "--type", kind,
                        "--tokenizer", MODEL], check=True, capture_output=True)
    return path


def threads_for(name):
    return 1 if SHAPES[name] is None else min(2, os.cpu_count())


# ---- servers -----------------------------------------------------------------------------------

class Weir(BareAgent):
    def __init__(self, model, sequences, context, threads, label="weir", **fields):
        self.label = label
        super().__init__([{"name": NAME, "path": str(model_file(model)), "threads": threads,
                           "max_sequences": sequences, "context_tokens": context, "preload": True,
                           "max_queue": 8192, **fields}])
        self.wait_ready()


class LlamaServer(Process):
    label = "llama-server"

    def __init__(self, file, slots, context, threads, *options):
        self.address = free_address()
        host, port = self.address.split(":")
        super().__init__([PEERS / "llama-server", "-m", file, "--host", host, "--port", port,
                          "-np", slots, "-c", slots * context, "-t", threads, "-tb", threads,
                          "--no-webui", "-lv", 1, *options])
        wait_until(self._is_ready, "llama-server is ready", 60)

    def _is_ready(self):
        assert self.running(), self.output()
        with contextlib.suppress(OSError):
            return request(self.address, "GET", "/health").status == 200
        return False


def has_peer(program):
    return (PEERS / program).exists()


# ---- clients -----------------------------------------------------------------------------------

def prompt_of(tokens, seed, begin=""):
    """About as many tokens; another text for each seed, so that no cache knows it."""
    chance = random.Random(seed)
    tail = " Once there was a clever"
    return begin + " ".join(chance.choices(WORDS, k=max(1, tokens - 6))) + "." + tail


def body_of(prompt, tokens, **fields):
    return json.dumps({"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0,
                       "stream": True, "stream_options": {"include_usage": True}, **fields})


def offer(server, clients, seconds=120):
    """`clients` are lists of (at_ms, body); what became of each request, in that order.

    Times are in seconds since the start.
    """
    scenario = {"target": server.address, "path": PATH, "timeout_s": int(seconds), "clients": [
        {"requests": [{"at_ms": int(at), "body": body} for at, body in client]}
        for client in clients]}
    run = subprocess.run([BIN / "weir-stream-client"], input=json.dumps(scenario),
                         capture_output=True, text=True, timeout=seconds + 30)
    if run.returncode != 0:
        raise RuntimeError(run.stderr)
    requests = json.loads(run.stdout)["requests"]
    for r in requests:
        for field in ("at", "sent", "end"):
            r[field] = r.pop(f"{field}_us") / 1e6
        r["texts"] = [at / 1e6 for at in r.pop("texts_us")]
    return requests


def must_succeed(requests, server):
    failed = [r["failure"] for r in requests if r["failure"]]
    if failed:
        raise RuntimeError(f"{server.label}: {len(failed)} requests failed, as {failed[0]!r}; "
                           f"{server.output()[-2000:]}")
    return requests


# ---- figures -----------------------------------------------------------------------------------

def at_share(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def gaps(requests, since=0.0, until=float("inf")):
    """Between texts, in seconds: those that end within the time given."""
    return [b - a for r in requests for a, b in zip(r["texts"], r["texts"][1:])
            if since <= b <= until]


def first_texts(requests):
    return [r["texts"][0] - r["at"] for r in requests if r["texts"]]


def ms(seconds):
    return None if seconds is None else round(seconds * 1000, 2)


def latencies(requests):
    itl, ttft = gaps(requests), first_texts(requests)
    return {"ttft_p50_ms": ms(at_share(ttft, 0.5)), "ttft_p99_ms": ms(at_share(ttft, 0.99)),
            "itl_p50_ms": ms(at_share(itl, 0.5)), "itl_p99_ms": ms(at_share(itl, 0.99)),
            "itl_max_ms": ms(max(itl, default=None))}


def rates(requests):
    """Tokens per second from the first request to the last end, generated ones and all."""
    took = max(r["end"] for r in requests) - min(r["at"] for r in requests)
    generated = sum(r["completion_tokens"] for r in requests)
    prompts = sum(r["prompt_tokens"] for r in requests)
    return {"tokens_per_s": generated / took, "all_tokens_per_s": (generated + prompts) / took,
            "generated": generated, "prompt_tokens": prompts, "took_s": round(took, 3)}


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def batched_bench(model, prompt, generate, batch, threads):
    """Tokens per second of llama-batched-bench, prompts and all, without a server."""
    argv = [PEERS / "llama-batched-bench", "-m", model_file(model), "-c",
            batch * (prompt + generate), "-b", 2048, "-ub", 512, "-npp", prompt, "-ntg", generate,
            "-npl", batch, "-t", threads, "-tb", threads, "--output-format", "jsonl"]
    run = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode != 0 or not lines:
        raise RuntimeError(f"llama-batched-bench failed: {run.stdout[-500:]}{run.stderr[-1000:]}")
    found = json.loads(lines[-1])
    return {"all_tokens_per_s": found["speed"], "prompt_per_s": found["speed_pp"],
            "tokens_per_s": found["speed_tg"]}

