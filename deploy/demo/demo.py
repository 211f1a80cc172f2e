#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the whole loop on this machine in under a minute, then no trace of it.

Starts an agent with its own model and two delay servers behind one service address, puts clients
into a private cgroup, and shows what the kernel measured and decided. Every figure about Weir comes
from its maps (`weir ... --json`, bpftool). Needs root, cgroup v2 and BTF. Exit status 1, with the
reason, when something that it shows does not hold. The last line is RESULT and one JSON object.
"""
import collections
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
sys.dont_write_bytecode = True

import harness  # noqa: E402  (found through the lines above)
import node  # noqa: E402

# The policy is composite, whose weights one can watch move: the default, prequal, compares load and
# latency at each connect instead. Relative weights before latency and load: the agent's own model and two stand-ins for model
# servers, one of which will become slow.
LOCAL, STEADY, FADING = "this agent", "steady", "fading"
WEIGHTS = {LOCAL: 2, STEADY: 4, FADING: 4}
CONNECTIONS = 600
# Four standard deviations of a share of 0.4 over 600 connections.
SHARE_TOLERANCE = 0.08

KNOWN_DELAY_US = 5_000
SLOW_DELAY_US = 60_000
# What a very busy machine may add by waking the client late; a quiet one adds some 20 us.
CLOCK_TOLERANCE_US = 1000
SECONDS_BEFORE, SECONDS_AFTER = 6, 14
CLIENT_THREADS = 4

PROMPT = "Once upon a time"
MAX_TOKENS = 60
# A machine whose CPUs are all busy leaves the agent's own model 1 % of the weight.
TEXT_SECONDS = 15


class DoesNotHold(Exception):
    """Something that the demo shows is not so."""


def check(condition, reason):
    if not condition:
        raise DoesNotHold(reason)


def heading(number, text):
    print(f"\n{number}. {text}\n", flush=True)


class Demo:
    def __init__(self, stack):
        self.cgroup = stack.enter_context(harness.Cgroup())
        self.servers = {n: stack.enter_context(node.DelayServer(n)) for n in (STEADY, FADING)}
        backends = [({"local": True}, WEIGHTS[LOCAL])]
        backends += [(server, WEIGHTS[name]) for name, server in self.servers.items()]
        self.agent = stack.enter_context(node.Agent(
            self.cgroup, [node.service(*backends, policy="composite")], [node.model()],
            control={"tick_ms": 1000, "latency_tau_ms": 3000}))
        self.links = [link["link_id"] for link in self.agent.status()["links"]]

    def backends(self):
        """name -> what the maps say about it now."""
        names = {server.address: name for name, server in self.servers.items()}
        return {LOCAL if b["local"] else names[address]: b
                for address, b in self.agent.backends().items()}

    def show_shares(self):
        heading(2, f"{CONNECTIONS} connections to {harness.SERVICE} from inside the cgroup")
        before = self.backends()
        report = self.cgroup.report("count", CONNECTIONS)
        after = self.backends()
        print(f"  {'backend':<12}{'address':<18}{'weight':>7}{'configured':>12}{'published':>11}"
              f"{'measured':>10}{'connects':>10}")
        connects = {n: after[n]["connects"] - before[n]["connects"] for n in WEIGHTS}
        for name, weight in WEIGHTS.items():
            published = (before[name]["share"] + after[name]["share"]) / 2
            measured = connects[name] / CONNECTIONS
            print(f"  {name:<12}{after[name]['address']:<18}{weight:>7}"
                  f"{weight / sum(WEIGHTS.values()):>12.3f}{published:>11.3f}{measured:>10.3f}"
                  f"{connects[name]:>10}")
            check(abs(measured - published) < SHARE_TOLERANCE,
                  f"{name} got {measured:.3f} of the connections, published was {published:.3f}")
        print("\n  published: the weight in the kernel's table, which the policy composite moves with"
              "\n  latency and load. Nobody listens at the service address, which needs no route.")
        check(report["failed"] == 0, f"{report['failed']} connections failed: {report['errors']}")
        check(sum(connects.values()) == CONNECTIONS, "the maps did not count every connection")

    def show_text(self):
        heading(3, f"Text through http://{harness.SERVICE}/v1/completions, by curl in the cgroup")
        node.wait_ready(self.agent)
        body = json.dumps({"model": node.MODEL_NAME, "prompt": PROMPT, "max_tokens": MAX_TOKENS,
                           "temperature": 0.7, "seed": 4})
        answered = collections.Counter()
        deadline = time.monotonic() + TEXT_SECONDS
        while not answered[LOCAL]:
            check(time.monotonic() < deadline,
                  f"{sum(answered.values())} connections and none reached the agent's own model")
            status, output = self.cgroup.run(
                ["curl", "-sS", "-m", "20", "-D", "-", "-H", "Content-Type: application/json",
                 "-d", body, f"http://{harness.SERVICE}/v1/completions"])
            check(status == 0, f"curl: {output}")
            header, _, text = output.replace("\r\n", "\n").partition("\n\n")
            stand_in = re.search(r"(?im)^x-backend: (.+)$", header)
            answered[stand_in.group(1) if stand_in else LOCAL] += 1
        print("  answered by: " + ", ".join(f"{name} ({n})" for name, n in answered.items()) + "\n")
        reply = json.loads(text)
        check("choices" in reply, f"the agent answered {text}")
        for paragraph in (PROMPT + reply["choices"][0]["text"]).splitlines():
            print(textwrap.fill(paragraph, 88, initial_indent="    ", subsequent_indent="    "))
        tokens = reply["usage"]["completion_tokens"]
        print(f"\n  {tokens} tokens, finish_reason {reply['choices'][0]['finish_reason']}")
        check(tokens > 0, "no token was generated")
        return tokens

    def show_slow_backend(self):
        heading(4, f"{FADING} goes from {KNOWN_DELAY_US // 1000} to {SLOW_DELAY_US // 1000} ms to "
                   "the first byte, under traffic")
        for server in self.servers.values():
            server.set_delay_us(KNOWN_DELAY_US)
        error = self.compare_clocks()
        with self.cgroup.traffic("load", CLIENT_THREADS) as traffic:
            harness.wait_until(lambda: "." in traffic.output(), "the traffic runs")
            names = "".join(f"{name:>9}" for name in (STEADY, FADING, "local")) + "  |"
            print(f"  {'second':>6} |{'first byte, p50 ms':^29}|{'share of new connections':^29}|\n"
                  f"  {'':>6} |{names}{names}")
            shares = {second: self.show_second(second)
                      for second in range(-SECONDS_BEFORE, SECONDS_AFTER)}
            traffic.signal(harness.signal.SIGTERM)
            traffic.wait()
            report = harness.last_json(traffic)
        check(report["failed"] == 0, f"{report['failed']} connections failed: {report['errors']}")
        # The loop needs some seconds from the first connections to its first settled weights.
        before = mean([shares[s] for s in range(-3, 0)])
        after = mean([shares[s] for s in range(SECONDS_AFTER - 4, SECONDS_AFTER)])
        print(f"\n  {report['ok']} connections, 0 failed; share of {FADING}: {before:.3f} before, "
              f"{after:.3f} after")
        check(after < before / 2, f"the share of the slow backend fell only from {before:.3f} to "
                                  f"{after:.3f}")
        return before, after, error

    def compare_clocks(self):
        """The error of the kernel's median against the client's own clock, in us."""
        steady = self.servers[STEADY]
        steady.forget_stats()
        start = self.backends()[STEADY]
        report = self.cgroup.report("count", CONNECTIONS)
        end = self.backends()[STEADY]
        served = steady.stats()["delay_us"]
        check(report["by_backend"][STEADY] == served["count"]
              == end["ttfb_us"]["count"] - start["ttfb_us"]["count"],
              "the maps did not count every request")
        measured, own = node.p50_us(start, end), report["first_byte_p50_us"][STEADY]
        error = abs(measured - own)
        print(f"  {STEADY}, {served['count']} requests, first byte p50: {measured:.1f} us by the maps, "
              f"{own:.1f} us by the client's\n  clock, difference {error:.1f} us; the server held each "
              f"back for {served['p50']:.1f} us\n")
        check(error < CLOCK_TOLERANCE_US, f"the clocks differ by {error:.1f} us")
        return error

    def show_second(self, second):
        """One line of the table; the measured share of the slow backend in that second."""
        if second == 0:
            self.servers[FADING].set_delay_us(SLOW_DELAY_US)
        earlier = self.backends()
        time.sleep(1)
        now = self.backends()
        connects = {n: now[n]["connects"] - earlier[n]["connects"] for n in WEIGHTS}
        total = sum(connects.values())
        check(total > 0, "no connection in a second")
        order = (STEADY, FADING, LOCAL)
        latency = {n: node.p50_us(earlier[n], now[n]) for n in order}
        print(f"  {second:>6} |" +
              "".join(f"{latency[n] / 1000:>9.2f}" if latency[n] is not None else f"{'-':>9}"
                      for n in order) + "  |" +
              "".join(f"{connects[n] / total:>9.3f}" for n in order) +
              ("  |  <- slow from here" if second == 0 else "  |"), flush=True)
        return connects[FADING] / total

    def show_map(self):
        path = next(self.agent.pin_root.rglob("weir_be"))
        heading(5, f"bpftool map dump pinned {path}")
        dump = json.loads(subprocess.run([harness.BPFTOOL, "-j", "map", "dump", "pinned", path],
                                         capture_output=True, text=True, check=True).stdout)
        index = self.backends()[STEADY]["index"]
        record = next(e for e in dump if e["formatted"]["key"] == index)["formatted"]["value"]
        for field, value in record.items():
            if not field.startswith("pad"):
                print(f"  {field:<22}{json.dumps(value)}")
        print(f"\n  (record {index}, {STEADY}; one of {len(dump)})")


def mean(values):
    return sum(values) / len(values)


def show_capabilities(demo):
    heading(1, "What this kernel offers")
    status = demo.agent.status()
    for capability in status["capabilities"]:
        need = "required" if capability["required"] else "optional"
        print(f"  {capability['name']:<30} {capability['use']:<9} {need:<9} {capability['detail']}")
        check(not (capability["required"] and capability["use"] == "missing"),
              f"this kernel lacks {capability['name']}")
    print(f"\n  request clock: {status['request_clock']}; attached to {status['cgroup']} by "
          f"{len(status['links'])} links")


def show(stack):
    """Everything; returns the figures of RESULT and what must be gone afterwards."""
    demo = Demo(stack)
    show_capabilities(demo)
    demo.show_shares()
    tokens = demo.show_text()
    before, after, error = demo.show_slow_backend()
    demo.show_map()
    status = demo.agent.stop()
    check(status == 0, f"SIGTERM: the agent ended with {status}\n{demo.agent.log()}")
    check(not demo.agent.pins(), f"pins are left: {demo.agent.pins()}")
    return demo, {"slow_share_before": round(before, 4), "slow_share_after": round(after, 4),
                  "ttfb_error_p50_us": round(error, 1), "tokens": tokens}


def main():
    if gap := harness.kernel_gap() or harness.missing_programs():
        sys.exit(f"the demo cannot run here: {gap}")
    harness.interrupt_on_sigterm()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        demo, result = show(stack)
    check(not node.links_of(demo.links), "links are left in the kernel")
    check(not demo.cgroup.path.exists(), f"{demo.cgroup.path} is left")
    check(not demo.agent.pin_root.exists(), f"{demo.agent.pin_root} is left")
    print(f"\nEverything was cleaned up: processes, cgroup, {len(demo.links)} links, maps and pins "
          f"({time.monotonic() - started:.0f} s in all).")
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except (DoesNotHold, AssertionError) as reason:
        harness.close_all()
        sys.exit(f"\nthe demo failed: {reason}\n(everything was cleaned up)")
    except KeyboardInterrupt:
        harness.close_all()
        sys.exit("\ninterrupted; everything was cleaned up")
