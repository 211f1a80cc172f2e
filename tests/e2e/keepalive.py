#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A client that keeps its connections, to put into a cgroup.

    keepalive.py ADDRESS:PORT THREADS

Each thread sends one small request after another on one connection until SIGTERM, and opens a new
one only when an answer says `Connection: close`. Whatever else ends a connection is an error. Prints
"." for the first answer of each thread, and at the end one JSON object: {"requests", "connections",
"errors": {text: n}}.
"""
import collections
import http.client
import json
import signal
import sys
import threading


def run(address, stop, counts, errors):
    host, port = address.rsplit(":", 1)
    first, connection = True, None
    while not stop.wait(0.002):
        try:
            if connection is None:
                connection = http.client.HTTPConnection(host, int(port), timeout=10)
                connection.connect()
                counts["connections"] += 1
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            counts["requests"] += 1
            if response.will_close:
                connection.close()
                connection = None
        except (OSError, ValueError, http.client.HTTPException) as error:
            errors[repr(error)] += 1
            connection = None
        if first:
            print(".", end="", flush=True)
            first = False
    if connection is not None:
        connection.close()


def main():
    address, threads = sys.argv[1], int(sys.argv[2])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tallies = [(collections.Counter(), collections.Counter()) for _ in range(threads)]
    workers = [threading.Thread(target=run, args=(address, stop, *tally)) for tally in tallies]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    counts = sum((c for c, _ in tallies), collections.Counter())
    errors = sum((e for _, e in tallies), collections.Counter())
    print(flush=True)
    print(json.dumps({"requests": counts["requests"], "connections": counts["connections"],
                      "errors": errors}), flush=True)


if __name__ == "__main__":
    main()
