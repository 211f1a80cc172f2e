# SPDX-License-Identifier: Apache-2.0
"""A node under test: the agent, the delay servers behind it, and the `weir` command.

Configuration is written as JSON, which is YAML. Ports are always chosen by the kernel.
"""
import json
import os
import re
import signal
import subprocess

from harness import (BIN, BPFFS, BPFTOOL, MODEL, SERVICE, Process, Resource, Scratch, request,
                     wait_until)

SERVICE_NAME = "chat"
MODEL_NAME = "tiny-stories"

# Weights stay as configured: no control tick falls into a test.
STILL = {"tick_ms": 60000}
# A control loop that a test can wait for.
QUICK = {"tick_ms": 100, "latency_tau_ms": 500}


class DelayServer(Process):
    """An HTTP server that answers every request after a chosen delay and keeps its own clock.

    `options`: further options of weir-delay-server.
    """

    def __init__(self, name, delay_us=0, listen="127.0.0.1:0", netns=None, options=()):
        super().__init__([BIN / "weir-delay-server", "--listen", listen, "--delay-us", delay_us,
                          "--name", name, *options], netns=netns)
        self.name = name
        self.address = self.wait_for_output(re.compile(r"^listening (\S+)$", re.M)).group(1)

    def set_delay_us(self, delay_us):
        reply = request(self.address, "PUT", f"/delay?us={delay_us}")
        assert reply.status in (200, 204), reply

    def stats(self):
        return request(self.address, "GET", "/stats").json()

    def forget_stats(self):
        reply = request(self.address, "DELETE", "/stats")
        assert reply.status in (200, 204), reply


class Agent(Resource):
    """weir-agent with its own pin root. Closing detaches, whatever state it is in.

    `services` and `models` are lists as in the configuration file, `control`, `serve` and `kernel`
    its sections, `sections` further ones. Without a cgroup the kernel side is off.
    """

    _count = 0

    def __init__(self, cgroup=None, services=(), models=(), control=None, serve=None,
                 kernel=None, netns=None, **sections):
        Agent._count += 1
        self.pin_root = BPFFS / f"weir-e2e-{os.getpid()}-{Agent._count}"
        self._scratch = Scratch()
        config = {
            "serve": {"http": "127.0.0.1:0", "io_threads": 2, **(serve or {})},
            "kernel": {"enabled": cgroup is not None, **(kernel or {})},
            "services": list(services),
            "models": list(models),
            **sections,
        }
        if cgroup is not None:
            config["kernel"].update(cgroup=str(cgroup.path), pin_root=str(self.pin_root))
        if control:
            config["control"] = control
        self.config_path = self._scratch.path / "weir.yaml"
        self._config = config
        self.configure()
        super().__init__()
        self.process = None
        self._netns = netns
        self._steers = cgroup is not None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def configure(self, **sections):
        """Writes the configuration that the next start reads; `sections` replace those it has."""
        self._config.update(sections)
        self.config_path.write_text(json.dumps(self._config, indent=1))

    def start(self):
        """Starts the program, again after it ended, and waits until it serves HTTP."""
        self.process = Process([BIN / "weir-agent", "--config", self.config_path],
                               netns=self._netns)
        self.http = self.process.wait_for_output(
            re.compile(r"agent ready .*?\bhttp=(127\.0\.0\.1:\d+)"), 20).group(1)

    def kill(self):
        self.process.kill()

    def stop(self, seconds=20.0):
        """SIGTERM; the exit status."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def log(self):
        return self.process.output()

    # The `weir` command on this agent's pins.
    def weir(self, *arguments):
        return subprocess.run([BIN / "weir", "--pin-root", self.pin_root, *arguments],
                              capture_output=True, text=True, timeout=20)

    def weir_json(self, command):
        result = self.weir(command, "--json")
        assert result.returncode == 0, result
        return json.loads(result.stdout)

    def status(self):
        return self.weir_json("status")

    def backends(self, service=SERVICE_NAME):
        """The backends of a service by address, as the maps have them now."""
        services = {s["name"]: s for s in self.weir_json("backends")["services"]}
        return {b["address"]: b for b in services[service]["backends"]}

    def total(self, field, service=SERVICE_NAME):
        return sum(b[field] for b in self.backends(service).values())

    def request(self, method, path, body=None, headers=None, seconds=20.0):
        return request(self.http, method, path, body, headers, seconds)

    def pins(self):
        """Every file below the pin root."""
        return sorted(p for p in self.pin_root.rglob("*")) if self.pin_root.exists() else []

    def _release(self):
        if self.process is not None:
            self.process.close()
        if self._steers and self.pin_root.exists():
            self.weir("detach")
            for path in reversed(self.pins()):  # whatever a broken detach left behind
                path.rmdir() if path.is_dir() else path.unlink()
            if self.pin_root.exists():
                self.pin_root.rmdir()
        self._scratch.close()


def model(**fields):
    """A `models` entry for the shipped model.

    One thread: two that wait for each other at a barrier were 20 times slower on two busy CPUs.
    """
    return {"name": MODEL_NAME, "path": str(MODEL), "context_tokens": 512, "threads": 1,
            "preload": True, **fields}


def service(*backends, **fields):
    """A `services` entry. A backend is a DelayServer, (DelayServer, weight), or a dict."""
    entries = []
    for backend in backends:
        server, weight = backend if isinstance(backend, tuple) else (backend, None)
        entry = dict(server) if isinstance(server, dict) else {"address": server.address}
        if weight is not None:
            entry["weight"] = weight
        entries.append(entry)
    return {"name": SERVICE_NAME, "address": SERVICE, "backends": entries, **fields}


LOCAL = {"local": True}


def wait_ready(agent, seconds=20.0):
    """Until every model that is loaded at start can generate."""
    wait_until(lambda: agent.request("GET", "/readyz").status == 200, "/readyz is 200", seconds)


def wait_idle(agent, seconds=5.0):
    """Until the kernel counts nothing in flight, waiting or streaming any more."""

    def gauges():
        backends = agent.backends().values()
        return [(b["in_flight"], b["waiting"], b["streaming"]) for b in backends]

    wait_until(lambda: all(g == (0, 0, 0) for g in gauges()), "every gauge is 0", seconds)


def p50_us(earlier, now):
    """Median first-byte latency between two readings of a backend; None without a sample.

    As the agent computes it: the mean of the bucket that holds the median.
    """
    old = {bound: (count, total_ns) for bound, count, total_ns in earlier["ttfb_us"]["buckets"]}
    window = []
    for bound, count, total_ns in now["ttfb_us"]["buckets"]:
        old_count, old_total_ns = old.get(bound, (0, 0))
        window.append((count - old_count, total_ns - old_total_ns))
    samples, seen = sum(count for count, _ in window), 0
    for count, total_ns in window:
        seen += count
        if count and 2 * seen >= samples:
            return total_ns / count / 1000
    return None


def links_of(ids):
    """Those of the given BPF link ids that the kernel still has."""
    listed = subprocess.run([BPFTOOL, "-j", "link"], capture_output=True, text=True,
                            check=True)
    return {link["id"] for link in json.loads(listed.stdout)} & set(ids)
