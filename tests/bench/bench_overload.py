#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What an agent does with more than it can: open loops at 0.5, 0.8, 1, 2 and 10 times its capacity.

The model is `identity`: a batch of n costs a fixed time and a time for each member, waited for and not
spent on the CPU, so that what is measured is the way to it: admission, queue, batches, answers. Its
batches are short against the window in which they wait for company, since a running batch is not
interrupted: an urgent request waits for the end of one at the most.

First the capacity: closed loops with more and more requests outstanding, until another doubling brings
less than 2 %. Then, in each round:

  alone   the high class by itself, at a fifth of the capacity: what its latency is compared with
  M       both classes from three equal tenants, M times the capacity in all, a fifth of the capacity
          of it high whatever M is
  greedy  10 times the capacity, one of the tenants with three times the requests of the others
  starve  twice the capacity, of it 1.2 times urgent: only ageing gets the low class through

Latencies here count from the send; those that count from the time at which a request was due, with the
generator's own lateness in them, are in the file, for both share one machine. Of a field the median of
the rounds is reported, and its least and greatest value in the file; counts are sums.

  refuse_p99_ms             99th percentile of refusals, at 2 and 10 times the capacity: the worse
  high_p99_ratio            that of the high class at 1, 2 and 10 times, over that when alone: the worst
  throughput_ratio_at_10x   answers per second at 10 times the capacity, over the capacity
  rss_growth_ratio          greatest resident size of the agent during that run, over that after its
                            first second
  jain_index                of the tokens of the tenants, at 1, 2 and 10 times: the least
  jain_index_greedy         likewise in `greedy`: all of them ask for more than their share, one for most
  accepted_lost             requests that the agent accepted and the generator has no answer to
  low_ok_starving           answers that the low class got in `starve`

Writes everything to build/bench/overload.json. The last line is `RESULT {json}`. Exit status: 1 when
something could not be set up or a request failed otherwise than by a refusal. Needs `make bin`; no root.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import threading
import time

import rig
from rig import BIN, spread

import prometheus
from harness import Process, interrupt_on_sigterm
from node import Agent, wait_ready

MODEL = "unit"
TENANTS = ("t1", "t2", "t3")
LOADS = (0.5, 0.8, 1, 2, 10)
HIGH_SHARE = 0.2  # of the capacity
HIGH, LOW = 0, 6  # levels
LEAST_GAIN = 1.02


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one run")
    parser.add_argument("--warmup", type=float, default=1.0, help="of these, not counted")
    parser.add_argument("--batch-micros", type=int, default=1000)
    parser.add_argument("--item-micros", type=int, default=500)
    parser.add_argument("--max-batch-size", type=int, default=4)
    parser.add_argument("--low-queue", type=int, default=64, help="waiting requests of the low class")
    parser.add_argument("--ageing-ms", type=int, default=100)
    parser.add_argument("--connections", type=int, default=2000)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= arguments.warmup:
        parser.error("there is at least one round, and a run is longer than its warm-up")
    return arguments


def start_agent(arguments):
    agent = Agent(models=[{
        "name": MODEL, "executor": "identity",
        "identity": {"batch_micros": arguments.batch_micros, "item_micros": arguments.item_micros},
        "batch": {"max_batch_size": arguments.max_batch_size},
        # The high class always finds room.
        "max_queue": 4 * arguments.low_queue,
        "queue": {"ageing_ms": arguments.ageing_ms,
                  "levels": [{"level": LOW, "max_requests": arguments.low_queue}]},
    }])
    wait_ready(agent)
    return agent


class ResidentSize:
    """Samples the agent's resident size, ten times a second, while the `with` lasts."""

    def __init__(self, pid):
        self._path = pathlib.Path(f"/proc/{pid}/statm")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.samples = []  # (s since the start, bytes)

    def _sample(self):
        begin, page = time.monotonic(), os.sysconf("SC_PAGESIZE")
        while not self._stop.wait(0.1):
            pages = int(self._path.read_text().split()[1])
            self.samples.append((time.monotonic() - begin, pages * page))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def growth(self, after_s):
        """Greatest size over the one at `after_s`."""
        settled = [size for at, size in self.samples if at >= after_s]
        return max(settled) / settled[0]


