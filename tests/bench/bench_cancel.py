#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long after its client has gone a request still takes a place, with the shipped model.

A client sends a request, waits until the agent has it where the case wants it and for a random time
more, and closes its socket; every other one with a reset. The time is from close() to the answer of
the first scrape in which the request counts as cancelled: it has left the queue or its sequence then,
and the next one may have it. Scrapes follow each other all the time, so each figure is too high by
half a scrape (`scrape_ms`) and by one answer.

  queue    it waits: all sequences are taken by long streams
  stream   it generates, alone
  prompt   it is alone in the middle of its own prompt of 3000 tokens
  others   it generates or is in its prompt, in turns, and all other sequences are in prompts of 3000
           tokens, one after the other

A request that came to its end before it was cancelled is not counted as a sample (`missed`).

Writes everything to build/bench/cancel.json. The last line is `RESULT {json}`, cancel_p99_ms by case.
Exit status: 1 when something could not be set up or a request never counted as cancelled. Needs
`make bin`; no root.
"""
import argparse
import contextlib
import itertools
import json
import random
import re
import socket
import statistics
import struct
import sys
import threading
import time

import rig
from rig import BIN

from harness import interrupt_on_sigterm
from node import Agent, model, wait_ready

CASES = ("queue", "stream", "prompt", "others")
SEQUENCES = 8
# Beyond what the model was trained for, it finds no end of its own.
ENDLESS = {"prompt": "a " * 1000, "max_tokens": 6000, "temperature": 0, "stream": True}


def long_prompt():
    """Three tokens for each sentence and a bit; one token of answer. No two begin alike, or the
    second would not be computed."""
    return {"prompt": f"{next(_numbers)} " + "Once upon a time. " * 600, "max_tokens": 1,
            "temperature": 0, "stream": True}


_numbers = itertools.count(100000)
# Not heard of by then, it was lost.
LOST_AFTER_S = 10


def parse_arguments():
    def cases(text):
        names = text.split(",")
        if unknown := set(names) - set(CASES):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return names

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=cases, default=list(CASES))
    parser.add_argument("--samples", type=int, default=200, help="of each case")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.samples < 10:
        parser.error("a case has at least 10 samples")
    return arguments


class Client:
    """One request on a socket of its own."""

    def __init__(self, agent, body):
        host, port = agent.http.split(":")
        self._socket = socket.create_connection((host, int(port)), 30)
        text = json.dumps(body).encode()
        self._socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n"
                             b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                             % (len(text), text))

    def read_all(self):
        while self._socket.recv(65536):
            pass

    def break_off(self):
        """Ends a read_all() in another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def leave(self, with_reset):
        """Closes; the time of it. What is unread would make a reset of every close."""
        if with_reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self._socket.setblocking(False)
            with contextlib.suppress(OSError):  # nothing left to read, or no connection
                while self._socket.recv(65536):
                    pass
        at = time.monotonic()
        self._socket.close()
        return at


