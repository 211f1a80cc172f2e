// SPDX-License-Identifier: Apache-2.0
//
// weir-batch-sweep: one-shot work under one batching policy and one load, all in this process: an
// open loop of Poisson arrivals, which never waits for answers, into the runner of production.
//
// The model waits for its cost instead of computing, so that the two do not compete for CPUs:
// --batch-us + --item-us per member, more for each member beyond --cache-items, and with --tile
// members counted up to a multiple of that.
//
// A latency is counted from when the request was due, not from when this process got round to
// sending it. What a policy has not served soon after the last arrival is ended then and counts as
// served that late, which is long enough to tell that it cannot keep up. Prints one line of JSON.
// Exit status: 0, 1 when a request was lost or refused, 2 for wrong arguments.
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/one_shot_runner.h"
#include "agent/schedule/timer.h"
#include "tests/tools/latency_histogram.h"

namespace weir::bench {
namespace {

using std::chrono::duration;
using std::chrono::microseconds;

struct Options {
  double batch_us = 1000;
  double item_us = 100;
  std::size_t cache_items = 0;  ///< 0: any number
  double beyond_us = 0;
  std::size_t tile = 1;
  schedule::BatchOptions batch;
  std::uint32_t window_us = 5000;
  double rate = 1000;
  double seconds = 1;
  double warmup = 0.3;
  std::uint64_t seed = 1;
};

/// Many times what a batch takes.
constexpr std::chrono::milliseconds kPatience{300};

/// Waits for what a batch costs. For one instance.
class Model final : public schedule::BatchExecutor {
 public:
  explicit Model(const Options& options) : options_(options) {
    pthread_getschedparam(pthread_self(), &policy_, &priority_);
  }

  void execute(std::size_t /*instance*/, std::span<schedule::BatchJob> jobs) override {
    // The runner's thread steps back behind others; here it stands for a device, and must not.
    if (!std::exchange(settled_, true)) {
      pthread_setschedparam(pthread_self(), policy_, &priority_);
    }
    const TimePoint end = std::chrono::steady_clock::now() + cost(jobs.size());
    std::this_thread::sleep_until(end);
    for (auto& job : jobs) job.output = job.input;
  }
  void interrupt() override {}

 private:
  [[nodiscard]] Duration cost(std::size_t size) const {
    const std::size_t charged = (size + options_.tile - 1) / options_.tile * options_.tile;
    double us = options_.batch_us + options_.item_us * static_cast<double>(charged);
    if (options_.cache_items > 0 && size > options_.cache_items) {
      us += options_.beyond_us * static_cast<double>(size - options_.cache_items);
    }
    return std::chrono::duration_cast<Duration>(duration<double, std::micro>(us));
  }

  const Options& options_;
  int policy_ = 0;  ///< of the thread that made this, as is the next
  sched_param priority_{};
  bool settled_ = false;
};

/// Of one request: when it was due, and when it ended.
class Answer final : public model::Listener {
 public:
  void on_text(std::string_view /*text*/) override {}
  void on_complete(const model::Completion& /*completion*/) override {
    ended = std::chrono::steady_clock::now();
  }
  void on_error(const Error& /*error*/) override {
    ended = std::chrono::steady_clock::now();
    unserved = true;
  }

