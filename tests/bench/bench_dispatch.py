#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long tasks wait for the worker pool and what one costs, beside Go's scheduler.

Both programs do the same, step by step: tests/bench/dispatch.cc and tests/bench/peers/dispatch.
A submitter, itself a task (in Go the main goroutine), hands out tasks that do nothing but note
how long they waited. Matrix: 10,000, 100,000 and 500,000 tasks; all at once, or 256 outstanding;
2 and 4 workers (GOMAXPROCS). `--work` lets each task spin besides.

Rounds are interleaved: within each round both programs run each case, one right after the other,
in turns first. Each run of a program repeats the case in one process, as Go's scheduler warms
up too. A round's figure is the median of the repetitions, a ratio is taken within the round, and a
case's ratio is the median of its rounds. The result names the worst case of the matrix.

Without Go (Debian: golang-go) it says so and prints Weir's own figures.

Writes everything to build/bench/dispatch.json. The last line is `RESULT {json}`. Exit status: 1
when something could not be run. Needs `make bin/weir-dispatch`; no root.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import time

import rig
from beside_go import print_case, ratio, series, used_by_others
from rig import BIN, OUTPUT

TASKS = (10_000, 100_000, 500_000)
BATCHES = (0, 256)
WORKERS = (2, 4)
FIGURES = ("wall_ns_per_task", "p50_us", "p99_us", "mean_us")
# Ratio to Go's figure, and the bar for the worst case.
BARS = {"ns_per_task_ratio_vs_go": ("wall_ns_per_task", 0.5),
        "p99_wait_ratio_vs_go": ("p99_us", 0.5),
        "p50_wait_ratio_vs_go": ("p50_us", 1.0)}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=5, help="repetitions per process")
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES,
                        help="outstanding tasks; 0: all at once")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--work", type=int, default=0, help="ns of spinning per task")
    return parser.parse_args()


def measure(program, tasks, batch, workers, arguments):
    """Median of each figure over the runs of one process, and the CPUs that others used."""
    work = f"{arguments.work}ns" if program.parent.name == "peers" else arguments.work
    argv = [program, "--tasks", tasks, "--procs", workers, "--batch", batch, "--work", work,
            "--runs", arguments.runs]
    before, started = rig.machine_cpu_ns(), time.monotonic_ns()
    own = os.times()
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        sys.exit(f"bench_dispatch: {program.name} failed: {done.stderr}")
    now = os.times()
    used = (now.children_user + now.children_system - own.children_user
            - own.children_system) * 1e9
    took = time.monotonic_ns() - started
    lines = [dict(re.findall(r"(\w+)=([\d.]+)", line)) for line in done.stdout.splitlines()]
    assert len(lines) == arguments.runs, done.stdout
    found = {name: statistics.median(float(line[name]) for line in lines) for name in FIGURES}
    found["runs"] = [{name: float(line[name]) for name in FIGURES} for line in lines]
    found["cpus_used_by_others"] = max(0.0, (rig.machine_cpu_ns() - before - used) / took)
    return found


def run_rounds(programs, cases, arguments):
    """[(case, program name, figures)], interleaved; who goes first alternates."""
    found = []
    for number in range(arguments.rounds):
        for case in cases:
            order = list(programs.items())
            if number % 2:
                order.reverse()
            for name, program in order:
                found.append((case, name, measure(program, *case, arguments)))
        print(f"  round {number + 1} of {arguments.rounds}", flush=True)
    return found


def case_name(case):
    tasks, batch, workers = case
    return f"{tasks} tasks, {batch or 'all'} outstanding, {workers} workers"


def summarise(found, cases, names):
    """Fields of the last line: the worst case of each bar and which it was."""
    if "go" not in names:
        return {"go": None, **{f"worst_{figure}": max(
            statistics.median(series(found, case, "weir", figure)) for case in cases)
            for figure in FIGURES}}
    summary = {}
    for field, (figure, bar) in BARS.items():
        worst, case = max((ratio(found, case, figure)["median"], case) for case in cases)
        summary[field] = round(worst, 3)
        summary[field + "_bar"] = bar
        summary[field + "_case"] = case_name(case)
    summary["go"] = rig.first_line("go", "version")
    return summary


def main():
    arguments = parse_arguments()
    if not (BIN / "weir-dispatch").exists():
        sys.exit(f"bench_dispatch: {BIN} has no weir-dispatch: run `make tools`")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    run = rig.Run("dispatch", arguments)
    programs = {"weir": BIN / "weir-dispatch"}
    peer = rig.build_peer("dispatch")
    if peer:
        programs["go"] = peer
    else:
        print("  no go on this machine (Debian: golang-go): Weir's own figures alone")
    cases = [(t, b, w) for t in arguments.tasks for b in arguments.batches
             for w in arguments.workers]
    print(f"  {len(cases)} cases, {arguments.rounds} rounds of {arguments.runs} runs; "
          f"{run.machine_line()}", flush=True)
    found = run_rounds(programs, cases, arguments)
    for case in cases:
        print_case(found, case, case_name(case), programs, FIGURES)
    run.publish(summarise(found, cases, list(programs)), cpus_used_by_others=used_by_others(found),
                measurements=[{"case": case_name(case), "program": name, **figures}
                              for case, name, figures in found])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