class Scraper:
    """Reads the agent's gauges and counters, again and again over one connection."""

    _FIELDS = {name: re.compile(rb"^" + pattern + rb" (\S+)$", re.M) for name, pattern in {
        "queued": rb'weir_model_queued\{[^}]*\}',
        "running": rb'weir_model_running\{[^}]*\}',
        "cancelled": rb'weir_model_requests_finished_total\{[^}]*outcome="cancelled"[^}]*\}',
        "completed": rb'weir_model_requests_finished_total\{[^}]*outcome="completed"[^}]*\}',
        "aborts": rb'weir_model_decode_aborts_total\{[^}]*\}',
    }.items()}

    def __init__(self, agent):
        host, port = agent.http.split(":")
        self._socket = socket.create_connection((host, int(port)), 30)
        self.took_s = []

    def read(self):
        begin = time.monotonic()
        self._socket.sendall(b"GET /metrics HTTP/1.1\r\nHost: weir\r\n\r\n")
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._received()
        head, body = answer[:end], answer[end + 4:]
        length = int(re.search(rb"(?i)^content-length: (\d+)", head, re.M).group(1))
        while len(body) < length:
            body += self._received()
        self.took_s.append(time.monotonic() - begin)
        return {name: float(field.search(body).group(1)) for name, field in self._FIELDS.items()}

    def _received(self):
        piece = self._socket.recv(1 << 18)
        assert piece, "the agent closed the connection of the scrapes"
        return piece

    def wait(self, condition, seconds=LOST_AFTER_S):
        """The reading for which `condition` held; None when it never did."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            reading = self.read()
            if condition(reading):
                return reading
            time.sleep(0.0003)  # a CPU is left to the agent
        return None

    def close(self):
        self._socket.close()


# ---- who else is there -------------------------------------------------------------------------

@contextlib.contextmanager
def company(agent, scraper, body, count):
    """`count` sequences are taken by what `body` gives, by one request after the other."""
    stop, current = threading.Event(), [None] * count

    def send(place):
        while not stop.is_set():
            client = current[place] = Client(agent, body())
            with contextlib.suppress(OSError):
                client.read_all()
            client.leave(with_reset=False)

    senders = [threading.Thread(target=send, args=(place,)) for place in range(count)]
    for sender in senders:
        sender.start()
    try:
        assert scraper.wait(lambda r: r["running"] == count), "the others are worked on"
        yield
    finally:
        stop.set()
        for client in current:
            client.break_off()
        for sender in senders:
            sender.join(60)
        assert scraper.wait(lambda r: r["running"] == 0), "the others are gone"


# ---- the cases ---------------------------------------------------------------------------------

def there(case, reading):
    return reading["queued"] == 1 if case == "queue" else reading["running"] >= 1


def one_sample(agent, scraper, case, number, chance):
    """ms from close() until it was counted; None when it had ended before."""
    before = scraper.read()
    own_prompt = case == "prompt" or (case == "others" and number % 4 >= 2)
    client = Client(agent, long_prompt() if own_prompt else ENDLESS)
    with_reset = number % 2 == 1
    if case == "others":
        reached = scraper.wait(lambda r: r["running"] == SEQUENCES, 2)
    else:
        reached = scraper.wait(lambda r: there(case, r))
    if reached is None:
        client.leave(with_reset)
        assert case == "others" and scraper.wait(
            lambda r: r["cancelled"] > before["cancelled"] or r["running"] < SEQUENCES), case
        return None
    time.sleep(chance.uniform(0, 0.06))
    left = client.leave(with_reset)
    heard = scraper.wait(lambda r: r["cancelled"] > before["cancelled"]
                         or (case == "prompt" and r["running"] == 0))
    ms = (time.monotonic() - left) * 1000
    if heard is None:
        assert own_prompt, f"{case}: not cancelled {LOST_AFTER_S} s after its client left"
        return None
    return ms if heard["cancelled"] > before["cancelled"] else None


def run_case(agent, case, arguments):
    chance, scraper = random.Random(arguments.seed), Scraper(agent)
    others = {"queue": (lambda: ENDLESS, SEQUENCES), "others": (long_prompt, SEQUENCES - 1)}
    samples, missed = {"fin": [], "rst": []}, 0
    aborts = scraper.read()["aborts"]
    with (company(agent, scraper, *others[case]) if case in others
          else contextlib.nullcontext()):
        for number in range(arguments.samples):
            ms = one_sample(agent, scraper, case, number, chance)
            if ms is None:
                missed += 1
            else:
                samples["rst" if number % 2 else "fin"].append(ms)
    aborts = scraper.read()["aborts"] - aborts
    scrape_ms = statistics.median(scraper.took_s) * 1000
    scraper.close()
    return {"case": case, "missed": missed, "decode_aborts": aborts,
            "scrape_ms": round(scrape_ms, 2), "samples_ms": samples,
            **{kind: figures(values) for kind, values in samples.items()},
            "all": figures(samples["fin"] + samples["rst"])}


def figures(values):
    values = sorted(values)
    if not values:
        return None

    def at(share):
        return round(values[min(len(values) - 1, int(share * len(values)))], 2)

    return {"n": len(values), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1)}


def print_case(found):
    for kind in ("fin", "rst", "all"):
        if f := found[kind]:
            print(f"  {found['case']:7} {kind:4} {f['n']:4} cancelled  p50 {f['p50']:7.2f}  "
                  f"p90 {f['p90']:7.2f}  p99 {f['p99']:7.2f}  max {f['max']:7.2f} ms", flush=True)
    print(f"  {found['case']:7} {found['missed']} ended before, {found['decode_aborts']:g} steps "
          f"stopped, a scrape takes {found['scrape_ms']} ms", flush=True)


def main():
    arguments = parse_arguments()
    if not (BIN / "weir-agent").exists():
        sys.exit(f"bench_cancel: {BIN} has no weir-agent: run `make bin`")
    interrupt_on_sigterm()
    run = rig.Run("cancel", arguments)
    print(f"  {arguments.samples} of each case; {run.machine_line()}", flush=True)
    with Agent(models=[model(max_sequences=SEQUENCES, context_tokens=8192, threads=1)]) as agent:
        wait_ready(agent)
        found = []
        for case in arguments.cases:
            found.append(run_case(agent, case, arguments))
            print_case(found[-1])
    summary = {"cancel_p99_ms": {f["case"]: (f["all"] or {}).get("p99") for f in found},
               "cancel_p50_ms": {f["case"]: (f["all"] or {}).get("p50") for f in found},
               "cancel_max_ms": {f["case"]: (f["all"] or {}).get("max") for f in found}}
    run.publish(summary, cases=found)
    return 1 if any(f["all"] is None for f in found) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