def accepted(agent):
    families = prometheus.parse(agent.request("GET", "/metrics").body.decode())
    return prometheus.value(families, "weir_model_requests_accepted_total", model=MODEL)


def replay(agent, arguments, *load):
    """One run of `weir replay`: its report, what the agent accepted meanwhile, its resident size."""
    before = accepted(agent)
    argv = [BIN / "weir", "replay", "--target", agent.http, "--model", MODEL, "--prompt-tokens", 16,
            "--output-tokens", 16, "--connections", arguments.connections,
            "--max-inflight", arguments.connections, "--timeout", 10,
            "--duration", arguments.seconds, "--warmup", arguments.warmup,
            "--json", "-", "--quiet", *load]
    with ResidentSize(agent.process.pid) as size, Process(argv) as process:
        status = process.wait(arguments.seconds + 30)
        assert status == 0, process.output()
        report = json.loads(process.output())
    report["accepted"] = accepted(agent) - before
    # The timeline has the warm-up, too.
    answered = sum(report["timeline"]["ok"])
    report["accepted_lost"] = report["accepted"] - answered
    report["rss_growth_ratio"] = size.growth(arguments.warmup)
    return report


def find_capacity(agent, arguments):
    """(answers per second, [(outstanding, answers per second)])"""
    steps, outstanding = [], arguments.max_batch_size
    while outstanding <= arguments.low_queue:
        report = replay(agent, arguments, "--closed", outstanding,
                        "--class", f"high:1:{HIGH}")
        rate = report["all"]["throughput"]["requests_per_s"]
        print(f"  capacity: {outstanding:4} outstanding  {rate:8.1f}/s", flush=True)
        steps.append((outstanding, rate))
        if len(steps) > 1 and rate < steps[-2][1] * LEAST_GAIN:
            break
        outstanding *= 2
    return max(rate for _, rate in steps), steps


def mixed(agent, arguments, capacity, seed, load, high=HIGH_SHARE, tenant_shares=(1, 1, 1)):
    """Both classes: `load` times the capacity in all, `high` times the capacity of it high."""
    classes = ["--class", f"high:{high}:{HIGH}", "--class", f"low:{load - high}:{LOW}"]
    tenants = [part for name, share in zip(TENANTS, tenant_shares)
               for part in ("--tenant", f"{name}:{share}")]
    return replay(agent, arguments, "--poisson", round(capacity * load, 3), "--seed", seed,
                  *classes, *tenants)


def check_refused(runs, arguments):
    for name in ("2", "10"):
        if not runs[name]["all"]["refused"]:
            sys.exit(f"bench_overload: nothing was refused at {name} times the capacity: "
                     f"{arguments.seconds:g} s do not fill the queue; try a longer --seconds")


def run_round(agent, arguments, capacity, number):
    runs = {"alone": replay(agent, arguments, "--poisson", round(capacity * HIGH_SHARE, 3),
                            "--seed", number, "--class", f"high:1:{HIGH}")}
    for load in LOADS:
        runs[str(load)] = mixed(agent, arguments, capacity, number, load)
    runs["greedy"] = mixed(agent, arguments, capacity, number, 10, tenant_shares=(3, 1, 1))
    runs["starve"] = mixed(agent, arguments, capacity, number, 2, high=1.2)
    for name, report in runs.items():
        print_run(number, name, report)
    check_refused(runs, arguments)
    return runs