  TimePoint due;
  TimePoint ended;  ///< the epoch: it did not
  bool unserved = false;
};

/// Those that are measured do not depend on how long the warm-up is: all policies see the same.
std::vector<Duration> arrivals(const Options& options) {
  std::vector<Duration> all;
  const auto add = [&](std::uint64_t seed, double from, double to) {
    std::mt19937_64 random(seed);
    std::exponential_distribution<double> gap(options.rate);
    for (double at = from + gap(random); at < to; at += gap(random)) {
      all.push_back(std::chrono::duration_cast<Duration>(duration<double>(at)));
    }
  };
  add(~options.seed, 0, options.warmup);
  add(options.seed, options.warmup, options.warmup + options.seconds);
  return all;
}

int run(const Options& options) {
  const SteadyClock clock;
  schedule::TimerThread timers(clock);
  model::OneShotOptions runner_options;
  runner_options.name = "sweep";
  runner_options.kind = "sweep";
  runner_options.batch = options.batch;
  std::optional<model::OneShotRunner> runner;
  runner.emplace(runner_options, std::make_unique<Model>(options), clock, timers);

  const std::vector<Duration> schedule = arrivals(options);
  std::vector<std::shared_ptr<Answer>> answers;
  std::vector<std::shared_ptr<model::GenerationRequest>> requests;
  for (std::size_t i = 0; i < schedule.size(); ++i) {
    answers.push_back(std::make_shared<Answer>());
    requests.push_back(std::make_shared<model::GenerationRequest>());
    requests.back()->listener = answers.back();
  }
  prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
  const TimePoint start = clock.now() + std::chrono::milliseconds(5);
  std::size_t refused = 0;
  for (std::size_t i = 0; i < schedule.size(); ++i) {
    answers[i]->due = start + schedule[i];
    std::this_thread::sleep_until(answers[i]->due);
    if (runner->submit(std::move(requests[i]))) ++refused;
  }
  static_cast<void>(runner->wait_idle(clock.now() + kPatience));
  const model::ModelInfo info = runner->info();
  runner.reset();

  const TimePoint from =
      start + std::chrono::duration_cast<Duration>(duration<double>(options.warmup));
  tools::LatencyHistogram latencies;
  TimePoint last = from;
  std::size_t lost = 0;
  std::size_t unserved = 0;
  for (const auto& answer : answers) {
    if (answer->ended == TimePoint{}) {
      ++lost;
    } else if (answer->due >= from) {
      latencies.add(answer->ended - answer->due);
      if (answer->unserved) ++unserved;
      last = std::max(last, answer->ended);
    }
  }
  std::size_t batches = 0;
  for (const std::uint64_t count : info.batches->by_size) batches += count;
  const auto us = [](auto time) { return duration<double, std::micro>(time.value()).count(); };
  if (latencies.count() == 0 || batches == 0) return 1;
  std::printf(
      "{\"requests\":%zu,\"unserved\":%zu,\"per_second\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
      "\"mean_us\":%.1f,"
      "\"mean_batch\":%.2f,\"lost\":%zu}\n",
      static_cast<std::size_t>(latencies.count()), unserved,
      static_cast<double>(latencies.count() - unserved) / duration<double>(last - from).count(),
      us(latencies.quantile(0.5)), us(latencies.quantile(0.99)), us(latencies.mean()),
      static_cast<double>(info.batches->members) / static_cast<double>(batches), lost);
  return lost == 0 && refused == 0 ? 0 : 1;
}

}  // namespace
}  // namespace weir::bench

int main(int argc, char** argv) {
  using namespace weir;
  bench::Options options;
  CLI::App app("one-shot work under one batching policy and one load");
  app.add_option("--batch-us", options.batch_us, "cost of a batch")->check(CLI::NonNegativeNumber);
  app.add_option("--item-us", options.item_us, "cost of a member")->check(CLI::NonNegativeNumber);
  app.add_option("--cache-items", options.cache_items, "members that are cheap; 0: all");
  app.add_option("--beyond-us", options.beyond_us, "what each further one costs besides")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--tile", options.tile, "members are counted up to a multiple of this")
      ->check(CLI::Range(1, 4096));
  const std::map<std::string, schedule::BatchMode> modes = {
      {"fixed", schedule::BatchMode::kFixed},
      {"levels", schedule::BatchMode::kByLoad},
      {"learned", schedule::BatchMode::kLearned}};
  app.add_option("--mode", options.batch.mode)->transform(CLI::CheckedTransformer(modes));
  app.add_option("--max-batch", options.batch.max_batch_size)->check(CLI::Range(1, 4096));
  app.add_option("--preferred", options.batch.preferred_batch_size)->check(CLI::Range(1, 4096));
  app.add_option("--window-us", options.window_us)->check(CLI::Range(0, 10'000'000));
  app.add_option("--rate", options.rate, "requests per second")->check(CLI::PositiveNumber);
  app.add_option("--seconds", options.seconds, "measured")->check(CLI::PositiveNumber);
  app.add_option("--warmup", options.warmup, "seconds before that")->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options.seed);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.batch.timeout = std::chrono::microseconds(options.window_us);
  return bench::run(options);
}
