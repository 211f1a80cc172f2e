# SPDX-License-Identifier: Apache-2.0
"""/metrics is well-formed and agrees with the maps and with what was asked."""
import unittest

import prometheus
from harness import Cgroup, KernelTest, wait_until
from node import LOCAL, MODEL_NAME, QUICK, Agent, DelayServer, model, service, wait_idle, wait_ready


class Metrics(KernelTest):
    def test_metrics_parse_and_are_true(self):
        cgroup = self.enterContext(Cgroup())
        server = self.enterContext(DelayServer("a", 1000))
        agent = self.enterContext(
            Agent(cgroup, [service(server, LOCAL, policy="round_robin")], [model()],
                  control=QUICK))
        wait_ready(agent)
        self.assertEqual(cgroup.report("count", 40)["ok"], 40)
        wait_idle(agent)
        for _ in range(3):
            reply = agent.request("POST", "/infer",
                                  {"model": MODEL_NAME, "prompt": "Once", "max_tokens": 5})
            self.assertEqual(reply.status, 200)

        def counted():
            """/metrics once it shows the maps as of now: they are read once per tick."""
            reply = agent.request("GET", "/metrics")
            self.assertEqual(reply.status, 200)
            families = prometheus.parse(reply.body.decode())
            picks = prometheus.value(families, "weir_service_picks_total")
            return reply if picks == 40 else None

        reply = wait_until(counted, "40 picks in /metrics", 5)
        self.assertEqual(reply.headers.get_content_type(), "text/plain")
        self.assertEqual(reply.headers.get_param("version"), "0.0.4")
        families = prometheus.parse(reply.body.decode())
        self.assertTrue(all(name.startswith(("weir_", "process_")) for name in families), families)

        def value(name, **labels):
            return prometheus.value(families, name, **labels)

        self.assertEqual(value("weir_model_completion_tokens_total", model=MODEL_NAME), 15)
        self.assertEqual(value("weir_model_requests_accepted_total", model=MODEL_NAME), 3)
        self.assertEqual(value("weir_http_requests_total", path="/infer", code="200"), 3)
        for address, backend in agent.backends().items():
            for metric in ("connects", "established", "requests", "connect_failures"):
                self.assertEqual(value(f"weir_backend_{metric}_total", backend=address),
                                 backend[metric], (address, metric))
            self.assertEqual(value("weir_backend_time_to_first_byte_seconds_count",
                                   backend=address), backend["ttfb_us"]["count"])
            self.assertEqual(value("weir_backend_in_flight", backend=address), 0)


class StrictParser(unittest.TestCase):
    """The reader above must be able to say no."""

    GOOD = ('# HELP weir_x_total Things.\n# TYPE weir_x_total counter\n'
            'weir_x_total{a="b\\"c",d="e"} 3\nweir_x_total 4e+05\n')
    HISTOGRAM = ('# HELP h Time.\n# TYPE h histogram\nh_bucket{le="0.1"} 1\n'
                 'h_bucket{le="+Inf"} 2\nh_sum 0.7\nh_count 2\n')

    def test_accepts_good_text(self):
        families = prometheus.parse(self.GOOD + self.HISTOGRAM)
        self.assertEqual(prometheus.value(families, "weir_x_total", d="e"), 3)
        self.assertEqual(prometheus.value(families, "h_count"), 2)

    def test_refuses_bad_text(self):
        for old, new in (('"e"}', '"e}'), ("counter", "count"), (" 3\n", " three\n"),
                         (" 3\n", " -3\n"), ('d="e"', 'a="e"'), ("4e+05\n", "4e+05"),
                         ("# HELP weir_x_total Things.\n", ""), ("weir_x_total", "weir_x"),
                         ("# TYPE weir_x_total counter\n", ""), ('d="e"}', 'd="e",}'),
                         ("weir_x_total 4", 'weir_x_total{d="e",a="b\\"c"} 4')):
            with self.subTest(old=old, new=new):
                self.assertIn(old, self.GOOD)
                with self.assertRaises(ValueError):
                    prometheus.parse(self.GOOD.replace(old, new))
        for old, new in (('{le="0.1"} 1', '{le="0.1"} 3'), ("h_count 2", "h_count 3"),
                         ("h_sum 0.7\n", ""), ('h_bucket{le="+Inf"} 2\n', "")):
            with self.subTest(old=old, new=new):
                with self.assertRaises(ValueError):
                    prometheus.parse(self.HISTOGRAM.replace(old, new))
