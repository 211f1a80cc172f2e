#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What steering costs beside going direct and beside one proxy, what observing costs, what a pick.

Paths. Three lead to the same backend, under the same open-loop Poisson schedule:

  direct  client -> backend
  weir    client -> service address, steered to the backend inside connect(), observed by the kernel
  nginx   client -> one nginx worker with upstream keep-alive -> backend

each with connections kept alive and with a connection per request. Rounds are interleaved and the
order of the paths rotates, so that a change of the machine's speed hits all of them. A ratio is
taken within each round; the median of the rounds is reported with its least and greatest value.
The agent lives only during its own runs: its tracepoints run for every process's sockets, and the
other paths are to be without them.

The rates are the same for every path, and a fifth of what one nginx worker forwards in either mode
on the machine where this was written (38,000 requests/s kept alive, 13,700 connections/s). Far
below that, more and more of each request is the waking of an idle CPU and the generator's own
timer, which every path pays alike and which blur the ratio. Above it, queueing decides the
latencies, and processes that never sleep are charged for less per request: the saturated case is
another measurement (Observation, below).

CPU is the scheduler's account (schedstat) of the whole path: client, proxy or agent, and backend,
softirq work included with whoever ran it. ksoftirqd is shown apart. Weir follows the client's
sockets only: the backend stands for a process on another node.

Observation: observe_cost.py. The pick: pick_cost.py. BPF programs: a short run of each mode counts
the run time of every one (kernel.bpf_stats_enabled), which itself costs some ns per run.

A machine that is not quiet is reported as such: then latencies say little.

