# SPDX-License-Identifier: Apache-2.0
"""What observation costs: CPU per request of a saturated, kept-alive path, with it over without it.

The same steered path twice: with the default request clock, and with `request_clock: none`, where
connections are still counted and requests are not. The loop is closed, so both CPUs work without a
pause and no idle wake-up blurs a difference of a few per cent. Only one agent lives at a time,
because its tracepoints run for every socket of the machine. Rounds are short and many, each gives
one ratio, and who goes first alternates: the median stands a machine whose speed drifts.
"""
import rig
from rig import spread

from harness import SERVICE, Cgroup
from node import Agent, service

ON, OFF = "on", "off"
KERNEL = {ON: {}, OFF: {"request_clock": "none"}}


def cpu_per_request(backend, state, seconds, seed, connections):
    """{"cpu_us", "rate", "ksoftirqd_us"} of the whole path, agent included, per answer."""
    softirq = rig.ksoftirqd_pids()
    with Cgroup() as cgroup, Agent(cgroup, [service({"address": backend.address})],
                                   kernel=KERNEL[state]) as agent:
        def accounts():
            return (rig.cpu_ns(backend.pid) + rig.cpu_ns(agent.process.pid),
                    sum(map(rig.cpu_ns, softirq)))

        parts_before, softirq_before = accounts()
        report = rig.load(SERVICE, "keepalive", None, seconds, seed, connections, cgroup)
        parts_after, softirq_after = accounts()
    assert report["errors"] == 0, report
    answers = report["answered"]
    return {"state": state, "rate": report["achieved_rate"],
            "cpu_us": ((parts_after - parts_before) / 1000 + report["cpu_us"]) / answers,
            "ksoftirqd_us": (softirq_after - softirq_before) / 1000 / answers}


def measure(backend, rounds, seconds, connections):
    """{"rounds": [{"on": {...}, "off": {...}, "ratio"}], "ratio": spread}"""
    found = []
    for number in range(rounds):
        order = (ON, OFF) if number % 2 == 0 else (OFF, ON)
        runs = {state: cpu_per_request(backend, state, seconds, number + 1, connections)
                for state in order}
        ratio = runs[ON]["cpu_us"] / runs[OFF]["cpu_us"]
        found.append({**runs, "ratio": ratio})
        print(f"  observe {number + 1}/{rounds}  on {runs[ON]['cpu_us']:5.2f} us at "
              f"{runs[ON]['rate']:6.0f}/s  off {runs[OFF]['cpu_us']:5.2f} us at "
              f"{runs[OFF]['rate']:6.0f}/s  x{ratio:.3f}", flush=True)
    return {"rounds": found, "ratio": spread([one["ratio"] for one in found])}


def result(found):
    """Fields of the last line."""
    ratio = found["ratio"]
    return {"observe_cpu_overhead": round(ratio["median"], 3),
            "observe_cpu_overhead_q1": round(ratio["q1"], 3),
            "observe_cpu_overhead_q3": round(ratio["q3"], 3)}
