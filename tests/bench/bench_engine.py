#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The engine beside llama-server and llama-batched-bench of the same source, model file and threads.

Models: the shipped one (tiny) and random weights in the shapes of a 135 M and a 0.5 B model (Q8_0).
Clients stream completions over HTTP at temperature 0; texts differ, so that no cache of prompts
helps. Rounds are interleaved: within each every server runs every row, one right after the other, in
turns first. A ratio is taken within a round, that of a row is the median of its rounds, and of a
field the worst row counts.

  throughput  so many clients, each sending one request after the other: tokens generated per second
              over that of llama-server. Higher is better.
  batched     so many clients send one request each at the same time: prompt and generated tokens per
              second until the last has ended, over those of llama-batched-bench, which has neither
              clients nor sampling nor texts. Higher is better.
  long        a prompt of 1500 tokens comes while 4 streams decode. itl: 99th percentile of the gaps
              in the streams from then to its first token, over that of the time before. ttft: its
              time to the first token over that when alone; streams at twice their idle gap leave it
              half of each step, so that twice its time alone is what it can have (`ttft_ratio_budget`
              is over that). Once more with all cells in one pool (`weir, pool`), where chunks and
              decodes share a pass over the weights. llama-server beside it.
  overload    twice the requests that it can serve, a fifth of its capacity of the high class: 99th
              percentile of the high class's time to its first token, over that of the same requests
              alone.
  prefix      50 requests that begin with the same 1000 tokens: time with reuse of prefixes over the
              time without, and whether the texts are the same.
  speculation 1 and 4 clients, with guessed tokens over without: tokens generated per second. Texts
              that repeat themselves: prompts of records that are alike, at temperature 0, where
              models of random weights go round in circles whatever they are asked. Others: any
              words, at temperature 1.

Without the peers it says so and prints the agent's own figures.

