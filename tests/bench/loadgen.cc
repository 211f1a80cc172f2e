// SPDX-License-Identifier: Apache-2.0
//
// weir-loadgen: the command line of load_generator.h. Exit status: 0 when every request was
// answered with 2xx, 1 otherwise, 2 for wrong arguments.
#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "tests/bench/load_generator.h"
#include "tests/tools/latency_histogram.h"

namespace weir::bench {
namespace {

using std::chrono::nanoseconds;

std::string us(std::optional<nanoseconds> value) {
  if (!value) return "null";
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f", static_cast<double>(value->count()) / 1e3);
  return text.data();
}

void print(const LoadGenerator& load, bool json) {
  const Options& options = load.options();
  const Counts& counts = load.counts();
  const tools::LatencyHistogram& latency = load.latency();
  const double elapsed = std::chrono::duration<double>(load.elapsed()).count();
  const auto answered = static_cast<double>(counts.answered);
  const double achieved = elapsed > 0 ? answered / elapsed : 0;
  const double cpu_us = std::chrono::duration<double, std::micro>(load.cpu()).count();
  if (json) {
    std::printf(
        "{\"target\":\"%s\",\"mode\":\"%s\",\"loop\":\"%s\",\"rate\":%g,\"seconds\":%g,\"warmup_"
        "seconds\":%g,"
        "\"connections\":%zu,\"seed\":%lu,\"scheduled\":%lu,\"answered\":%lu,"
        "\"achieved_rate\":%.1f,\"queued\":%lu,\"deepest_queue\":%zu,\"errors\":%lu,"
        "\"error_kinds\":{\"dropped\":%lu,\"connect\":%lu,\"io\":%lu,\"status\":%lu,"
        "\"unanswered\":%lu},\"latency_us\":{\"count\":%lu,\"mean\":%s,\"p50\":%s,\"p90\":%s,"
        "\"p99\":%s,\"p99_9\":%s,\"max\":%s},\"send_lag_us\":{\"p50\":%s,\"p99\":%s},"
        "\"cpu_us\":%.0f}\n",
        options.target_text.c_str(), options.keepalive ? "keepalive" : "close",
        options.closed ? "closed" : "open", options.closed ? achieved : options.rate,
        options.seconds, options.warmup_seconds, options.connections, options.seed,
        counts.scheduled, counts.answered, achieved, counts.queued, counts.deepest_queue,
        counts.errors(), counts.dropped, counts.connect, counts.io, counts.status,
        counts.unanswered, latency.count(), us(latency.mean()).c_str(),
        us(latency.quantile(0.5)).c_str(), us(latency.quantile(0.9)).c_str(),
        us(latency.quantile(0.99)).c_str(), us(latency.quantile(0.999)).c_str(),
        us(latency.max()).c_str(), us(load.send_lag().quantile(0.5)).c_str(),
        us(load.send_lag().quantile(0.99)).c_str(), cpu_us);
    return;
  }
  std::printf("requests  %lu scheduled, %lu answered, %lu queued (deepest %zu)\n", counts.scheduled,
              counts.answered, counts.queued, counts.deepest_queue);
  if (options.closed) {
    std::printf("rate      %.1f/s, as fast as answers came\n", achieved);
  } else {
    std::printf("rate      %.1f/s of %.1f/s\n", achieved, options.rate);
  }
  std::printf("errors    %lu: dropped %lu, connect %lu, io %lu, status %lu, unanswered %lu\n",
              counts.errors(), counts.dropped, counts.connect, counts.io, counts.status,
              counts.unanswered);
  std::printf("latency   p50 %s  p90 %s  p99 %s  p99.9 %s  max %s us, from the time due\n",
              us(latency.quantile(0.5)).c_str(), us(latency.quantile(0.9)).c_str(),
              us(latency.quantile(0.99)).c_str(), us(latency.quantile(0.999)).c_str(),
              us(latency.max()).c_str());
  std::printf("send lag  p50 %s  p99 %s us\n", us(load.send_lag().quantile(0.5)).c_str(),
              us(load.send_lag().quantile(0.99)).c_str());
  std::printf("own CPU   %.1f us per answer\n", answered > 0 ? cpu_us / answered : 0);
}

int run_main(int argc, char** argv) {
  CLI::App app("HTTP/1.1 load: Poisson open loop with latency from the time due, or closed loop.",
               "weir-loadgen");
  Options options;
  std::string mode = "keepalive";
  bool json = false;
  app.add_option("--target", options.target_text, "ADDRESS:PORT")->required();
  app.add_option("--path", options.path, "request target")->capture_default_str();
  CLI::Option* const rate = app.add_option("--rate", options.rate, "mean requests per second")
                                ->check(CLI::Range(0.1, 1e6))
                                ->capture_default_str();
  app.add_flag("--closed", options.closed, "every connection always has one request outstanding")
      ->excludes(rate);
  app.add_option("--seconds", options.seconds, "length of the schedule")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  app.add_option("--warmup", options.warmup_seconds, "first seconds left out of the latencies")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--connections", options.connections, "connections open at once")
      ->check(CLI::Range(1, 60000))
      ->capture_default_str();
  app.add_option("--max-queue", options.max_queue, "requests that wait for a connection")
      ->capture_default_str();
  app.add_option("--mode", mode, "keepalive, or close: a connection per request")
      ->check(CLI::IsMember({"keepalive", "close"}))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of the Poisson schedule")->capture_default_str();
  app.add_option("--cgroup", options.cgroup, "cgroup v2 directory to join first");
  app.add_flag("--json", json, "print one JSON object");
  CLI11_PARSE(app, argc, argv);
  options.keepalive = mode == "keepalive";

  const auto target = Endpoint::parse(options.target_text);
  if (!target) {
    std::fprintf(stderr, "weir-loadgen: --target: %s\n", target.error().message.c_str());
    return 2;
  }
  options.target = *target;
  LoadGenerator generator(std::move(options));
  if (const Status status = generator.run(); !status) {
    std::fprintf(stderr, "weir-loadgen: %s\n", status.error().message.c_str());
    return 1;
  }
  print(generator, json);
  return generator.counts().errors() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace weir::bench

int main(int argc, char** argv) { return weir::bench::run_main(argc, argv); }
