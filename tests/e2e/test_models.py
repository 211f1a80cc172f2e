# SPDX-License-Identifier: Apache-2.0
"""Models come, go and are replaced while the agent serves."""
import json
import os
import shutil
import signal
import subprocess
import threading
import unittest

import prometheus
from harness import MODEL, Scratch, wait_until
from node import MODEL_NAME, Agent, model, wait_ready

ASK = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


def put_model(directory, name):
    """As it should be done: whoever has the old file open keeps it."""
    new = directory / f".{name}.new"
    shutil.copy(MODEL, new)
    os.rename(new, directory / f"{name}.gguf")


class Models(unittest.TestCase):
    def start(self, *args, **kwargs):
        return self.enterContext(Agent(*args, **kwargs))

    def weir(self, agent, *arguments):
        return agent.weir("models", "--url", f"http://{agent.http}", *arguments)

    def listed(self, agent):
        result = self.weir(agent, "--json")
        self.assertEqual(result.returncode, 0, result)
        return {m["name"]: m for m in json.loads(result.stdout)}

    def state(self, agent, name):
        return self.listed(agent)[name]["weir"]["state"]

    def metric(self, agent, name, **labels):
        text = agent.request("GET", "/metrics").body.decode()
        return prometheus.value(prometheus.parse(text), name, **labels)

    def ask(self, agent, name):
        return agent.request("POST", "/infer", {"model": name, **ASK})

    def test_unload_refuses_until_load(self):
        agent = self.start(models=[model()])
        wait_ready(agent)
        self.assertIn("ready", self.weir(agent).stdout)
        unloaded = self.weir(agent, "unload", MODEL_NAME)
        self.assertEqual(unloaded.returncode, 0, unloaded)
        self.assertRegex(unloaded.stdout, rf"^{MODEL_NAME} unloaded in \d+\.\d\d s\n$")
        self.assertIn("unloaded, off", self.weir(agent).stdout)
        refused = self.ask(agent, MODEL_NAME)
        self.assertEqual(refused.status, 503, refused)
        self.assertIn(f"/v2/repository/models/{MODEL_NAME}/load",
                      refused.json()["error"]["message"])
        self.assertEqual(self.metric(agent, "weir_model_memory_bytes", model=MODEL_NAME), 0)
        self.assertEqual(self.metric(agent, "weir_model_unloads_total", model=MODEL_NAME,
                                     cause="explicit"), 1)
        loaded = self.weir(agent, "load", MODEL_NAME, "--json")
        self.assertEqual(loaded.returncode, 0, loaded)
        told = json.loads(loaded.stdout)
        self.assertEqual((told["name"], told["done"]), (MODEL_NAME, "load"))
        self.assertGreater(told["seconds"], 0)
        self.assertEqual(self.ask(agent, MODEL_NAME).status, 200)

    def test_what_is_not_there_is_said(self):
        agent = self.start(models=[model()])
        result = self.weir(agent, "load", "other")
        self.assertEqual(result.returncode, 1, result)
        self.assertEqual(result.stderr, 'weir: there is no model "other"\n')
        agent.kill()
        result = self.weir(agent)
        self.assertEqual(result.returncode, 1, result)
        self.assertIn("does not answer", result.stderr)

    def test_curl_lists_and_loads(self):
        agent = self.start(models=[model(preload=False)])

        def curl(path):
            return json.loads(subprocess.run(
                ["curl", "-sS", "-m", "20", "-H", "Content-Type: application/json", "-d", "{}",
                 f"http://{agent.http}{path}"], capture_output=True, check=True, text=True).stdout)

        self.assertEqual(curl("/v2/repository/index")[0]["state"], "UNAVAILABLE")
        self.assertEqual(curl(f"/v2/repository/models/{MODEL_NAME}/load"), {})
        entry = curl("/v2/repository/index")[0]
        self.assertEqual((entry["name"], entry["state"], entry["reason"]),
                         (MODEL_NAME, "READY", ""))
        self.assertGreater(entry["weir"]["memory_bytes"], entry["weir"]["file_bytes"])

    def test_idle_model_is_unloaded_and_comes_back(self):
        agent = self.start(models=[model(preload=False, keep_alive_seconds=1)])
        for loads in (1, 2):
            self.assertEqual(self.ask(agent, MODEL_NAME).status, 200)
            wait_until(lambda: self.state(agent, MODEL_NAME) == "unloaded", "idle unload")
            self.assertEqual(self.metric(agent, "weir_model_loads_total", model=MODEL_NAME), loads)
        self.assertEqual(self.metric(agent, "weir_model_unloads_total", model=MODEL_NAME,
                                     cause="idle"), 2)

    def test_folder_is_looked_into_at_sighup_and_when_asked(self):
        directory = self.enterContext(Scratch()).path
        put_model(directory, "one")
        (directory / "not a name.gguf").write_bytes(b"")
        agent = self.start(registry={"model_dir": str(directory)})
        self.assertEqual(set(self.listed(agent)), {"one"})
        self.assertIn("not a name.gguf", agent.log())
        self.assertEqual(self.ask(agent, "one").status, 200)
        put_model(directory, "two")
        self.assertEqual(self.ask(agent, "two").status, 404)
        self.assertEqual(self.weir(agent, "load", "two").returncode, 0)
        self.assertEqual(self.ask(agent, "two").status, 200)
        put_model(directory, "three")
        (directory / "two.gguf").unlink()
        agent.process.signal(signal.SIGHUP)
        wait_until(lambda: self.ask(agent, "three").status == 200, "three is found")
        self.assertEqual(self.ask(agent, "two").status, 404)
        self.assertEqual(agent.stop(), 0)

    def test_replacement_loses_no_request(self):
        directory = self.enterContext(Scratch()).path
        put_model(directory, "m")
        agent = self.start(registry={"model_dir": str(directory)})
        stop = threading.Event()
        statuses = []

        def client():
            while not stop.is_set():
                statuses.append(self.ask(agent, "m").status)

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        try:
            for replaced in (1, 2, 3):
                seen = len(statuses)
                wait_until(lambda: len(statuses) > seen + 8, "requests go on")
                put_model(directory, "m")
                if replaced < 3:
                    self.assertEqual(self.weir(agent, "load", "m").returncode, 0)
                else:
                    agent.process.signal(signal.SIGHUP)
                wait_until(lambda: self.metric(agent, "weir_model_unloads_total", model="m",
                                               cause="replaced") == replaced, "it is replaced")
            # One that is none is refused, and the one before serves on.
            (directory / ".bad").write_bytes(b"not a model")
            os.rename(directory / ".bad", directory / "m.gguf")
            failed = self.weir(agent, "load", "m")
            self.assertEqual(failed.returncode, 1, failed)
            self.assertIn("not a GGUF file", failed.stderr)
            seen = len(statuses)
            wait_until(lambda: len(statuses) > seen + 8, "requests go on")
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        self.assertEqual(set(statuses), {200})
        self.assertEqual(self.state(agent, "m"), "ready")

    def test_memory_is_made_by_the_least_recently_used(self):
        one = self.start(models=[model(preload=False)])
        self.assertEqual(self.ask(one, MODEL_NAME).status, 200)
        each = self.listed(one)[MODEL_NAME]["weir"]["memory_bytes"]
        one.close()
        agent = self.start(models=[model(name=n, preload=False) for n in "abc"],
                           registry={"memory_bytes": each * 5 // 2})
        for name in "abac":
            self.assertEqual(self.ask(agent, name).status, 200)
        self.assertEqual([self.state(agent, n) for n in "abc"], ["ready", "unloaded", "ready"])
        self.assertEqual(self.metric(agent, "weir_model_unloads_total", model="b",
                                     cause="evicted"), 1)

    def test_a_model_that_never_fits_is_refused_with_the_reason(self):
        agent = self.start(models=[model(preload=False)], registry={"memory_bytes": 1_100_000})
        reply = self.ask(agent, MODEL_NAME)
        self.assertEqual(reply.status, 429, reply)
        self.assertEqual(reply.json()["error"]["code"], "memory")
        self.assertIn("registry.memory_bytes", reply.json()["error"]["message"])
        self.assertEqual(reply.headers["Retry-After"], "1")

    def test_admin_api_can_be_closed(self):
        agent = self.start(models=[model(preload=False)], serve={"admin_api": "nobody"})
        result = self.weir(agent)
        self.assertEqual(result.returncode, 1, result)
        self.assertIn("serve.admin_api is nobody", result.stderr)