Writes everything to build/bench/steer.json. The last line is `RESULT {json}`; fields of a part that
was left out are missing. Exit status: 1 when a request failed or something could not be set up.
Needs root, nginx, and `make bin tools`.
"""
import argparse
import contextlib
import os
import statistics
import sys
import time

import bpf_stats
import observe_cost
import pick_cost
import rig
from rig import BIN, OUTPUT, spread

from harness import SERVICE, Cgroup, Process, interrupt_on_sigterm, wait_until
from node import Agent, DelayServer, service

PARTS = ("paths", "observe", "pick", "programs")
PATHS = ("direct", "weir", "nginx")
MODES = ("keepalive", "close")
PICK_SIZES = (2, 100, 10_000)
# More than this share of a CPU taken by others, and the latencies are partly theirs.
QUIET_CPUS = 0.2


class Path:
    """One way to the backend: where the client connects, from which cgroup, and who else works."""

    def __init__(self, target, cgroup, pids, services=None):
        self.target = target
        self.cgroup = cgroup
        self.pids = pids  # {"backend": pid, ...}; the client accounts for itself
        self.services = services  # what an agent has to steer; None: nothing

    @contextlib.contextmanager
    def open(self):
        """The pids of everybody on the path, the agent included, which lives as long as this."""
        if self.services is None:
            yield self.pids
            return
        with Agent(self.cgroup, self.services) as agent:
            yield {**self.pids, "agent": agent.process.pid}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=rig.names(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one run")
    parser.add_argument("--rate", type=float, default=8000, help="requests/s, kept alive")
    parser.add_argument("--close-rate", type=float, default=3000,
                        help="requests/s, a connection each")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--body-bytes", type=int, default=127)
    parser.add_argument("--backend", choices=("nginx", "delay"), default="nginx")
    parser.add_argument("--delay-us", type=int, default=1000, help="with --backend delay")
    parser.add_argument("--paths", type=rig.names(PATHS), default=list(PATHS))
    parser.add_argument("--observe-rounds", type=int, default=100)
    parser.add_argument("--observe-seconds", type=float, default=0.6)
    parser.add_argument("--pick-sizes", type=lambda text: [int(n) for n in text.split(",")],
                        default=list(PICK_SIZES), help="backends in the pool")
    parser.add_argument("--pick-connects", type=int, default=100_000)
    parser.add_argument("--pick-rounds", type=int, default=3)
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.observe_rounds, arguments.pick_rounds) < 1:
        parser.error("a part has at least one round")
    return arguments


# ---- the three paths ---------------------------------------------------------------------------

def start_backend(arguments, cgroup):
    if arguments.backend == "nginx":
        return rig.Nginx(OUTPUT / "backend", body_bytes=arguments.body_bytes, cgroup=cgroup)
    return DelayServer("backend", arguments.delay_us)


def set_up(arguments, backend, plain):
    """{name: Path}, each of them tried."""
    paths = {}
    for name in arguments.paths:
        if name == "direct":
            paths[name] = Path(backend.address, plain, {"backend": backend.pid})
        elif name == "nginx":
            proxy = rig.Nginx(OUTPUT / "proxy", upstream=backend.address, cgroup=plain)
            paths[name] = Path(proxy.address, plain, {"backend": backend.pid, "proxy": proxy.pid})
        else:
            paths[name] = Path(SERVICE, Cgroup(), {"backend": backend.pid},
                               [service({"address": backend.address})])
    for path in paths.values():
        with path.open():
            wait_until(lambda: arrives(path), f"a request to {path.target} is answered", 10, 0.1)
    return paths


def arrives(path):
    with Process([BIN / "weir-loadgen", "--target", path.target, "--rate", 20, "--seconds", 0.2,
                  "--warmup", 0, "--connections", 1, "--cgroup", path.cgroup.path]) as probe:
        return probe.wait() == 0


# ---- one run -----------------------------------------------------------------------------------

def measure(path, mode, seed, arguments, softirq_pids):
    """Runs the load over `path`; its report with the CPU of every part, in us per answer."""
    rate = arguments.rate if mode == "keepalive" else arguments.close_rate
    with path.open() as pids:
        def accounts():
            return ({name: rig.cpu_ns(pid) for name, pid in pids.items()},
                    sum(rig.cpu_ns(pid) for pid in softirq_pids), rig.machine_cpu_ns())

        begin = time.monotonic()
        parts_before, softirq_before, machine_before = accounts()
        report = rig.load(path.target, mode, rate, arguments.seconds, seed, arguments.connections,
                          path.cgroup)
        parts_after, softirq_after, machine_after = accounts()
        took_ns = (time.monotonic() - begin) * 1e9
    answers = max(report["answered"], 1)
    cpu = {name: (parts_after[name] - parts_before[name]) / 1000 / answers for name in pids}
    cpu["client"] = report["cpu_us"] / answers
    report["cpu_us_per_request"] = {**cpu, "path": sum(cpu.values())}
    report["ksoftirqd_us_per_request"] = (softirq_after - softirq_before) / 1000 / answers
    path_ns = report["cpu_us_per_request"]["path"] * answers * 1000
    others_ns = machine_after - machine_before - path_ns
    report["cpus_used_by_others"] = round(max(others_ns / took_ns, 0.0), 2)
    return report


def run_rounds(paths, arguments):
    """[{"mode", "path", "round", ...}], in the order of measurement."""
    softirq_pids = rig.ksoftirqd_pids()
    names, runs = list(paths), []
    for number in range(arguments.rounds):
        for mode in MODES:
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                report = measure(paths[name], mode, number + 1, arguments, softirq_pids)
                runs.append({"path": name, "round": number, **report})
                print(f"  round {number + 1}/{arguments.rounds}  {mode:9} {name:6}  "
                      f"{report['cpu_us_per_request']['path']:6.1f} us CPU  "
                      f"p50 {report['latency_us']['p50']:7.1f}  "
                      f"p99 {report['latency_us']['p99']:7.1f} us  "
                      f"others {report['cpus_used_by_others']:.2f} CPUs"
                      + (f"  {report['errors']} ERRORS" if report["errors"] else ""), flush=True)
    return runs


def count_programs(path, arguments):
    """{mode: {program: {"ns_per_call", "calls_per_request"}}}, with the kernel's own counters."""
    found = {}
    with Agent(path.cgroup, path.services) as agent:
        ids = bpf_stats.pinned_programs(agent)
        for mode in MODES:
            rate = arguments.rate if mode == "keepalive" else arguments.close_rate
            programs, report = bpf_stats.counted(ids, lambda: rig.load(
                path.target, mode, rate, min(3.0, arguments.seconds), 1, arguments.connections,
                path.cgroup))
            found[mode] = {name: {"ns_per_call": ns / runs,
                                  "calls_per_request": runs / max(report["answered"], 1)}
                           for name, (runs, ns) in programs.items() if runs > 0}
    return found


# ---- what it means -----------------------------------------------------------------------------

def value_of(run, what):
    return run["cpu_us_per_request"]["path"] if what == "cpu" else run["latency_us"][what]


def series(runs, mode, path, what):
    return [value_of(r, what) for r in runs if r["mode"] == mode and r["path"] == path]


def ratio(runs, mode, over, under, what):
    """Spread of the ratio within each round; None when one of the paths was left out."""
    pairs = zip(series(runs, mode, over, what), series(runs, mode, under, what))
    return spread([a / b for a, b in pairs])