def print_run(number, name, report):
    figures = report["all"]

    def p99(group, what):
        value = group["from_send"][what]["p99"]
        return "-".rjust(8) if value is None else f"{value:8.2f}"

    fairness = report["fairness"]
    print(f"  round {number}  {name:7} planned {figures['planned']:7}  "
          f"ok {figures['throughput']['requests_per_s']:8.1f}/s  refused {figures['refused']:7}  "
          f"errors {figures['errors']:3}  dropped {figures['dropped']:5}  p99 ms: high "
          f"{p99(report['classes']['high'], 'e2e_ms')}  refusal {p99(figures, 'refusal_ms')}  "
          f"late {report['generator']['lateness_ms']['p99'] or 0:6.2f}  "
          + (f"Jain {fairness['jain_tokens']:.4f}" if fairness else "Jain -     ")
          + f"  lost {report['accepted_lost']:g}", flush=True)


# ---- what it means -----------------------------------------------------------------------------

def fields_of_round(runs, capacity):
    def high_p99(name):
        return runs[name]["classes"]["high"]["from_send"]["e2e_ms"]["p99"]

    return {
        "refuse_p99_ms": max(runs[name]["all"]["from_send"]["refusal_ms"]["p99"]
                             for name in ("2", "10")),
        "refuse_p99_from_due_ms": max(runs[name]["all"]["refusal_ms"]["p99"]
                                      for name in ("2", "10")),
        "high_p99_ratio": max(high_p99(name) for name in ("1", "2", "10")) / high_p99("alone"),
        "throughput_ratio_at_10x":
            runs["10"]["all"]["throughput"]["requests_per_s"] / capacity,
        "rss_growth_ratio": runs["10"]["rss_growth_ratio"],
        "jain_index": min(runs[name]["fairness"]["jain_tokens"]
                          for name in ("1", "2", "10")),
        "jain_index_greedy": runs["greedy"]["fairness"]["jain_tokens"],
    }


def summarize(rounds, capacity):
    """(the last line, spreads by field)"""
    fields = [fields_of_round(runs, capacity) for runs in rounds]
    spreads = {name: spread([each[name] for each in fields]) for name in fields[0]}
    every = [report for runs in rounds for report in runs.values()]
    summary = {name: round(s["median"], 4) for name, s in spreads.items()}
    summary["accepted_lost"] = sum(report["accepted_lost"] for report in every)
    summary["low_ok_starving"] = sum(runs["starve"]["classes"]["low"]["ok"] for runs in rounds)
    summary["low_ok_at_2x"] = sum(runs["2"]["classes"]["low"]["ok"] for runs in rounds)
    summary["errors"] = sum(report["all"]["errors"] for report in every)
    summary["dropped_by_generator"] = sum(report["all"]["dropped"] for report in every)
    summary["capacity_per_s"] = round(capacity, 1)
    return summary, spreads


def warn_of_a_slow_generator(rounds):
    late = statistics.median(runs["10"]["generator"]["lateness_ms"]["p99"] for runs in rounds)
    if late > 5:
        print(f"\nNOISY: the generator itself was late by {late:.1f} ms (p99) at 10 times the "
              "capacity: it had to wait for a CPU, and so had the agent")


def main():
    arguments = parse_arguments()
    missing = [name for name in ("weir", "weir-agent") if not (BIN / name).exists()]
    if missing:
        sys.exit(f"bench_overload: {BIN} has no {', '.join(missing)}: run `make bin`")
    interrupt_on_sigterm()
    run = rig.Run("overload", arguments)
    print(f"  {arguments.rounds} rounds of {arguments.seconds:g} s a run; {run.machine_line()}",
          flush=True)
    rounds = []
    with start_agent(arguments) as agent:
        capacity, steps = find_capacity(agent, arguments)
        for number in range(1, arguments.rounds + 1):
            rounds.append(run_round(agent, arguments, capacity, number))
    summary, spreads = summarize(rounds, capacity)
    for name, s in spreads.items():
        print(f"  {name:26} {s['median']:8.3f}  ({s['min']:.3f}..{s['max']:.3f})")
    warn_of_a_slow_generator(rounds)
    run.publish(summary, capacity_steps=steps, spreads=spreads, rounds=rounds)
    return 1 if summary["errors"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
