# SPDX-License-Identifier: Apache-2.0
"""The mean run time of the whole connect4 program per steered connect, by size of the pool.

Everything a connect pays in the hook is in it: the service's look-up, the pick, the reservation,
the socket's storage. Many real connects (weir-connect-loop) to one listener on every local address:
the backends are as many addresses of 127.20.0.0/16 and up. Pools of all sizes are measured in
turns, so that a change of the machine's speed hits all of them.
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
    """{"ns", "connects", "ns_per_connect"} of a fresh agent with `size` backends."""
    port = int(rig.free_address().split(":")[1])
    with Cgroup() as cgroup, Agent(cgroup, [service_of(size, port)]) as agent:
        connect(SERVICE, port, WARM_UP, cgroup)
        programs, report = counted(pinned_programs(agent),
                                   lambda: connect(SERVICE, port, connects, cgroup))
    runs, ns = programs[PROGRAM]
    assert runs == connects, f"{PROGRAM} ran {runs} times for {connects} connects"
    return {"ns": ns / runs, "connects": connects, "ns_per_connect": report["ns_per_connect"]}


def measure(sizes, connects, rounds):
    """{"empty_program_ns", "sizes": {size: {"ns": spread, "rounds": [...]}}}"""
    found = {size: [] for size in sizes}
    for number in range(rounds):
        turn = number % len(sizes)
        for size in sizes[turn:] + sizes[:turn]:
            found[size].append(measure_once(size, connects))
            print(f"  pick {number + 1}/{rounds}  {size:6} backends  "
                  f"{found[size][-1]['ns']:6.0f} ns in {PROGRAM} per connect, "
                  f"{found[size][-1]['ns_per_connect'] / 1000:.1f} us per connection", flush=True)
    return {"empty_program_ns": empty_program_ns(connects),
            "sizes": {size: {"ns": spread([run["ns"] for run in runs]), "rounds": runs}
                      for size, runs in found.items()}}


def result(found):
    """Fields of the last line. `pick_ns` is the worst of the sizes' medians."""
    medians = {size: round(of["ns"]["median"], 1) for size, of in found["sizes"].items()}
    return {"pick_ns": max(medians.values()),
            **{f"pick_ns_{size}": ns for size, ns in medians.items()},
            "empty_program_ns": round(found["empty_program_ns"], 1)}
