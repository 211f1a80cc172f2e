#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How right the kernel's time to first byte is: against the client's own clock, request by request.

Client and backend are in two network namespaces joined by a veth pair. In each case the client
(weir-ttfb-client) makes 10,000 requests on connections that it keeps alive, and writes down for
each the time from the end of its send() to the return of the recv() with the first byte. The kernel
writes a record per request (`weir events --requests`). Both are matched by socket cookie and number
of the request, never by order or by distribution.

  1ms, 5ms, 20ms   the backend answers after that delay
  stream           the first part of the response after 5 ms, then seven more, one each 2 ms
  loss             5 ms, and 3 % of the packets lost each way

The connections of a case are as many as give some 1500 requests/s: what is compared is two clocks,
not two clocks on a saturated machine. Requests are counted apart from the records, by the counter
of the backend. Both request clocks are measured, first the one that this kernel gets by default.

error_p50_us, error_p99_us: quantiles of |error| in the worst case of the default clock.
missed_requests: requests that the counters do not show (or show too often), all of its cases.
Writes every figure to build/bench/observe.json. The last line is `RESULT {json}`. Exit status: 1
when a request failed, went uncounted or has no record. Needs root, nft, and `make bin tools`.
"""
import argparse
import re
import sys

import rig
from lossy_link import SERVER_ADDRESS, LossyLink
from request_records import client_account, compare, kernel_account
from rig import BIN

from harness import Cgroup, Process, interrupt_on_sigterm
from node import Agent, DelayServer

CLOCKS = ("tracepoint", "skb")
WATCHING = re.compile(r"watching for")


class Case:
    def __init__(self, name, delay_us, connections, options=(), loss_percent=0):
        self.name = name
        self.delay_us = delay_us
        self.connections = connections
        self.options = options  # of weir-delay-server
        self.loss_percent = loss_percent


CASES = (
    Case("1ms", 1000, 2),
    Case("5ms", 5000, 8),
    Case("20ms", 20_000, 32),
    Case("stream", 5000, 32, ("--body-bytes", 4096, "--pieces", 8, "--piece-us", 2000)),
    Case("loss", 5000, 48, loss_percent=3),
)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="in each case")
    parser.add_argument("--cases", type=lambda text: text.split(","),
                        default=[case.name for case in CASES], help="comma-separated")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - {case.name for case in CASES}:
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    return arguments


def service_address(case):
    """A service each, so that every case has its own backend and its own counters."""
    return f"127.111.0.{10 + CASES.index(case)}:8000"


def start_agent(clock, cgroup, link, servers):
    services = [{"name": f"case-{case.name}", "address": service_address(case),
                 "backends": [{"address": server.address}]} for case, server in servers.items()]
    return Agent(cgroup, services, netns=link.client,
                 kernel={"request_clock": clock} if clock else {})


def measure(case, server, agent, cgroup, link, requests):
    """One case: what the client made, what the kernel counted, how far apart the clocks are."""
    def counted():
        return agent.backends(f"case-{case.name}")[server.address]["requests"]

    before = counted()
    link.lose(case.loss_percent)
    with Process([BIN / "weir", "--pin-root", agent.pin_root, "events", "--requests", "--json"]
                 ) as reader:
        reader.wait_for_output(WATCHING)
        with Process([BIN / "weir-ttfb-client", "--target", service_address(case), "--connections",
                      case.connections, "--requests", requests, "--cgroup", cgroup.path],
                     netns=link.client) as client:
            client.wait(120)
            own, made, failed = client_account(client.output().splitlines())
        reader.signal(2)
        assert reader.wait() == 0, reader.output()[-2000:]
        kernel, lost_records = kernel_account(reader.output().splitlines())
    lost_packets = link.lost() if case.loss_percent else 0
    assert bool(lost_packets) == bool(case.loss_percent), "the link lost nothing: no loss measured"
    return {"case": case.name, "requests": made, "failed": failed, "counted": counted() - before,
            "lost_records": lost_records, "lost_packets": lost_packets, **compare(own, kernel)}


def measure_clock(clock, cgroup, link, servers, requests):
    """(the clock's name, [results of the cases]). `clock` None: the default."""
    with start_agent(clock, cgroup, link, servers) as agent:
        name, results = agent.status()["request_clock"], []
        for case, server in servers.items():
            one = measure(case, server, agent, cgroup, link, requests)
            results.append(one)
            print_case(name, one)
    return name, results


def text(us):
    return "      -" if us is None else f"{us:7.1f}"


def print_case(clock, one):
    print(f"  {clock:10} {one['case']:6} {one['requests']:6} requests, {one['counted']:6} counted, "
          f"{one['matched']:6} matched   |error| p50 {text(one['error_p50_us'])}  "
          f"p99 {text(one['error_p99_us'])}  max {text(one['error_max_us'])}  "
          f"bias {text(one['bias_us'])} us"
          + (f"  {one['lost_packets']} packets lost" if one["lost_packets"] else "")
          + (f"  {one['lost_records']} RECORDS LOST" if one["lost_records"] else "")
          + (f"  {one['failed']} REQUESTS FAILED" if one["failed"] else ""), flush=True)


def figures(results):
    """The worst case's quantiles, and what went uncounted in all of them."""
    def worst(field):
        values = [one[field] for one in results if one[field] is not None]
        return round(max(values), 1) if values else None

    return {"error_p50_us": worst("error_p50_us"), "error_p99_us": worst("error_p99_us"),
            "missed_requests": sum(abs(one["requests"] - one["counted"]) for one in results)}


def faults(results):
    return sum(abs(one["requests"] - one["counted"]) + one["failed"] + one["unmatched"]
               + one["invented"] for one in results)


def main():
    arguments = parse_arguments()
    rig.require("observe", ("weir-ttfb-client", "weir-delay-server", "weir-agent", "weir"))
    interrupt_on_sigterm()
    run = rig.Run("observe", arguments)
    link, cgroup = LossyLink(), Cgroup()
    servers = {case: DelayServer(case.name, case.delay_us, f"{SERVER_ADDRESS}:0",
                                 netns=link.server, options=case.options)
               for case in CASES if case.name in arguments.cases}

    default, results = measure_clock(None, cgroup, link, servers, arguments.requests)
    by_clock = {default: results}
    for clock in CLOCKS:
        # Where the default is the fallback, the other one is not there.
        if clock != default and default == CLOCKS[0]:
            by_clock |= dict([measure_clock(clock, cgroup, link, servers, arguments.requests)])

    summary = {"clock": default, **figures(results)}
    for clock in by_clock.keys() - {default}:
        summary |= {f"{clock}_{field}": value for field, value in figures(by_clock[clock]).items()}
    run.publish(summary, clocks=by_clock)
    return 1 if any(faults(results) for results in by_clock.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
