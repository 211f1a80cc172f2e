-- SPDX-License-Identifier: Apache-2.0
--
-- wrk's side of bench_http.py: one short request again and again; what came of it as JSON on the
-- last line.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"m","prompt":"How much is the fish?"}'

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"took_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,' ..
    '"not_answered":%d,"not_ok":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, e.connect + e.read + e.write + e.timeout, e.status))
end
