# SPDX-License-Identifier: Apache-2.0
"""What every end-to-end test stands on: processes, a private cgroup, deadlines, and cleaning up.

Everything that outlives a function call here is a Resource: a context manager that is also closed
at exit, so that a failed or interrupted run (SIGINT, SIGTERM) leaves no process, cgroup, namespace
or pin behind. Programs under test come from $WEIR_BIN (default: build/bin of this checkout).

Not thread-safe, except wait_until().
"""
import atexit
import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("WEIR_BIN", ROOT / "build" / "bin")).resolve()
MODEL = ROOT / "deploy" / "models" / "tiny-stories-1m-q8_0.gguf"
TRAFFIC = pathlib.Path(__file__).resolve().parent / "traffic.py"
PYTHON = "/usr/bin/python3"
BPFTOOL = "/usr/sbin/bpftool"
BPFFS = pathlib.Path("/sys/fs/bpf")

SERVICE = "127.111.0.10:8000"  # nobody listens there: only steering makes it answer
REFUSED = "ConnectionRefusedError(111, 'Connection refused')"  # as traffic.py reports it


# ---- deadlines ---------------------------------------------------------------------------------

class DeadlineExceeded(AssertionError):
    """A condition did not come true in time."""


def wait_until(condition, what, seconds=10.0, period=0.02):
    """Returns the first true value of `condition()`; DeadlineExceeded names `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"not within {seconds:g} s: {what}; last value: {value!r}")
        time.sleep(period)


# ---- what is cleaned up ------------------------------------------------------------------------

_live = []


class Resource:
    """Closed once: by `with`, by close(), or at exit, in reverse order of creation."""

    def __init__(self):
        _live.append(self)

    def close(self):
        if self in _live:
            _live.remove(self)
            self._release()

    def _release(self):
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def close_all():
    while _live:
        with contextlib.suppress(Exception):
            _live[-1].close()


def interrupt_on_sigterm():
    """SIGTERM unwinds like Ctrl-C. A second one during the unwinding is ignored."""

    def handler(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handler)


atexit.register(close_all)


class Scratch(Resource):
    """A temporary directory."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="weir-e2e-")
        self.path = pathlib.Path(self._directory.name)
        super().__init__()

    def _release(self):
        self._directory.cleanup()


class Process(Resource):
    """A program whose output goes to a file; killed when closed.

    `cgroup` (a Cgroup) and `netns` (a name below /run/netns) say where it runs. It enters the
    cgroup first, and the namespace by nsenter, because `ip netns exec` would hide both the cgroup
    mount and the bpffs behind a new /sys.
    """

    def __init__(self, argv, cgroup=None, netns=None, **popen):
        argv = [str(a) for a in argv]
        if netns is not None:
            argv = ["nsenter", f"--net=/run/netns/{netns}", *argv]
        if cgroup is not None:
            argv = ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup.path),
                    *argv]
        self._output = tempfile.TemporaryFile(mode="w+b")
        self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._output,
                                      stderr=subprocess.STDOUT, **popen)
        super().__init__()

    @property
    def pid(self):
        return self.popen.pid

    def output(self):
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def running(self):
        return self.popen.poll() is None

    def wait_for_output(self, pattern, seconds=10.0):
        """The first match of the compiled `pattern`; AssertionError when the program ends first."""

        def look():
            ended = not self.running()
            match = pattern.search(self.output())
            if match is None and ended:
                raise AssertionError(f"{self.popen.args} ended with {self.popen.returncode} before "
                                     f"{pattern.pattern!r}:\n{self.output()}")
            return match

        try:
            return wait_until(look, pattern.pattern, seconds)
        except DeadlineExceeded as late:
            raise DeadlineExceeded(f"{late}\n{self.output()}") from None

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, seconds=10.0):
        """The exit status."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"{self.popen.args} still runs after {seconds:g} s:\n"
                                   f"{self.output()}") from None

    def kill(self):
        if self.running():
            self.popen.kill()
        self.popen.wait()

    def _release(self):
        self.kill()
        self._output.close()


def last_json(process):
    """The JSON object on the last line that a program wrote."""
    return json.loads(process.output().splitlines()[-1])


# ---- the kernel's side -------------------------------------------------------------------------

def cgroup2_mount():
    """Where cgroup v2 is mounted, by filesystem type; None when it is not."""
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2":
            return pathlib.Path(path)
    return None


class Cgroup(Resource):
    """A private child of the cgroup v2 root. Only processes in it are steered."""

    _count = 0

    def __init__(self):
        Cgroup._count += 1
        self.path = cgroup2_mount() / f"weir-e2e-{os.getpid()}-{Cgroup._count}"
        self.path.mkdir()
        super().__init__()

    def traffic(self, mode, number, address=SERVICE, netns=None):
        """traffic.py inside, as a Process."""
        return Process([PYTHON, TRAFFIC, mode, address, number], cgroup=self, netns=netns)

    def report(self, mode, number, address=SERVICE, netns=None, seconds=60.0):
        """traffic.py inside, to its end; what it says."""
        with self.traffic(mode, number, address, netns) as process:
            status = process.wait(seconds)
            assert status == 0, process.output()
            return last_json(process)

    def pids(self):
        return [int(p) for p in (self.path / "cgroup.procs").read_text().split()]

    def run(self, argv, netns=None, seconds=30.0):
        """Runs a program inside to its end; returns (exit status, output)."""
        with Process(argv, cgroup=self, netns=netns) as process:
            return process.wait(seconds), process.output()

    def _release(self):
        def empty():
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.pids()

        wait_until(empty, f"{self.path} is empty")
        self.path.rmdir()


class NetworkNamespace(Resource):
    """A network namespace with nothing but its own loopback."""

    def __init__(self):
        self.name = f"weir-e2e-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        super().__init__()
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)

    def _release(self):
        subprocess.run(["ip", "netns", "del", self.name], check=True)


def kernel_gap():
    """What this machine lacks for these tests, in words; None when it lacks nothing."""
    if os.geteuid() != 0:
        return "not root"
    if cgroup2_mount() is None:
        return "no cgroup v2 mount"
    if not pathlib.Path("/sys/kernel/btf/vmlinux").exists():
        return "kernel without BTF (/sys/kernel/btf/vmlinux)"
    return None


def missing_programs():
    """What has to be built first, in words; None when everything is there."""
    missing = [p for p in ("weir-agent", "weir", "weir-delay-server") if not (BIN / p).exists()]
    return f"{BIN} lacks {', '.join(missing)}: run `make` first" if missing else None


class KernelTest(unittest.TestCase):
    """Needs root, cgroup v2 and BTF: skipped without, but failed where CI=true."""

    @classmethod
    def setUpClass(cls):
        gap = kernel_gap()
        if gap and os.environ.get("CI") == "true":
            raise AssertionError(f"this machine must run these tests: {gap}")
        if gap:
            raise unittest.SkipTest(gap)


# ---- HTTP --------------------------------------------------------------------------------------

class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


def request(address, method, path, body=None, headers=None, seconds=20.0):
    """One request on its own connection; `body`, bytes or a value, is declared to be JSON."""
    host, port = address.rsplit(":", 1)
    host = host.strip("[]")
    headers = dict(headers or {})
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(host, int(port), timeout=seconds)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()
