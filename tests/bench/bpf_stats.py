# SPDX-License-Identifier: Apache-2.0
"""What BPF programs cost, by the kernel's own counters of runs and run time.

The counters cost some time themselves (about 70 ns per run where this was written), which is in
every figure; pick_cost.py measures it beside them and takes it off.

Not thread-safe.
"""
import json
import pathlib
import subprocess

import rig  # noqa: F401  (makes the harness importable)
from harness import BPFTOOL, Resource

BPF_STATS = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")


class BpfStats(Resource):
    """The kernel counts runs and run time of BPF programs as long as this lives."""

    def __init__(self):
        self._before = BPF_STATS.read_text()
        super().__init__()
        BPF_STATS.write_text("1")

    def _release(self):
        BPF_STATS.write_text(self._before)


def bpftool(*arguments):
    """The JSON that bpftool prints; None when it refuses."""
    run = subprocess.run([BPFTOOL, "--json", *map(str, arguments)], capture_output=True, text=True)
    return json.loads(run.stdout) if run.returncode == 0 and run.stdout.strip() else None


def pinned_programs(agent):
    """Ids of the programs behind every link that the agent pinned."""
    links = (bpftool("link", "show", "pinned", pin) for pin in agent.pins() if pin.is_file())
    return sorted({link["prog_id"] for link in links
                   if isinstance(link, dict) and "prog_id" in link})


def program_counters(ids):
    """{id: (name, runs, run time in ns)}."""
    return {p["id"]: (p.get("name", str(p["id"])), p.get("run_cnt", 0), p.get("run_time_ns", 0))
            for p in bpftool("prog", "show") or [] if p["id"] in ids}


def counted(ids, work):
    """Does `work()` with the counters on; ({program name: (runs, run time in ns)}, its result).

    Programs of one name are added up.
    """
    with BpfStats():
        before = program_counters(ids)
        outcome = work()
        after = program_counters(ids)
    programs = {}
    for program, (name, runs, ns) in after.items():
        _, runs_before, ns_before = before.get(program, (name, 0, 0))
        total_runs, total_ns = programs.get(name, (0, 0))
        programs[name] = (total_runs + runs - runs_before, total_ns + ns - ns_before)
    return programs, outcome


def effective_programs(cgroup):
    """Names of the cgroup programs that run for sockets in `cgroup`, inherited ones included."""
    return sorted(p.get("name", "?") for p in bpftool("cgroup", "show", cgroup.path, "effective")
                  or [])
