#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What steering costs beside going direct and beside one proxy: CPU, latency, ns per BPF program.

Three paths lead to the same backend, under the same open-loop Poisson schedule:

  direct  client -> backend
  weir    client -> service address, steered to the backend inside connect(), observed by the kernel
  nginx   client -> one nginx worker with upstream keep-alive -> backend

each with connections kept alive and with a connection per request. Rounds are interleaved and the
order of the paths rotates, so that a change of the machine's speed hits all of them. A ratio is
taken within each round; the median of the rounds is reported with its least and greatest value.

CPU is the scheduler's account (schedstat) of the whole path: client, proxy or agent, and backend,
softirq work included with whoever ran it. ksoftirqd is shown apart. Weir follows the client's
sockets only: the backend stands for a process on another node, though tracepoints run there too.
A separate short phase counts the run time of each BPF program (kernel.bpf_stats_enabled), which
itself costs some ns per run.
A machine that is not quiet is reported as such: then latencies say little.

Writes every round to build/bench/steer.json. The last line is `RESULT {json}`. Exit status: 1 when
a request failed or a path could not be set up. Needs root, nginx, and `make bin tools`.
"""
import argparse
import json
import os
import statistics
import sys
import time

import rig
from rig import BIN

from harness import SERVICE, Cgroup, Process, interrupt_on_sigterm, wait_until
from node import Agent, DelayServer, service

PATHS = ("direct", "weir", "nginx")
MODES = ("keepalive", "close")
# More than this share of a CPU taken by others, and the latencies are partly theirs.
QUIET_CPUS = 0.2
OUTPUT = BIN.parent / "bench"


class Path:
    """One way to the backend: where the client connects, from which cgroup, and who else works."""

    def __init__(self, target, cgroup, parts):
        self.target = target
        self.cgroup = cgroup
        self.parts = parts  # {"backend": pid, ...}; the client accounts for itself


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one run")
    parser.add_argument("--rate", type=float, default=4000, help="requests/s, kept alive")
    parser.add_argument("--close-rate", type=float, default=1500,
                        help="requests/s, a connection each")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--body-bytes", type=int, default=127)
    parser.add_argument("--backend", choices=("nginx", "delay"), default="nginx")
    parser.add_argument("--delay-us", type=int, default=1000, help="with --backend delay")
    parser.add_argument("--paths", type=lambda text: text.split(","), default=list(PATHS),
                        help="comma-separated: %(default)s")
    arguments = parser.parse_args()
    unknown = set(arguments.paths) - set(PATHS)
    if unknown or arguments.rounds < 1:
        parser.error(f"unknown paths {sorted(unknown)}" if unknown else "--rounds is at least 1")
    return arguments


def check_requirements(paths):
    missing = [name for name in ("weir-loadgen", "weir-delay-server") if not (BIN / name).exists()]
    if "weir" in paths:
        missing += [name for name in ("weir-agent", "weir") if not (BIN / name).exists()]
    if missing:
        sys.exit(f"bench_steer: {BIN} has no {', '.join(missing)}: run `make bin tools`")
    if os.geteuid() != 0:
        sys.exit("bench_steer: needs root, to make a cgroup and attach BPF programs")


# ---- the three paths ---------------------------------------------------------------------------

def set_up(arguments):
    """({name: Path}, the agent or None, what already ran in our cgroups)."""
    plain = Cgroup()
    inherited = rig.effective_programs(plain)
    if arguments.backend == "nginx":
        backend = rig.Nginx(OUTPUT / "backend", body_bytes=arguments.body_bytes, cgroup=plain)
    else:
        backend = DelayServer("backend", arguments.delay_us)
    paths, agent = {}, None
    for name in arguments.paths:
        if name == "direct":
            paths[name] = Path(backend.address, plain, {"backend": backend.pid})
        elif name == "nginx":
            proxy = rig.Nginx(OUTPUT / "proxy", upstream=backend.address, cgroup=plain)
            paths[name] = Path(proxy.address, plain,
                               {"backend": backend.pid, "proxy": proxy.pid})
        else:
            steered = Cgroup()
            agent = Agent(steered, [service({"address": backend.address})])
            paths[name] = Path(SERVICE, steered,
                               {"backend": backend.pid, "agent": agent.process.pid})
    for path in paths.values():
        wait_until(lambda: arrives(path), f"a request to {path.target} is answered", 10, 0.1)
    return paths, agent, inherited


def arrives(path):
    with Process([BIN / "weir-loadgen", "--target", path.target, "--rate", 20, "--seconds", 0.2,
                  "--warmup", 0, "--connections", 1, "--cgroup", path.cgroup.path]) as probe:
        return probe.wait() == 0


# ---- one run -----------------------------------------------------------------------------------

def measure(path, mode, seed, arguments, softirq_pids):
    """Runs the load over `path`; its report with the CPU of every part, in us per answer."""
    def accounts():
        return ({name: rig.cpu_ns(pid) for name, pid in path.parts.items()},
                sum(rig.cpu_ns(pid) for pid in softirq_pids), rig.machine_cpu_ns())

    rate = arguments.rate if mode == "keepalive" else arguments.close_rate
    begin = time.monotonic()
    parts_before, softirq_before, machine_before = accounts()
    report = rig.load(path.target, mode, rate, arguments.seconds, seed, arguments.connections,
                      path.cgroup)
    parts_after, softirq_after, machine_after = accounts()
    took_ns = (time.monotonic() - begin) * 1e9
    answers = max(report["answered"], 1)
    cpu = {name: (parts_after[name] - parts_before[name]) / 1000 / answers for name in path.parts}
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


def count_programs(path, agent, arguments):
    """{mode: {program: {"ns_per_call", "calls_per_request"}}}, with the kernel's own counters."""
    ids = rig.pinned_programs(agent)
    found = {}
    with rig.BpfStats():
        for mode in MODES:
            rate = arguments.rate if mode == "keepalive" else arguments.close_rate
            before = rig.program_counters(ids)
            report = rig.load(path.target, mode, rate, min(3.0, arguments.seconds), 1,
                              arguments.connections, path.cgroup)
            after = rig.program_counters(ids)
            programs = found.setdefault(mode, {})
            for program, (name, runs, ns) in after.items():
                calls = runs - before[program][1]
                if calls > 0:
                    programs[name] = {
                        "ns_per_call": (ns - before[program][2]) / calls,
                        "calls_per_request": calls / max(report["answered"], 1)}
    return found


