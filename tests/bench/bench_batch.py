#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the batching policies are worth: throughput and p99 over window x batch x load.

The model is a cost that is waited for, of several shapes of step_time(n). Every policy serves the
same arrivals, an open Poisson loop, at shares of the shape's own capacity, which is the best
n / step_time(n) up to 32 members. Fixed settings are a grid of sizes and windows; `levels` and
`learned` have no setting.

For each shape and each bound on p99 (2.5, 4 and 8 times what one request takes alone, the range from
low to high load) a policy's throughput is the highest load whose p99 is within the bound, between
measured loads interpolated on the logarithm of p99, from the median p99 of the rounds at each load.
`learned_vs_best_fixed` is the throughput of `learned` over that of the fixed setting that is best
for this very shape and bound: the worst case over all of them. Nobody can choose another setting for
each load; that is what makes it a hard peer.

The best of nine settings in a few rounds is partly the luckiest one. So it is chosen by one half of
the rounds and compared by the other, then the other way round, and the ratio is the mean of the two.
With a single round that cannot be: then the ratio is lower than it would be.

In a round all policies serve the same arrivals, and their order rotates. One whose median is beyond
twice the widest bound cannot keep up, and is not measured at higher loads. Where it may (root),
everything runs under SCHED_FIFO: neighbours on the machine would else be part of every p99. Writes
everything to build/bench/batch.json. The last line is `RESULT {json}`. Exit status: 1 when a request
was lost. Needs `make bin tools`.
"""
import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time

import rig
from rig import BIN

MAX_BATCH = 32
LOADS = (0.15, 0.35, 0.55, 0.7, 0.82, 0.92)
BOUNDS = (2.5, 4, 8)
HOPELESS = 2 * max(BOUNDS)
# Of fewer the p99 is the luck of a handful.
LEAST_REQUESTS = 1500
FIXED = ([(size, 0) for size in (1, 4, 8, 16, 32)]
         + [(size, window) for size in (8, 32) for window in (1000, 5000)])


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    batch_us: float
    item_us: float
    cache_items: int = 0
    beyond_us: float = 0
    tile: int = 1

    def step_us(self, size):
        charged = -(-size // self.tile) * self.tile
        over = max(0, size - self.cache_items) if self.cache_items else 0
        return self.batch_us + self.item_us * charged + self.beyond_us * over

    def capacity(self):
        """Requests per second."""
        return max(n / self.step_us(n) for n in range(1, MAX_BATCH + 1)) * 1e6

    def arguments(self):
        return ["--batch-us", self.batch_us, "--item-us", self.item_us, "--cache-items",
                self.cache_items, "--beyond-us", self.beyond_us, "--tile", self.tile]


SHAPES = (
    Shape("large fixed part", 5000, 50),
    Shape("both", 1000, 100),
    Shape("small fixed part", 100, 500),
    Shape("tiles of eight", 0, 250, tile=8),
    Shape("cache of sixteen", 1000, 50, cache_items=16, beyond_us=400),
)


def policies():
    """{name: arguments}."""
    found = {}
    for size, window in FIXED:
        found[f"fixed {size:2} x {window / 1000:g} ms"] = [
            "--mode", "fixed", "--max-batch", size, "--preferred", size, "--window-us", window]
    found["levels"] = ["--mode", "levels", "--max-batch", MAX_BATCH]
    found["learned"] = ["--mode", "learned", "--max-batch", MAX_BATCH]
    return found


def may_be_realtime():
    return subprocess.run(["chrt", "-f", "10", "true"], stderr=subprocess.DEVNULL,
                          check=False).returncode == 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.7,
                        help="measured, of one run; longer where that makes too few requests")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds before that")
    parser.add_argument("--learning", type=float, default=2.5, help="the same, for `learned`")
    parser.add_argument("--shapes", type=lambda text: [SHAPES[int(i)] for i in text.split(",")],
                        default=list(SHAPES), help="numbers, from 0")
    parser.add_argument("--no-realtime", dest="realtime", action="store_false",
                        default=may_be_realtime(), help="without SCHED_FIFO")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("there is at least one round")
    return arguments


def measure(shape, policy, load, seed, arguments):
    warmup = arguments.learning if "learned" in policy else arguments.warmup
    rate = load * shape.capacity()
    argv = [BIN / "weir-batch-sweep", *shape.arguments(), *policy, "--rate", rate,
            "--seconds", max(arguments.seconds, LEAST_REQUESTS / rate), "--warmup", warmup,
            "--seed", seed]
    if arguments.realtime:
        argv = ["chrt", "-f", "10", *argv]
    run = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("{"), f"{argv}: {run.returncode} {run.stdout}{run.stderr}"
    return {**json.loads(run.stdout), "failed": run.returncode != 0}


def run_round(number, arguments):
    """[{"shape", "policy", "load", "round", ...}]."""
    runs, known = [], policies()
    for shape in arguments.shapes:
        hopeless = set()
        for place, load in enumerate(LOADS):
            names = list(known)
            turn = (number + place) % len(names)
            for name in names[turn:] + names[:turn]:
                if name in hopeless:
                    continue
                report = measure(shape, known[name], load, number * 1000 + place + 1, arguments)
                runs.append({"shape": shape.name, "policy": name, "load": load, "round": number,
                             **report})
                if report["p50_us"] > HOPELESS * shape.step_us(1):
                    hopeless.add(name)
        print(f"  round {number + 1}/{arguments.rounds}  {shape.name}", flush=True)
    return runs


# ---- what it means -----------------------------------------------------------------------------

def load_within(bound_us, curve):
    """The highest load whose p99 is within the bound; `curve` is [(load, p99_us)], rising loads.
    None when already the least load is beyond."""
    highest, worst = None, 0.0
    for (load, p99_us) in curve:
        before, worst = worst, max(worst, p99_us)  # noise must not open what was closed
        if worst <= bound_us:
            highest, last_load = load, load
            continue
        if highest is None:
            return None
        share = math.log(bound_us / before) / math.log(worst / before)
        return last_load + share * (load - last_load)
    return highest


def median_p99(runs, shape, name, load, rounds):
    """Microseconds; infinite in a round that did not measure it. Of two the lower: disturbances
    only prolong."""
    seen = {r["round"]: r["p99_us"] for r in runs
            if (r["shape"], r["policy"], r["load"]) == (shape.name, name, load)}
    return statistics.median_low(seen.get(number, math.inf) for number in rounds)


def throughputs(runs, shape, bound, rounds):
    """{policy: load within the bound}, as a share of capacity, by the median p99 of `rounds`."""
    found = {}
    for name in policies():
        curve = [(load, median_p99(runs, shape, name, load, rounds)) for load in LOADS]
        found[name] = load_within(bound * shape.step_us(1), curve) or 0.0
    return found


def best_fixed(reached):
    return max((name for name in reached if name.startswith("fixed")), key=reached.get)


def compare(runs, shapes):
    """[{"shape", "bound", "best", "learned", "levels", "ratio"}]"""
    found = []
    rounds = sorted({r["round"] for r in runs})
    halves = [rounds[::2], rounds[1::2] or rounds]
    for shape in shapes:
        for bound in BOUNDS:
            first, second = (throughputs(runs, shape, bound, half) for half in halves)
            ratios = []
            for chosen, judged in ((first, second), (second, first)):
                best = best_fixed(chosen)
                if judged[best] > 0:
                    ratios.append(judged["learned"] / judged[best])
            if not ratios:
                continue  # no policy can: not even one at the least load
            reached = throughputs(runs, shape, bound, rounds)
            best = best_fixed(reached)
            found.append({"shape": shape.name, "bound": bound, "best": best,
                          "best_load": reached[best], "learned_load": reached["learned"],
                          "levels_load": reached["levels"], "ratios": ratios,
                          "ratio": statistics.mean(ratios)})
    return found


def print_tables(runs, shapes):
    rounds = sorted({r["round"] for r in runs})
    for shape in shapes:
        print(f"\n{shape.name}: p99 in ms (mean batch) by load; capacity "
              f"{shape.capacity():.0f}/s, one alone takes {shape.step_us(1) / 1000:g} ms")
        print(" " * 19 + "".join(f"{load:>15.0%}" for load in LOADS))
        for name in policies():
            cells = []
            for load in LOADS:
                batches = [r["mean_batch"] for r in runs if (r["shape"], r["policy"], r["load"])
                           == (shape.name, name, load)]
                p99_ms = median_p99(runs, shape, name, load, rounds) / 1000
                cells.append(f"{p99_ms:8.2f} ({statistics.median(batches):4.1f})"
                             if batches and p99_ms < math.inf else "beyond")
            print(f"  {name:17}" + "".join(f"{cell:>15}" for cell in cells))


def print_comparison(found):
    print("\nload that is served within a bound on p99, as a share of capacity")
    print(f"  {'shape':18}{'p99 <=':>8}{'learned':>9}{'levels':>8}   "
          f"{'best fixed':27}learned / best fixed")
    for row in found:
        print(f"  {row['shape']:18}{row['bound']:7g}x{row['learned_load']:9.3f}"
              f"{row['levels_load']:8.3f}   {row['best']:19}{row['best_load']:6.3f}  "
              f"x{row['ratio']:.3f} ({min(row['ratios']):.3f}..{max(row['ratios']):.3f})")


def main():
    arguments = parse_arguments()
    if not (BIN / "weir-batch-sweep").exists():
        sys.exit(f"bench_batch: {BIN} has no weir-batch-sweep: run `make bin tools`")
    started, machine = time.time(), rig.machine()
    runs = []
    for number in range(arguments.rounds):
        runs += run_round(number, arguments)
    found = compare(runs, arguments.shapes)
    print_tables(runs, arguments.shapes)
    print_comparison(found)
    worst = min(found, key=lambda row: row["ratio"])
    failed = sum(run["failed"] for run in runs)
    if failed:
        print(f"\n{failed} runs lost or refused requests")
    summary = {"learned_vs_best_fixed": round(worst["ratio"], 3),
               "worst_shape": worst["shape"], "worst_p99_bound": worst["bound"],
               "typical": round(statistics.median(r["ratio"] for r in found), 3)}
    rig.publish("batch", summary, {
        "started_unix_s": started, "took_s": time.time() - started, "machine": machine,
        "loadavg_after": os.getloadavg(), "rounds": arguments.rounds,
        "realtime": arguments.realtime,
        "shapes": [dataclasses.asdict(s) for s in arguments.shapes], "runs": runs,
        "comparison": found})
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
