-- SPDX-License-Identifier: Apache-2.0
--
-- wrk's side of bench_embeddings.py: the bodies of a file, a line each, in turn; what came of it as
-- JSON on the last line.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, at = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do bodies[#bodies + 1] = line end
end

function request()
  at = at % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"took_us":%d,"p50_us":%d,"p99_us":%d,"not_answered":%d,"not_ok":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status))
end
