#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the HTTP front costs: POST /infer of an identity model, beside the service in Go.

Both take a request apart, queue it by priority, form batches of at most 32 without a window, give
back what a model of no cost makes of it, and write the answer. Weir runs as configured by default
but for the bounds that 10,000 connections need, and without its kernel side: steering and observing
are measured by bench_steer.py. The peer is tests/bench/peers/infer.

The client is wrk, in a closed loop: 64 connections, and 10,000. Rounds are interleaved: within each
both programs run each case, one right after the other, in turns first, each in a new process. A
ratio is taken within the round, a case's ratio is the median of its rounds, and the result names
the worst case. Of memory the high-water mark counts, from the first connection on.

Idle connections: 10,000 of them, each after one request; what the process has grown by.

Without Go (Debian: golang-go) it says so and prints Weir's own figures.

Writes everything to build/bench/http.json. The last line is `RESULT {json}`. Exit status: 1 when
something could not be run or was answered with an error. Needs `make bin`; no root.
"""
import argparse
import json
import pathlib
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time

import rig
from beside_go import print_case, ratio, series, used_by_others
from rig import BIN, OUTPUT, Process, free_address, wait_until
from harness import request

SCRIPT = pathlib.Path(__file__).with_name("infer.lua")
MAX_BATCH = 32
IDLE_CONNECTIONS = 10_000
# Beyond those of the bench.
SPARE_CONNECTIONS = 100
# How long the client waits for an answer; 10,000 connections wait for each other.
ANSWER_WITHIN_S = 10
FIGURES = ("rps", "p50_ms", "p99_ms", "cpu_us_per_request", "peak_rss_mb")
BARS = {"rps_ratio_vs_go": ("rps", min, 1.5),
        "p99_ratio_vs_go": ("p99_ms", max, 1.0),
        "rss_ratio_vs_go": ("peak_rss_mb", max, 1.0)}
IDLE_BAR_MB = 100
QUESTION = b'{"model":"m","prompt":"one"}'
ASK = (b"POST /infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
       b"Content-Length: %d\r\n\r\n%s" % (len(QUESTION), QUESTION))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of a run, after one of warming up")
    parser.add_argument("--connections", type=int, nargs="+", default=(64, 10_000))
    parser.add_argument("--threads", type=int, default=1, help="of wrk")
    return parser.parse_args()


# ---- the two programs --------------------------------------------------------------------------

class Weir(rig.BareAgent):
    def __init__(self, most_connections):
        super().__init__(
            [{"name": "m", "executor": "identity", "max_queue": most_connections,
              "batch": {"max_batch_size": MAX_BATCH, "batch_timeout_micros": 0}}],
            serve={"max_connections": most_connections})


class Go(Process):
    def __init__(self, program):
        self.address = free_address()
        super().__init__([program, "-addr", self.address, "-max-batch", MAX_BATCH, "-window", "0"])
        wait_until(lambda: rig.answers(self.address), "the peer listens")


def check_answer(process):
    reply = request(process.address, "POST", "/infer", {"model": "m", "prompt": "one"})
    assert reply.status == 200 and "result" in reply.json(), reply


def memory_mb(process, field):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M).group(1)) / 1024


# ---- under load --------------------------------------------------------------------------------

def wrk(process, connections, seconds, threads):
    run = subprocess.run(
        ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s",
         f"--timeout={ANSWER_WITHIN_S}s", "-s", SCRIPT, f"http://{process.address}/infer"],
        capture_output=True, text=True, timeout=seconds + 60)
    if run.returncode != 0:
        sys.exit(f"bench_http: wrk failed: {run.stdout}{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def measure(start, connections, arguments):
    """A new process of one program under one load."""
    with start() as process:
        check_answer(process)
        # proc(5): sets VmHWM back, which holds what linking and reading the configuration took.
        pathlib.Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        wrk(process, connections, 1, arguments.threads)
        before = rig.cpu_ns(process.pid)
        machine, started = rig.machine_cpu_ns(), time.monotonic_ns()
        client = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = wrk(process, connections, arguments.seconds, arguments.threads)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = time.monotonic_ns() - started
        server_ns = rig.cpu_ns(process.pid) - before
        client_ns = (now.ru_utime + now.ru_stime - client.ru_utime - client.ru_stime) * 1e9
        peak_mb = memory_mb(process, "VmHWM")
    if found["not_ok"] or found["not_answered"] or not found["requests"]:
        sys.exit(f"bench_http: {connections} connections: {found}")
    others_ns = rig.machine_cpu_ns() - machine - server_ns - client_ns
    return {**found,
            "rps": found["requests"] / found["took_us"] * 1e6,
            "p50_ms": found["p50_us"] / 1000, "p99_ms": found["p99_us"] / 1000,
            "cpu_us_per_request": server_ns / 1000 / found["requests"],
            "client_cpu_us_per_request": client_ns / 1000 / found["requests"],
            "peak_rss_mb": peak_mb,
            "cpus_used_by_others": max(0.0, others_ns / took)}


def run_rounds(programs, arguments):
    """[(connections, program's name, figures)], interleaved; who goes first alternates."""
    found = []
    for number in range(arguments.rounds):
        for connections in arguments.connections:
            order = list(programs.items())
            if number % 2:
                order.reverse()
            for name, start in order:
                found.append((connections, name, measure(start, connections, arguments)))
        print(f"  round {number + 1} of {arguments.rounds}", flush=True)
    return found


# ---- idle --------------------------------------------------------------------------------------

def ask_once(connection):
    """Sends a request and reads its whole answer."""
    connection.sendall(ASK)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = int(re.search(rb"content-length: *(\d+)", head, re.I).group(1))
    while len(body) < length:
        body += connection.recv(4096)


def measure_idle(start):
    """MB that the connections cost, all of them open after a request each."""
    connections = []
    with start() as process:
        host, port = process.address.split(":")
        try:
            check_answer(process)
            before = memory_mb(process, "VmRSS")
            for _ in range(IDLE_CONNECTIONS):
                connection = socket.create_connection((host, int(port)), 10)
                connections.append(connection)
                ask_once(connection)
            return {"before_mb": before, "after_mb": memory_mb(process, "VmRSS"),
                    "grown_mb": memory_mb(process, "VmRSS") - before}
        finally:
            for connection in connections:
                connection.close()


# ---- what comes of it --------------------------------------------------------------------------

def print_tables(found, idle, arguments, names):
    for connections in arguments.connections:
        print_case(found, connections, f"{connections} connections", names, FIGURES)
    print(f"\n{IDLE_CONNECTIONS} idle connections")
    for name in names:
        print(f"  {name:5}grown by {idle[name]['grown_mb']:.1f} MB to {idle[name]['after_mb']:.1f}")


def summarise(found, idle, arguments, names):
    """Fields of the last line: the worst case of each bar and which it was."""
    summary = {"idle_connections_mb": round(idle["weir"]["grown_mb"], 1),
               "idle_connections_mb_bar": IDLE_BAR_MB}
    if "go" not in names:
        return {"go": None, **summary, **{
            f"{figure}_{c}": statistics.median(series(found, c, "weir", figure))
            for figure in FIGURES for c in arguments.connections}}
    for field, (figure, worst_of, bar) in BARS.items():
        worst, connections = worst_of((ratio(found, c, figure)["median"], c)
                                      for c in arguments.connections)
        summary[field] = round(worst, 3)
        summary[field + "_bar"] = bar
        summary[field + "_case"] = f"{connections} connections"
    summary["go"] = rig.first_line("go", "version")
    return summary


def main():
    arguments = parse_arguments()
    if not (BIN / "weir-agent").exists():
        sys.exit(f"bench_http: {BIN} has no weir-agent: run `make bin`")
    if not shutil.which("wrk"):
        sys.exit("bench_http: there is no wrk (Debian: wrk)")
    most = max(*arguments.connections, IDLE_CONNECTIONS) + SPARE_CONNECTIONS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < most + SPARE_CONNECTIONS:
        sys.exit(f"bench_http: {most} connections need a higher limit of open files (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # children inherit it
    OUTPUT.mkdir(parents=True, exist_ok=True)
    run = rig.Run("http", arguments)
    programs = {"weir": lambda: Weir(most)}
    peer = rig.build_peer("infer")
    if peer:
        programs["go"] = lambda: Go(peer)
    else:
        print("  no go on this machine (Debian: golang-go): Weir's own figures alone")
    print(f"  {arguments.rounds} rounds; {run.machine_line()}; "
          "kernel side off", flush=True)
    found = run_rounds(programs, arguments)
    idle = {name: measure_idle(start) for name, start in programs.items()}
    print_tables(found, idle, arguments, list(programs))
    run.publish(summarise(found, idle, arguments, list(programs)),
                cpus_used_by_others=used_by_others(found), idle=idle,
                measurements=[{"connections": connections, "program": name, **figures}
                              for connections, name, figures in found])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
