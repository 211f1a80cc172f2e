#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What loading a model costs beside reading its file, and what stays of it.

One agent, and a file of random weights in the shape of a 0.5 B model (Q8_0 unless --model says
otherwise), all of it in the page cache.

  reload   unload it, load it again; then read the file, in turns first. `memory`: read(2) into fresh
           memory of the file's size, what a loader without a mapping has to do at the least;
           `buffer`: read(2) into 1 MiB over and over, which is the memory's speed; `touch`: one byte
           of each page of a new mapping. The reload is the whole answer to the admin API: the
           metadata checked, the file mapped, the vocabulary built, a context made, a first decode.
  second   a second model of the same file: what the process has more of its pages (smaps, Rss of the
           file's mappings) and of other memory, less what its own context says that it has.
  cycles   load and unload, again and again: RSS of the agent without a model after the last ones
           over that after the first ones (medians of five: a thread may just be ending).
  cold     (only with --cold) the file dropped from the page cache, each `prefetch` of the
           configuration, beside a read(2) of the cold file.

A ratio of times is taken within a round; that of all is the median of the rounds.

Writes everything to build/bench/model-memory.json. The last line is `RESULT {json}`. Needs
`make bin tools`; no root.
"""
import argparse
import mmap
import os
import pathlib
import re
import statistics
import sys
import time

import engine_rig as er
import rig
from rig import BIN, spread

from harness import interrupt_on_sigterm, request

PREFETCHES = ("willneed", "sequential", "populate", "none")
LOADED = re.compile(r"model loaded name=(\S+) .*? ms=(\d+) warm_ms=(\d+) ")
MIB = 1 << 20


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[m for m, shape in er.SHAPES.items() if shape],
                        default="0.5b")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.cycles < 1:
        parser.error("there is at least one round, and one cycle")
    return arguments


# ---- reading -----------------------------------------------------------------------------------

def timed(function, path):
    started = time.perf_counter()
    function(path)
    return (time.perf_counter() - started) * 1e3


def read_into_memory(path):
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file, mmap.mmap(-1, size) as memory:
        view, at = memoryview(memory), 0
        while at < size:
            at += file.readinto(view[at:])
        view.release()


def read_through_buffer(path):
    buffer = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def touch(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        pages[::mmap.PAGESIZE]


READS = {"memory": read_into_memory, "buffer": read_through_buffer, "touch": touch}


def drop(path):
    """Out of the page cache; false where somebody has it mapped or the file system keeps it."""
    read_through_buffer(path)  # what is being read cannot be dropped
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- the agent ---------------------------------------------------------------------------------

class Agent(rig.BareAgent):
    """Without preload: what is loaded is what was asked for."""

    def __init__(self, path, threads, names=("first", "second"), **fields):
        super().__init__([{"name": name, "path": str(path), "max_sequences": 8, "threads": threads,
                           "context_tokens": 512, **fields} for name in names])

    def operate(self, name, what):
        """Milliseconds until the answer."""
        started = time.perf_counter()
        reply = request(self.address, "POST", f"/v2/repository/models/{name}/{what}", {},
                        seconds=300)
        if reply.status != 200:
            raise RuntimeError(f"{what} {name}: {reply.status} {reply.body!r}")
        return (time.perf_counter() - started) * 1e3

    def memory(self, name):
        entries = request(self.address, "POST", "/v2/repository/index", {}).json()
        return next(e["weir"]["memory"] for e in entries if e["name"] == name)

    def last_load(self):
        """Of the log: milliseconds to load, and to warm."""
        return [int(ms) for ms in LOADED.findall(self.output())[-1][1:]]

    def rss(self):
        """Bytes, exactly: of the kernel's own sums some lag behind."""
        text = pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Rss:\s+(\d+) kB", text, re.M).group(1)) * 1024

    def rss_of(self, path):
        """Bytes: (of the mappings of this file, of all others)."""
        of_file = others = 0
        mine = False
        for line in pathlib.Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                mine = line.endswith(" " + str(path))
            elif line.startswith("Rss:"):
                if mine:
                    of_file += int(line.split()[1]) * 1024
                else:
                    others += int(line.split()[1]) * 1024
        return of_file, others


# ---- the cases ---------------------------------------------------------------------------------

def reload(agent, path, rounds):
    found = []
    agent.operate("first", "load")  # the trial of the file, and whatever is done once
    for number in range(rounds):
        row = {}

        def load():
            agent.operate("first", "unload")
            row["reload_ms"] = agent.operate("first", "load")
            row["load_ms"], row["warm_ms"] = agent.last_load()

        def read():
            for name, function in READS.items():
                row[f"read_{name}_ms"] = timed(function, path)

        for step in (load, read) if number % 2 else (read, load):
            step()
        row |= {f"over_{name}": row["reload_ms"] / row[f"read_{name}_ms"] for name in READS}
        found.append(row)
    agent.operate("first", "unload")
    of = {name: spread([row[name] for row in found]) for name in found[0]}
    print(f"  reload {of['reload_ms']['median']:7.1f} ms (load {of['load_ms']['median']:.0f}, first "
          f"decode {of['warm_ms']['median']:.0f}); reading the file into memory "
          f"{of['read_memory_ms']['median']:.1f}, through a buffer "
          f"{of['read_buffer_ms']['median']:.1f}, touching its pages "
          f"{of['read_touch_ms']['median']:.1f} ms", flush=True)
    for name in READS:
        print(f"  reload over read ({name}): {of[f'over_{name}']['median']:.2f} "
              f"(quartiles {of[f'over_{name}']['q1']:.2f} to {of[f'over_{name}']['q3']:.2f})",
              flush=True)
    return {"rounds": found, "spread": of}


def second(agent, path):
    agent.operate("first", "load")
    before = agent.rss_of(path)
    agent.operate("second", "load")
    after = agent.rss_of(path)
    memory = agent.memory("second")
    own = sum(memory[part] for part in ("kv_bytes", "compute_bytes", "output_bytes"))
    row = {"file_bytes": os.path.getsize(path), "file_rss_before": before[0],
           "file_rss_after": after[0], "other_rss_added": after[1] - before[1],
           "own_context_bytes": own}
    weights = after[0] - before[0] + max(0, row["other_rss_added"] - own)
    row["ratio"] = weights / row["file_bytes"]
    agent.operate("second", "unload")
    agent.operate("first", "unload")
    print(f"  second model of the file: its pages {(after[0] - before[0]) / MIB:+.1f} MiB, other "
          f"memory {row['other_rss_added'] / MIB:+.1f} MiB, of which its context "
          f"{own / MIB:.1f}; ratio {row['ratio']:.4f}", flush=True)
    return row


def cycles(path, threads, count):
    """An agent of its own: nothing that the other cases left."""
    with Agent(path, threads, ("first",)) as agent:
        rss = [agent.rss()]
        loaded = []
        for _ in range(count):
            agent.operate("first", "load")
            loaded.append(agent.rss())
            agent.operate("first", "unload")
            rss.append(agent.rss())
    row = {"rss_never_loaded": rss[0], "rss_unloaded": rss[1:], "rss_loaded": loaded,
           "first": statistics.median(rss[1:6]), "last": statistics.median(rss[-5:])}
    row["ratio"] = row["last"] / row["first"]
    print(f"  RSS never loaded {rss[0] / MIB:.1f}, after the first cycles {row['first'] / MIB:.1f}, "
          f"after {count} {row['last'] / MIB:.1f} MiB, ratio {row['ratio']:.4f}; loaded first "
          f"{loaded[0] / MIB:.1f}, last {loaded[-1] / MIB:.1f} MiB", flush=True)
    return row


def cold(path, threads, rounds):
    rows = []
    for _ in range(rounds):
        row = {}
        drop(path)
        row["read_ms"] = timed(read_through_buffer, path)
        for how in PREFETCHES:
            # The trial would read it first, and is not what is looked at here.
            with Agent(path, threads, ("first",), prefetch=how, trial="never") as agent:
                drop(path)
                row[how] = agent.operate("first", "load")
        rows.append(row)
    of = {name: spread([row[name] for row in rows]) for name in rows[0]}
    print("  cold: " + ", ".join(f"{name} {of[name]['median']:.0f} ms" for name in of), flush=True)
    return {"rounds": rows, "spread": of}


def main():
    arguments = parse_arguments()
    missing = [p for p in ("weir-agent", "weir-synth-model") if not (BIN / p).exists()]
    if missing:
        sys.exit(f"bench_model_memory: {BIN} has no {', '.join(missing)}: run `make bin tools`")
    interrupt_on_sigterm()
    run = rig.Run("model-memory", arguments)
    path, threads = er.model_file(arguments.model).resolve(), er.threads_for(arguments.model)
    print(f"  {arguments.model}, {path.stat().st_size / MIB:.0f} MiB, {threads} threads; "
          f"{run.machine_line()}", flush=True)
    read_through_buffer(path)
    with Agent(path, threads) as agent:
        found = {"reload": reload(agent, path, arguments.rounds), "second": second(agent, path)}
    found["cycles"] = cycles(path, threads, arguments.cycles)
    if arguments.cold:
        found["cold"] = cold(path, threads, min(3, arguments.rounds))
    of = found["reload"]["spread"]
    run.publish({
        "warm_reload_ratio": round(of["over_memory"]["median"], 3),
        "warm_reload_over_buffer_ratio": round(of["over_buffer"]["median"], 3),
        "second_instance_weight_ratio": round(found["second"]["ratio"], 4),
        "rss_after_100_cycles_ratio": round(found["cycles"]["ratio"], 4),
    }, cases=found)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
