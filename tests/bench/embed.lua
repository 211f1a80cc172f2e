-- SPDX-License-Identifier: Apache-2.0
--
-- wrk's side of bench_embeddings.py: the bodies of a file, a line each, in turn; what came of it as
-- JSON on the last line. `least` is the number of answers to the connection that got fewest, where
-- each thread has one connection.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, at, threads = {}, 0, {}
answered = 0

function setup(thread)
  thread:set("first", #threads)
  threads[#threads + 1] = thread
end

function init(arguments)
  for line in io.lines(arguments[1]) do bodies[#bodies + 1] = line end
  at = first * 61
end

function response()
  answered = answered + 1
end

function request()
  at = at % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end

function done(summary, latency)
  local e, least = summary.errors, math.huge
  for _, thread in ipairs(threads) do least = math.min(least, thread:get("answered")) end
  io.write(string.format(
    '{"requests":%d,"took_us":%d,"p50_us":%d,"p99_us":%d,"not_answered":%d,"not_ok":%d,"least":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status, least))
end
