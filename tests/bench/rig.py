# SPDX-License-Identifier: Apache-2.0
"""What a benchmark stands on: agents, private nginx servers, CPU accounts, the load, the last line.

Processes, cgroups and their cleaning up come from the end-to-end tests' harness.

Not thread-safe.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import (BIN, BPFTOOL, ROOT, Process, Scratch, last_json, request,  # noqa: E402
                     wait_until)

OUTPUT = BIN.parent / "bench"

# Connections live as long as a run: limits on requests or idleness would open new ones.
NGINX_CONF = """
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path {directory}/client_body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  {upstream}
  server {{
    listen {address} backlog=4096;
    {location}
  }}
}}
"""
UPSTREAM = """upstream backend {{
    server {address};
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
  }}"""
PROXY = """location / {
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }"""
REPLY = 'location / {{ default_type text/plain; return 200 "{body}"; }}'


def free_address():
    """A loopback address with a port that nobody listens on; nginx cannot choose one itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % probe.getsockname()[1]


def answers(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
        return True
    except OSError:
        return False


def names(known):
    """An argument of names with commas between them, each one of those."""
    def split(text):
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return text.split(",")
    return split


class BareAgent(Process):
    """weir-agent without the kernel side, as it is by default but for its models and `serve`."""

    def __init__(self, models, serve=None):
        self._scratch = Scratch()
        config = self._scratch.path / "weir.yaml"
        config.write_text(json.dumps({"serve": {"http": "127.0.0.1:0", **(serve or {})},
                                      "kernel": {"enabled": False}, "models": models}))
        super().__init__([BIN / "weir-agent", "--config", config])
        self.address = self.wait_for_output(re.compile(r"agent ready .*?\bhttp=(\S+:\d+)"),
                                            20).group(1)

    def wait_ready(self):
        """Until the models that are loaded at start can be used."""
        wait_until(lambda: request(self.address, "GET", "/readyz").status == 200, "ready", 60)

    def _release(self):
        super()._release()
        self._scratch.close()


class Nginx(Process):
    """Debian's nginx with one worker and a configuration of its own below `directory`.

    With `upstream` it is a proxy that keeps its upstream connections alive; without, it answers
    every request itself with `body_bytes` bytes.
    """

    def __init__(self, directory, upstream=None, body_bytes=127, cgroup=None):
        directory.mkdir(parents=True, exist_ok=True)
        self.address = free_address()
        conf = directory / "nginx.conf"
        conf.write_text(NGINX_CONF.format(
            directory=directory, address=self.address,
            upstream=UPSTREAM.format(address=upstream) if upstream else "",
            location=PROXY if upstream else REPLY.format(body="w" * body_bytes)))
        super().__init__(["nginx", "-e", directory / "error.log", "-p", directory, "-c", conf],
                         cgroup=cgroup)
        try:
            wait_until(lambda: answers(self.address) or not self.running(), "nginx listens")
            assert self.running(), self.output()
        except BaseException:
            self.close()
            raise

    def _release(self):
        # Killing the master would orphan the worker: ask first.
        if self.running():
            self.popen.terminate()
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                for pid in reversed(tree(self.pid)):
                    os.kill(pid, 9)
        super()._release()


# ---- the peers in Go ---------------------------------------------------------------------------

def build_peer(name):
    """Path of the program tests/bench/peers/NAME, built; None when there is no Go."""
    if not shutil.which("go"):
        return None
    program = OUTPUT / "peers" / name
    environment = os.environ | {"GOCACHE": str(OUTPUT / "peers" / "cache"), "GOFLAGS": "-mod=mod",
                                "GOTOOLCHAIN": "local"}
    subprocess.run(["go", "build", "-o", program, f"./{name}"],
                   cwd=ROOT / "tests" / "bench" / "peers", env=environment, check=True)
    return program


# ---- CPU accounts ------------------------------------------------------------------------------

def tree(pid):
    """`pid` and all its descendants."""
    pids = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            pids += tree(int(child))
    return pids


def cpu_ns(pid):
    """CPU time of a process and its descendants, all threads, from the scheduler's account."""
    return sum(int(path.read_text().split()[0])
               for member in tree(pid)
               for path in pathlib.Path(f"/proc/{member}/task").glob("*/schedstat"))


def machine_cpu_ns():
    """CPU time of everything on this machine, coarse: ticks, sampled. Only tells noise."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    ticks = user + nice + system + irq + softirq + steal
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def ksoftirqd_pids():
    """Kernel threads that take over network work when a CPU has too much of it."""
    found = []
    for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith("ksoftirqd/"):
                found.append(int(comm.parent.name))
        except OSError:
            continue  # ended meanwhile
    return found


# ---- the load ----------------------------------------------------------------------------------

def load(target, mode, rate, seconds, seed, connections, cgroup):
    """One run of weir-loadgen inside `cgroup`; its report. A run that could not start raises.

    Without a `rate` the loop is closed: every connection always has one request outstanding.
    """
    pace = ["--closed"] if rate is None else ["--rate", rate]
    argv = [BIN / "weir-loadgen", "--target", target, "--mode", mode, *pace, "--seconds", seconds,
            "--seed", seed, "--connections", connections, "--cgroup", cgroup.path,
            "--warmup", min(0.5, seconds / 4), "--json"]
    with Process(argv) as process:
        process.wait(seconds + 30)
        assert process.output().lstrip().startswith("{"), process.output()
        return last_json(process)


# ---- what a bench says -------------------------------------------------------------------------

def require(name, programs):
    """Ends the bench `name` unless it is root and the programs it needs are built."""
    missing = [program for program in programs if not (BIN / program).exists()]
    if missing:
        sys.exit(f"bench_{name}: {BIN} has no {', '.join(missing)}: run `make bin tools`")
    if os.geteuid() != 0:
        sys.exit(f"bench_{name}: needs root, to make a cgroup and attach BPF programs")


def spread(values):
    """Median, quartiles, least and greatest; None of nothing."""
    values = sorted(values)
    if not values:
        return None
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    else:
        low = high = values[0]
    return {"median": statistics.median(values), "q1": low, "q3": high,
            "min": values[0], "max": values[-1]}


class Run:
    """What every bench tells beside its figures: when it ran, where, and as it was asked to."""

    def __init__(self, name, arguments):
        self._name = name
        self._started = time.time()
        self._arguments = vars(arguments)
        self.machine = machine()

    def machine_line(self):
        return f"load {self.machine['loadavg'][0]:.2f} on {self.machine['cpus']} CPUs"

    def publish(self, summary, **details):
        publish(self._name, summary, {
            "started_unix_s": self._started, "machine": self.machine, "arguments": self._arguments,
            **details, "took_s": time.time() - self._started, "loadavg_after": os.getloadavg()})


def publish(name, summary, details):
    """Writes everything to build/bench/NAME.json and the summary as the last line."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f"{name}.json").write_text(json.dumps({**details, "result": summary}, indent=1)
                                         + "\n")
    print("\nRESULT " + json.dumps(summary), flush=True)


# ---- where this was measured -------------------------------------------------------------------

def first_line(*argv):
    run = subprocess.run([str(a) for a in argv], capture_output=True, text=True, cwd=ROOT)
    return ((run.stdout or run.stderr).splitlines() or [""])[0]


def sysctl(name):
    path = pathlib.Path("/proc/sys") / name.replace(".", "/")
    return path.read_text().strip() if path.exists() else None


def machine():
    cpus = re.findall(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "kernel": os.uname().release,
        "architecture": os.uname().machine,
        "cpu": cpus[0] if cpus else None,
        "cpus": os.cpu_count(),
        "loadavg": os.getloadavg(),
        "congestion_control": sysctl("net.ipv4.tcp_congestion_control"),
        "bpf_jit": sysctl("net.core.bpf_jit_enable"),
        "nginx": first_line("nginx", "-v"),
        "bpftool": first_line(BPFTOOL, "version"),
        "weir": first_line("git", "describe", "--always", "--dirty"),
    }