def print_table(runs, names):
    def cell(mode, name, what):
        s = spread(series(runs, mode, name, what))
        return f"{s['median']:7.1f} ({s['min']:.1f}..{s['max']:.1f})"

    for mode in MODES:
        print(f"\n{mode}: median of rounds (least..greatest), us")
        print(f"  {'path':7}{'CPU per request':>26}{'p50':>26}{'p99':>30}{'ksoftirqd':>11}")
        for name in names:
            softirq = statistics.median(r["ksoftirqd_us_per_request"] for r in runs
                                        if r["mode"] == mode and r["path"] == name)
            print(f"  {name:7}{cell(mode, name, 'cpu'):>26}{cell(mode, name, 'p50'):>26}"
                  f"{cell(mode, name, 'p99'):>30}{softirq:11.2f}")
        for over, under in (("weir", "nginx"), ("weir", "direct"), ("nginx", "direct")):
            ratios = {what: ratio(runs, mode, over, under, what) for what in ("cpu", "p50", "p99")}
            if all(ratios.values()):
                print(f"  {over} / {under}:".ljust(18) + "   ".join(
                    f"{what} x{r['median']:.2f} ({r['min']:.2f}..{r['max']:.2f})"
                    for what, r in ratios.items()))


def print_programs(programs):
    for mode, counted in programs.items():
        print(f"\n{mode}: BPF programs (tracepoints run for every process's sockets)")
        for name, p in sorted(counted.items(), key=lambda item: -item[1]["ns_per_call"]):
            print(f"  {name:16} {p['ns_per_call']:7.0f} ns per call"
                  f"  {p['calls_per_request']:6.2f} calls per request")


def path_result(runs):
    """Fields of the last line; null where a path was left out."""
    def median(mode, under, what):
        r = ratio(runs, mode, "weir", under, what)
        return round(r["median"], 3) if r else None

    return {
        "cpu_ratio_vs_nginx_keepalive": median("keepalive", "nginx", "cpu"),
        "cpu_ratio_vs_nginx_close": median("close", "nginx", "cpu"),
        "p99_ratio_vs_nginx_keepalive": median("keepalive", "nginx", "p99"),
        "cpu_ratio_vs_direct_keepalive": median("keepalive", "direct", "cpu"),
        "cpu_ratio_vs_direct_close": median("close", "direct", "cpu"),
    }


def program_result(programs):
    """Per program, the phase with a connection per request counts where it ran in both."""
    return {"programs": {name: round(p["ns_per_call"], 1)
                         for mode in MODES for name, p in programs[mode].items()}}


def warn_of_noise(runs):
    others = statistics.median(run["cpus_used_by_others"] for run in runs)
    if others > QUIET_CPUS:
        print(f"\nNOISY: other processes used {others:.2f} CPUs meanwhile (median of runs): "
              "trust the CPU figures, not the latencies")


def main():
    arguments = parse_arguments()
    rig.require("steer", ("weir-loadgen", "weir-connect-loop", "weir-delay-server", "weir-agent",
                          "weir"))
    interrupt_on_sigterm()
    started, machine, plain = time.time(), rig.machine(), Cgroup()
    inherited = bpf_stats.effective_programs(plain)
    if inherited:
        print(f"  WARNING: every path also runs BPF programs of others: {', '.join(inherited)}")
    backend = start_backend(arguments, plain)
    details = {"started_unix_s": started, "machine": machine, "arguments": vars(arguments),
               "inherited_bpf_programs": inherited}
    summary, failed = {}, 0

    if {"paths", "programs"} & set(arguments.parts):
        paths = set_up(arguments, backend, plain)
    if "paths" in arguments.parts:
        print(f"  {', '.join(paths)}: {arguments.rounds} rounds of {arguments.seconds:g} s, "
              f"{arguments.rate:g}/s kept alive, {arguments.close_rate:g}/s with a connection "
              f"each; load {machine['loadavg'][0]:.2f} on {machine['cpus']} CPUs", flush=True)
        runs = details["runs"] = run_rounds(paths, arguments)
        summary |= path_result(runs)
        failed = sum(run["errors"] for run in runs)
    if "observe" in arguments.parts:
        details["observe"] = observe_cost.measure(backend, arguments.observe_rounds,
                                                  arguments.observe_seconds, arguments.connections)
        summary |= observe_cost.result(details["observe"])
    if "pick" in arguments.parts:
        details["pick"] = pick_cost.measure(arguments.pick_sizes, arguments.pick_connects,
                                            arguments.pick_rounds)
        summary |= pick_cost.result(details["pick"])
    if "programs" in arguments.parts and "weir" in paths:
        details["programs"] = count_programs(paths["weir"], arguments)
        summary |= program_result(details["programs"])

    if "runs" in details:
        print_table(details["runs"], list(paths))
    if "programs" in details:
        print_programs(details["programs"])
    if "runs" in details:
        warn_of_noise(details["runs"])
    if failed:
        print(f"\n{failed} requests failed: the ratios compare different work")
    details |= {"took_s": time.time() - started, "loadavg_after": os.getloadavg()}
    rig.publish("steer", summary, details)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
