#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A client to put into a cgroup: opens connections to a service and says what became of them.

    traffic.py count  ADDRESS:PORT N        N connections one after another, one request each
    traffic.py load   ADDRESS:PORT THREADS  the same without end, until SIGTERM
    traffic.py keep   ADDRESS:PORT N        N requests on one connection
    traffic.py hold   ADDRESS:PORT N        N connections with a request each, whose answers it
                                            begins to read, until killed

Prints one JSON object: {"ok", "failed", "errors": {text: n}, "by_backend": {name: n},
"first_byte_p50_us": {name: us}}. `ok` counts connections (keep: requests) that were answered in full,
by_backend says who answered: its x-backend header, or "local" without one; first_byte_p50_us is the
median, by this program's clock, from the end of sending to the first line read. hold prints "holding" instead, once every request is sent. load
writes "." for the first answer of each thread.
"""
import collections
import json
import signal
import socket
import statistics
import sys
import threading
import time

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: weir\r\n\r\n"


def exchange(sock, reader):
    """One request; the name of the backend and the time to first byte in us.

    OSError or ValueError when the answer is not whole.
    """
    sock.sendall(REQUEST)
    sent = time.perf_counter_ns()
    status = reader.readline()
    first_byte_us = (time.perf_counter_ns() - sent) / 1000
    if not status.startswith(b"HTTP/1.1 "):
        raise ValueError("no status line")
    name, length = "local", None
    while (line := reader.readline()) not in (b"\r\n", b"\n"):
        if not line:
            raise ValueError("end within the header")
        key, _, value = line.decode("latin-1").partition(":")
        if key.lower() == "x-backend":
            name = value.strip()
        if key.lower() == "content-length":
            length = int(value)
    if length is None or len(reader.read(length)) != length:
        raise ValueError("body not whole")
    return name, first_byte_us


def connect(address):
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Tally:
    """Thread-safe."""

    def __init__(self):
        self.lock = threading.Lock()
        self.first_bytes_us = collections.defaultdict(list)
        self.errors = collections.Counter()
        self.failed = 0

    def one(self, address):
        try:
            with connect(address) as sock, sock.makefile("rb") as reader:
                name, first_byte_us = exchange(sock, reader)
        except (OSError, ValueError) as error:
            with self.lock:
                self.failed += 1
                self.errors[repr(error)] += 1
            return
        self.add(name, first_byte_us)

    def add(self, name, first_byte_us):
        with self.lock:
            self.first_bytes_us[name].append(first_byte_us)

    def report(self):
        by_backend = {name: len(samples) for name, samples in self.first_bytes_us.items()}
        medians = {n: statistics.median(samples) for n, samples in self.first_bytes_us.items()}
        print(json.dumps({"ok": sum(by_backend.values()), "failed": self.failed,
                          "errors": self.errors, "by_backend": by_backend,
                          "first_byte_p50_us": medians}), flush=True)


def load(address, threads):
    tally, stop = Tally(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def run():
        tally.one(address)
        print(".", end="", flush=True)
        while not stop.wait(0.001):  # leaves room for the others on a small machine
            tally.one(address)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(flush=True)
    tally.report()


def main():
    mode, address, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if mode == "count":
        tally = Tally()
        for _ in range(number):
            tally.one(address)
        tally.report()
    elif mode == "load":
        load(address, number)
    elif mode == "keep":
        tally = Tally()
        with connect(address) as sock, sock.makefile("rb") as reader:
            for _ in range(number):
                tally.add(*exchange(sock, reader))
        tally.report()
    elif mode == "hold":
        held = [connect(address) for _ in range(number)]
        for sock in held:
            sock.sendall(REQUEST)
        print("holding", flush=True)
        for sock in held:
            sock.settimeout(None)
            sock.recv(1)
        signal.pause()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