# ---- what it means -----------------------------------------------------------------------------

def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def value_of(run, what):
    return run["cpu_us_per_request"]["path"] if what == "cpu" else run["latency_us"][what]


def series(runs, mode, path, what):
    return [value_of(r, what) for r in runs if r["mode"] == mode and r["path"] == path]


def ratio(runs, mode, over, under, what):
    """Spread of the ratio within each round; None when one of the paths was left out."""
    pairs = list(zip(series(runs, mode, over, what), series(runs, mode, under, what)))
    return spread([a / b for a, b in pairs]) if pairs else None


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


def result(runs, programs):
    """The figures that other programs read; null where a path was left out."""
    def median(mode, under, what):
        r = ratio(runs, mode, "weir", under, what)
        return round(r["median"], 3) if r else None

    # Per program, the phase with a connection per request counts where it ran in both.
    per_call = {name: round(p["ns_per_call"], 1)
                for mode in MODES for name, p in programs.get(mode, {}).items()}
    pick = [ns for name, ns in per_call.items() if "connect4" in name]
    return {
        "cpu_ratio_vs_nginx_keepalive": median("keepalive", "nginx", "cpu"),
        "cpu_ratio_vs_nginx_close": median("close", "nginx", "cpu"),
        "p99_ratio_vs_nginx_keepalive": median("keepalive", "nginx", "p99"),
        "cpu_ratio_vs_direct_keepalive": median("keepalive", "direct", "cpu"),
        "pick_ns": pick[0] if pick else None,
        "programs": per_call,
    }


def main():
    arguments = parse_arguments()
    check_requirements(arguments.paths)
    interrupt_on_sigterm()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    started = time.time()
    machine = rig.machine()
    paths, agent, inherited = set_up(arguments)
    if inherited:
        print(f"  WARNING: every path also runs BPF programs of others: {', '.join(inherited)}")
    print(f"  {', '.join(paths)}: {arguments.rounds} rounds of {arguments.seconds:g} s, "
          f"{arguments.rate:g}/s kept alive, {arguments.close_rate:g}/s with a connection each; "
          f"load {machine['loadavg'][0]:.2f} on {machine['cpus']} CPUs", flush=True)
    runs = run_rounds(paths, arguments)
    programs = count_programs(paths["weir"], agent, arguments) if agent else {}

    summary = result(runs, programs)
    (OUTPUT / "steer.json").write_text(json.dumps({
        "started_unix_s": started, "took_s": time.time() - started, "machine": machine,
        "loadavg_after": os.getloadavg(), "inherited_bpf_programs": inherited,
        "arguments": vars(arguments), "runs": runs, "programs": programs, "result": summary,
    }, indent=1) + "\n")
    print_table(runs, list(paths))
    print_programs(programs)
    others = statistics.median(run["cpus_used_by_others"] for run in runs)
    if others > QUIET_CPUS:
        print(f"\nNOISY: other processes used {others:.2f} CPUs meanwhile (median of runs): "
              "trust the CPU figures, not the latencies")
    failed = sum(run["errors"] for run in runs)
    if failed:
        print(f"\n{failed} requests failed: the ratios compare different work")
    print("\nRESULT " + json.dumps(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