Writes everything to build/bench/engine.json. The last line is `RESULT {json}`. Exit status: 1 when
something could not be run or a request failed. Needs `make bin tools`; no root.
"""
import argparse
import concurrent.futures
import random
import sys

import engine_rig as er
import rig
from engine_rig import LlamaServer, Weir, at_share, body_of, median, ms, must_succeed, offer
from rig import BIN

from harness import interrupt_on_sigterm, request

CASES = ("throughput", "batched", "long", "overload", "prefix", "speculation")
CLIENTS = (1, 4, 8, 32)
SEQUENCES = 32
PROMPT, GENERATE, CONTEXT = 64, 64, 512
# Of each client in a row, so that it lasts some seconds.
REQUESTS = {"tiny": {1: 24, 4: 16, 8: 12, 32: 6}}
FEW_REQUESTS = {1: 3, 4: 2, 8: 2, 32: 1}
LONG_PROMPT, LONG_STREAMS, LONG_CONTEXT = 1500, 4, 2048
IDLE_S = 3  # the streams by themselves before the long prompt comes
PREFIX, PREFIX_REQUESTS = 1000, 50
SPECULATION_MODELS, SPECULATION_CLIENTS = ("tiny", "135m"), (1, 4)
SPECULATION_GENERATE, SPECULATION_REQUESTS = 192, 3
HIGH, LOW, HIGH_SHARE = 0, 6, 0.2
OVERLOAD_SEQUENCES, OVERLOAD_GENERATE = 8, 32


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=rig.names(CASES), default=list(CASES))
    parser.add_argument("--models", type=rig.names(er.SHAPES), default=["tiny", "135m", "0.5b"])
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")],
                        default=list(CLIENTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: 1 for tiny, else one per CPU")
    parser.add_argument("--overload-seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true", help="only the agent's own figures")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not all(1 <= n <= 256 for n in arguments.clients):
        parser.error("there is at least one round, and there are 1 to 256 clients")
    return arguments


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.peers = not arguments.no_peers and er.has_peer("llama-server")
        self.batched_peer = not arguments.no_peers and er.has_peer("llama-batched-bench")
        self._seed = arguments.seed * 1_000_003

    def seed(self):
        self._seed += 1
        return self._seed

    def threads(self, model):
        return self.arguments.threads or er.threads_for(model)

    def servers(self, model, sequences, context, **fields):
        """The agent and, where there is one, its peer."""
        yield Weir(model, sequences, context, self.threads(model), **fields)
        if self.peers:
            # Nothing here would find anything in its cache of prompts in memory.
            yield LlamaServer(er.model_file(model), sequences, context, self.threads(model),
                              "--cache-ram", 0)

    def warm_up(self, server):
        must_succeed(offer(server, [[(0, body_of(er.prompt_of(PROMPT, self.seed()), 8))]]), server)


# ---- tokens per second -------------------------------------------------------------------------

def turns(servers, number):
    return servers if number % 2 == 0 else servers[::-1]


def throughput(bench, model):
    """A row for each number of clients: the rounds of each server."""
    servers = list(bench.servers(model, SEQUENCES, CONTEXT))
    rows = {n: {"model": model, "clients": n, "rounds": []} for n in bench.arguments.clients}
    try:
        for server in servers:
            bench.warm_up(server)
        for number in range(bench.arguments.rounds):
            for n, row in rows.items():
                count = REQUESTS.get(model, FEW_REQUESTS).get(n, 1)
                found = {}
                seeds = [[bench.seed() for _ in range(count)] for _ in range(n)]
                for server in turns(servers, number):
                    cpu = rig.cpu_ns(server.pid)
                    requests = must_succeed(offer(server, [
                        [(0, body_of(er.prompt_of(PROMPT, seed), GENERATE)) for seed in client]
                        for client in seeds]), server)
                    figures = {**er.rates(requests), **er.latencies(requests)}
                    figures["cpu_s"] = round((rig.cpu_ns(server.pid) - cpu) / 1e9, 3)
                    figures["texts"] = sum(len(r["texts"]) for r in requests)
                    found[server.label] = figures
                row["rounds"].append(found)
    finally:
        for server in servers:
            server.close()
    for row in rows.values():
        row["ratio"] = ratio_of(row["rounds"], "tokens_per_s")
        print_row(row)
    return list(rows.values())


def ratio_of(rounds, field, over="llama-server"):
    return median(r["weir"][field] / r[over][field] for r in rounds if over in r)


def print_row(row, field="tokens_per_s"):
    for label in row["rounds"][0]:
        rounds = [r[label] for r in row["rounds"]]

        def of(name):
            return median(r.get(name) for r in rounds)

        line = (f"  {row['model']:8} {row['clients']:3} clients  {label:13} "
                f"{of(field):8.1f} tokens/s")
        if of("ttft_p50_ms") is not None:
            line += (f"  ttft {of('ttft_p50_ms'):8.1f} p99 {of('ttft_p99_ms'):8.1f}  itl "
                     f"{of('itl_p50_ms'):7.2f} p99 {of('itl_p99_ms'):7.2f} max "
                     f"{of('itl_max_ms'):7.2f} ms")
        if of("cpu_s") is not None:
            line += f"  cpu {of('cpu_s') / of('took_s'):.2f}"
        print(line, flush=True)
    if row["ratio"] is not None:
        print(f"  {row['model']:8} {row['clients']:3} clients  ratio {row['ratio']:.3f}", flush=True)


def batched(bench, model):
    rows = {n: {"model": model, "clients": n, "rounds": []} for n in bench.arguments.clients}
    with Weir(model, SEQUENCES, CONTEXT, bench.threads(model)) as weir:
        bench.warm_up(weir)
        for number in range(bench.arguments.rounds):
            for n, row in rows.items():
                requests = must_succeed(offer(weir, [
                    [(0, body_of(er.prompt_of(PROMPT, bench.seed()), GENERATE))]
                    for _ in range(n)]), weir)
                found = {"weir": {**er.rates(requests), **er.latencies(requests)}}
                if bench.batched_peer:
                    found["batched-bench"] = er.batched_bench(
                        model, round(found["weir"]["prompt_tokens"] / n),
                        round(found["weir"]["generated"] / n), n, bench.threads(model))
                row["rounds"].append(found)
    for row in rows.values():
        row["ratio"] = ratio_of(row["rounds"], "all_tokens_per_s", "batched-bench")
        print_row(row, "all_tokens_per_s")
    return list(rows.values())


# ---- a long prompt beside streams --------------------------------------------------------------

def long_once(bench, server):
    """One round of one server."""
    prompt = er.prompt_of(LONG_PROMPT, bench.seed())
    alone = must_succeed(offer(server, [[(0, body_of(prompt, 2))]]), server)[0]
    ttft_alone = alone["texts"][0] - alone["at"]
    # Streams last for the idle time and several times what the prompt takes alone.
    probe = must_succeed(offer(server, [
        [(0, body_of(er.prompt_of(PROMPT, bench.seed()), 32))] for _ in range(LONG_STREAMS)]), server)
    gap = at_share(er.gaps(probe), 0.5)
    tokens = min(int((IDLE_S + 2 * ttft_alone + 2) / gap), LONG_CONTEXT - 2 * PROMPT)
    streams = [[(0, body_of(er.prompt_of(PROMPT, bench.seed()), tokens))]
               for _ in range(LONG_STREAMS)]
    # Other text than before, of as many tokens.
    late = [(IDLE_S * 1000, body_of(er.prompt_of(LONG_PROMPT, bench.seed()), 2))]
    found = must_succeed(offer(server, [*streams, late]), server)
    *streams, late = found
    began = max(r["texts"][0] for r in streams)
    came, first = late["at"], late["texts"][0]
    idle = er.gaps(streams, began, came)
    busy = er.gaps(streams, came, first)
    still = sum(r["end"] > first for r in streams)
    return {"prompt_tokens": late["prompt_tokens"],
            "itl_idle_p50_ms": ms(at_share(idle, 0.5)), "itl_idle_p99_ms": ms(at_share(idle, 0.99)),
            "itl_p99_ms": ms(at_share(busy, 0.99)), "itl_max_ms": ms(max(busy, default=None)),
            "gaps": len(busy), "streams_to_the_end": still,
            "ttft_alone_ms": ms(ttft_alone), "ttft_ms": ms(first - came),
            "itl_ratio": at_share(busy, 0.99) / at_share(idle, 0.99) if busy and idle else None,
            "ttft_ratio": (first - came) / ttft_alone,
            "ttft_ratio_budget": (first - came) / (2 * ttft_alone)}


def long_prompt(bench, model):
    if er.SHAPES[model] is None:
        return []  # trained for 512 tokens
    servers = list(bench.servers(model, LONG_STREAMS + 1, LONG_CONTEXT))
    servers.append(Weir(model, LONG_STREAMS + 1, LONG_CONTEXT, bench.threads(model), "weir, pool",
                        kv_tokens=LONG_STREAMS * LONG_CONTEXT))
    row = {"model": model, "rounds": []}
    try:
        for server in servers:
            bench.warm_up(server)
        for number in range(bench.arguments.rounds):
            row["rounds"].append({server.label: long_once(bench, server)
                                  for server in turns(servers, number)})
    finally:
        for server in servers:
            server.close()
    for label in row["rounds"][0]:
        rounds = [r[label] for r in row["rounds"]]

        def of(name):
            return median(r[name] for r in rounds)

        print(f"  {model:8} long prompt  {label:13} itl p99 idle {of('itl_idle_p99_ms'):8.2f}  then "
              f"{of('itl_p99_ms') or 0:8.2f} ms, ratio {of('itl_ratio') or 0:6.2f}  ttft alone "
              f"{of('ttft_alone_ms'):8.1f}  then {of('ttft_ms'):8.1f} ms, ratio "
              f"{of('ttft_ratio'):.2f}", flush=True)
    return [row]


# ---- twice the load ----------------------------------------------------------------------------

def poisson(rate, seconds, chance):
    """Arrivals in ms."""
    at, arrivals = chance.expovariate(rate), []
    while at < seconds:
        arrivals.append(at * 1000)
        at += chance.expovariate(rate)
    return arrivals


def overload_once(bench, server, seconds):
    def request_of(priority):
        return body_of(er.prompt_of(PROMPT, bench.seed()), OVERLOAD_GENERATE, priority=priority)

    full = must_succeed(offer(server, [[(0, request_of(LOW)) for _ in range(3)]
                                       for _ in range(2 * OVERLOAD_SEQUENCES)]), server)
    capacity = len(full) / max(r["end"] for r in full)
    chance = random.Random(bench.seed())
    high = poisson(HIGH_SHARE * capacity, seconds, chance)
    low = poisson((2 - HIGH_SHARE) * capacity, seconds, chance)
    alone = must_succeed(offer(server, [[(at, request_of(HIGH))] for at in high]), server)
    # What is left of the low class when the load ends is given up.
    given_up = seconds + 3
    both = offer(server, [[(at, request_of(HIGH))] for at in high]
                 + [[(at, request_of(LOW))] for at in low], given_up)
    loaded, rest = both[:len(high)], both[len(high):]
    if server.label == "weir":
        must_succeed(loaded, server)
    # A server without classes leaves some of the high one in its queue: they waited that long.
    waits = [(r["texts"][0] if r["texts"] else int(given_up)) - r["at"] for r in loaded]
    p99 = {"alone": at_share(er.first_texts(alone), 0.99), "loaded": at_share(waits, 0.99)}
    return {"capacity_per_s": round(capacity, 2), "high": len(high), "low": len(low),
            "high_unserved": sum(bool(r["failure"]) for r in loaded),
            "low_served": sum(not r["failure"] for r in rest),
            "high_ttft_p50_alone_ms": ms(at_share(er.first_texts(alone), 0.5)),
            "high_ttft_p50_ms": ms(at_share(waits, 0.5)),
            "high_ttft_p99_alone_ms": ms(p99["alone"]), "high_ttft_p99_ms": ms(p99["loaded"]),
            "ratio": p99["loaded"] / p99["alone"]}


def overload(bench, model):
    row = {"model": model, "rounds": []}
    for _ in range(bench.arguments.rounds):
        for server in bench.servers(model, OVERLOAD_SEQUENCES, CONTEXT):
            with server:  # alone on the machine
                bench.warm_up(server)
                if server.label == "weir":
                    row["rounds"].append({})
                row["rounds"][-1][server.label] = overload_once(
                    bench, server, bench.arguments.overload_seconds)
    for label in row["rounds"][0]:
        rounds = [r[label] for r in row["rounds"]]

        def of(name):
            return median(r[name] for r in rounds)

        print(f"  {model:8} overload     {label:13} capacity {of('capacity_per_s'):7.2f}/s  high ttft "
              f"p99 alone {of('high_ttft_p99_alone_ms'):8.1f}  loaded {of('high_ttft_p99_ms'):8.1f} "
              f"ms, ratio {of('ratio'):.2f}", flush=True)
    return [row]


# ---- prompts that begin alike ------------------------------------------------------------------

def prefix_once(bench, model, reuse):
    """Seconds, and the texts. None: this agent has no such choice."""
    fields = {} if reuse else {"prefix_reuse": False}
    try:
        server = Weir(model, 4, LONG_CONTEXT, bench.threads(model), **fields)
    except AssertionError as refused:
        if "prefix_reuse" in str(refused):
            return None
        raise
    with server:
        bench.warm_up(server)
        prefix = er.prompt_of(PREFIX, 1)
        bodies = [{"model": er.NAME, "prompt": er.prompt_of(20, 1000 + i, prefix + " "),
                   "max_tokens": 4, "temperature": 0} for i in range(PREFIX_REQUESTS)]
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(
                lambda body: request(server.address, "POST", er.PATH, body, seconds=300), bodies))
        took = time.monotonic() - begin
        for reply in replies:
            if reply.status != 200:
                raise RuntimeError(f"prefix: {reply}")
        return {"took_s": took, "texts": [r.json()["choices"][0]["text"] for r in replies],
                "prompt_tokens": replies[0].json()["usage"]["prompt_tokens"]}


def prefix(bench, model):
    row = {"model": model, "rounds": []}
    for number in range(bench.arguments.rounds):
        kinds = (True, False) if number % 2 == 0 else (False, True)
        found = {kind: prefix_once(bench, model, kind) for kind in kinds}
        with_reuse, without = found[True], found[False]
        if without is None:
            print(f"  {model:8} prefix       the agent knows no models[].prefix_reuse; "
                  f"{PREFIX_REQUESTS} requests took {with_reuse['took_s']:.2f} s", flush=True)
            return []
        row["rounds"].append({
            "with_s": round(with_reuse["took_s"], 3), "without_s": round(without["took_s"], 3),
            "speedup": without["took_s"] / with_reuse["took_s"],
            "same_texts": with_reuse["texts"] == without["texts"],
            "prompt_tokens": with_reuse["prompt_tokens"]})
    print(f"  {model:8} prefix       {median(r['without_s'] for r in row['rounds']):.2f} s without, "
          f"{median(r['with_s'] for r in row['rounds']):.2f} s with reuse; same texts: "
          f"{all(r['same_texts'] for r in row['rounds'])}", flush=True)
    return [row]


# ---- guessed tokens ----------------------------------------------------------------------------

def speculation_bodies(bench, kind, clients):
    """The requests of each client."""
    def body():
        seed = bench.seed()
        if kind == "other":
            return body_of(er.prompt_of(PROMPT, seed), SPECULATION_GENERATE, temperature=1, seed=seed)
        records = " ".join(f'{{"name": "Tom", "toy": "{er.prompt_of(1, seed)}"}},' for _ in range(6))
        return body_of(records, SPECULATION_GENERATE)

    return [[(0, body()) for _ in range(SPECULATION_REQUESTS)] for _ in range(clients)]


def speculation(bench, model):
    if model not in SPECULATION_MODELS:
        return []
    servers = [Weir(model, 8, CONTEXT, bench.threads(model), speculation={"mode": mode})
               for mode in ("auto", "off")]
    for server, label in zip(servers, ("weir", "without")):
        server.label = label
    rows = [{"model": model, "kind": kind, "clients": n, "rounds": []}
            for kind in ("repetitive", "other") for n in SPECULATION_CLIENTS]
    try:
        for server in servers:
            bench.warm_up(server)
        for number in range(bench.arguments.rounds):
            for row in rows:
                clients = speculation_bodies(bench, row["kind"], row["clients"])
                found = {}
                for server in turns(servers, number):
                    requests = must_succeed(offer(server, clients), server)
                    found[server.label] = {**er.rates(requests), **er.latencies(requests)}
                row["rounds"].append(found)
    finally:
        for server in servers:
            server.close()
    for row in rows:
        row["ratio"] = ratio_of(row["rounds"], "tokens_per_s", "without")
        print(f"  {model:8} speculation, {row['kind']} texts", flush=True)
        print_row(row)
    return rows


# ---- all of it ---------------------------------------------------------------------------------

def worst(rows, field, peer, choose):
    values = [median(r[peer][field] for r in row["rounds"] if peer in r) for row in rows]
    values = [value for value in values if value is not None]
    return round(choose(values), 3) if values else None


def summary_of(found):
    def ratio(rows):
        values = [row["ratio"] for row in rows if row["ratio"] is not None]
        return round(min(values), 3) if values else None

    rows = found.get("throughput", [])
    prefixes = [r for row in found.get("prefix", []) for r in row["rounds"]]
    speedups = [median(r["speedup"] for r in row["rounds"]) for row in found.get("prefix", [])]
    return {
        "tokens_ratio_vs_llama_server_tiny": ratio(r for r in rows if r["model"] == "tiny"),
        "tokens_ratio_vs_llama_server_real": ratio(r for r in rows if r["model"] != "tiny"),
        "ratio_vs_batched_bench": ratio(found.get("batched", [])),
        "itl_p99_ratio_long_prompt": worst(found.get("long", []), "itl_ratio", "weir", max),
        "ttft_ratio_long_prompt": worst(found.get("long", []), "ttft_ratio", "weir", max),
        "ttft_ratio_budget_long_prompt": worst(found.get("long", []), "ttft_ratio_budget", "weir",
                                               max),
        "high_ttft_p99_ratio": worst(found.get("overload", []), "ratio", "weir", max),
        "prefix_speedup": round(min(speedups), 2) if speedups else None,
        "speculation_ratio_repetitive": ratio(
            r for r in found.get("speculation", []) if r["kind"] == "repetitive"),
        "speculation_ratio_other": ratio(
            r for r in found.get("speculation", []) if r["kind"] == "other"),
        "prefix_same_texts": all(r["same_texts"] for r in prefixes) if prefixes else None,
    }


RUN = {"throughput": throughput, "batched": batched, "long": long_prompt, "overload": overload,
       "prefix": prefix, "speculation": speculation}


def main():
    arguments = parse_arguments()
    missing = [p for p in ("weir-agent", "weir-stream-client", "weir-synth-model")
               if not (BIN / p).exists()]
    if missing:
        sys.exit(f"bench_engine: {BIN} has no {', '.join(missing)}: run `make bin tools`")
    interrupt_on_sigterm()
    run, bench = rig.Run("engine", arguments), Bench(arguments)
    if not bench.peers:
        print(f"  no peers in {er.PEERS}: the agent's own figures follow "
              "(deploy/build-llama.sh --peers)", flush=True)
    print(f"  {run.machine_line()}; threads "
          + ", ".join(f"{m} {bench.threads(m)}" for m in arguments.models), flush=True)
    found = {}
    for case in arguments.cases:
        for model in arguments.models:
            found.setdefault(case, []).extend(RUN[case](bench, model))
    run.publish(summary_of(found), cases=found)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
