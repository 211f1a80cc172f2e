# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces joined by a cable that can lose packets.

    client namespace 10.77.1.1  ── veth ──  10.77.1.2 server namespace

Loss is nftables' doing, on arrival at either end, so that both directions suffer and the sending
side's hooks see what they would see of a real loss.

Not thread-safe.
"""
import json
import os
import subprocess

import rig  # noqa: F401  (makes the harness importable)
from harness import Resource

SERVER_ADDRESS = "10.77.1.2"
CLIENT_ADDRESS = "10.77.1.1"
DEVICE = "weir0"
TABLE = "weir_bench"

LOSS = """table inet {table} {{
  chain arriving {{
    type filter hook prerouting priority 0;
    iifname "{device}" numgen random mod 100 < {percent} counter drop
  }}
}}
"""


def run(*argv, **options):
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True,
                          **options).stdout


class LossyLink(Resource):
    """`client` and `server` are names below /run/netns."""

    def __init__(self):
        self.client = f"weir-bench-{os.getpid()}-c"
        self.server = f"weir-bench-{os.getpid()}-s"
        self._made = []
        super().__init__()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self):
        for name in (self.client, self.server):
            run("ip", "netns", "add", name)
            self._made.append(name)
        run("ip", "-n", self.client, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE,
            "netns", self.server)
        for name, address in ((self.client, CLIENT_ADDRESS), (self.server, SERVER_ADDRESS)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                run("ip", "-n", name, "link", "set", device, "up")

    def _nft(self, name, *arguments, **options):
        return run("nsenter", f"--net=/run/netns/{name}", "nft", *arguments, **options)

    def lose(self, percent):
        """From now on so many of 100 packets get lost, each way. 0: none."""
        for name in (self.client, self.server):
            # Made first, so that there is something to delete.
            self._nft(name, "add", "table", "inet", TABLE)
            self._nft(name, "delete", "table", "inet", TABLE)
            if percent:
                self._nft(name, "-f", "-",
                          input=LOSS.format(table=TABLE, device=DEVICE, percent=percent))

    def lost(self):
        """Packets lost since lose(), both ways together."""
        return sum(self._dropped(name) for name in (self.client, self.server))

    def _dropped(self, name):
        listed = json.loads(self._nft(name, "--json", "list", "table", "inet", TABLE))
        return sum(expression["counter"]["packets"]
                   for item in listed["nftables"] if "rule" in item
                   for expression in item["rule"]["expr"] if "counter" in expression)

    def _release(self):
        for name in self._made:  # the tables and the cable go with them
            run("ip", "netns", "del", name)
