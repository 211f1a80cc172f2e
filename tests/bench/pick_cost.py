# SPDX-License-Identifier: Apache-2.0
"""The mean run time of the whole connect4 program per steered connect, by size of the pool.

Everything a connect pays in the hook is in it: the service's look-up, the pick, the note for the
SYN. What the kernel's statistics cost themselves is not: each round also measures a program of two
instructions, and its run time is taken off the picks of that round. The figures as the kernel
counts them stand beside these, as raw.

Many real connects (weir-connect-loop) to one listener on every local address: the backends are as
many addresses of 127.20.0.0/16 and up. Pools of all sizes are measured in turns, so that a change
of the machine's speed hits all of them.
"""
from bpf_stats import counted, pinned_programs
import rig
from rig import BIN, spread

from harness import SERVICE, Cgroup, Process, last_json
from node import Agent

PROGRAM = "weir_connect4"
WARM_UP = 2000  # connects that are not counted


def backend_address(index, port):
    """Distinct for every index below 2^20; never .0 or .255 at the end."""
    block, host = divmod(index, 254)
    return f"127.{20 + block // 256}.{block % 256}.{host + 1}:{port}"


def service_of(size, port):
    return {"name": "pick", "address": SERVICE,
            "backends": [{"address": backend_address(i, port)} for i in range(size)]}


def connect(target, port, connects, cgroup, *options):
    """The report of weir-connect-loop; a connect that failed raises."""
    with Process([BIN / "weir-connect-loop", "--target", target, "--listen", f"0.0.0.0:{port}",
                  "--connects", connects, "--cgroup", cgroup.path, *options]) as process:
        status = process.wait(60 + connects / 2000)
        assert status == 0, process.output()
        return last_json(process)


def empty_program_ns(connects):
    """What the statistics themselves cost: the mean run time of a program of two instructions."""
    port = int(rig.free_address().split(":")[1])
    with Cgroup() as cgroup:
        _, report = counted([], lambda: connect(f"127.0.0.1:{port}", port, connects, cgroup,
                                                "--empty-program"))
    return report["empty_program_ns"]


def measure_once(size, connects):
    """{"raw_ns", "connects", "ns_per_connect"} of a fresh agent with `size` backends."""
    port = int(rig.free_address().split(":")[1])
    with Cgroup() as cgroup, Agent(cgroup, [service_of(size, port)]) as agent:
        connect(SERVICE, port, WARM_UP, cgroup)
        programs, report = counted(pinned_programs(agent),
                                   lambda: connect(SERVICE, port, connects, cgroup))
    runs, ns = programs[PROGRAM]
    assert runs == connects, f"{PROGRAM} ran {runs} times for {connects} connects"
    return {"raw_ns": ns / runs, "connects": connects,
            "ns_per_connect": report["ns_per_connect"]}


def measure(sizes, connects, rounds):
    """{"empty_program_ns": spread, "sizes": {size: {"ns": spread, "raw_ns": spread, "rounds": []}}}

    "ns" is "raw_ns" less the empty program of the same round.
    """
    found, empty = {size: [] for size in sizes}, []
    for number in range(rounds):
        empty.append(empty_program_ns(connects))
        turn = number % len(sizes)
        for size in sizes[turn:] + sizes[:turn]:
            run = measure_once(size, connects)
            run["ns"] = run["raw_ns"] - empty[-1]
            found[size].append(run)
            print(f"  pick {number + 1}/{rounds}  {size:6} backends  "
                  f"{run['ns']:6.0f} ns in {PROGRAM} per connect, without the {empty[-1]:.0f} ns of "
                  f"the statistics (raw {run['raw_ns']:.0f}), "
                  f"{run['ns_per_connect'] / 1000:.1f} us per connection", flush=True)
    return {"empty_program_ns": spread(empty),
            "sizes": {size: {"ns": spread([run["ns"] for run in runs]),
                             "raw_ns": spread([run["raw_ns"] for run in runs]), "rounds": runs}
                      for size, runs in found.items()}}


def result(found):
    """Fields of the last line. `pick_ns` is the worst of the sizes' medians, net of what the
    statistics cost; `pick_raw_ns` the same with it."""
    def medians(what):
        return {size: round(of[what]["median"], 1) for size, of in found["sizes"].items()}

    net, raw = medians("ns"), medians("raw_ns")
    return {"pick_ns": max(net.values()),
            **{f"pick_ns_{size}": ns for size, ns in net.items()},
            "pick_raw_ns": max(raw.values()),
            **{f"pick_raw_ns_{size}": ns for size, ns in raw.items()},
            "empty_program_ns": round(found["empty_program_ns"]["median"], 1)}
