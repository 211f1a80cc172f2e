// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <utility>

#include "agent/base/descriptor_limit.h"
#include "agent/ctl/replay/arrival_plan.h"
#include "agent/ctl/replay/request_text.h"

namespace weir::replay {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

/// Requests sent before answers are looked at again: they are read late by 0.2 ms at most.
constexpr int kSendsInARow = 32;
/// Standard streams, epoll, timer, report files.
constexpr std::uint64_t kOtherDescriptors = 64;
constexpr double kSlicesWanted = 120;

double cpu_s() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

Duration seconds(double value) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

Status make_room_for(std::uint32_t connections) {
  const std::uint64_t wanted = connections + kOtherDescriptors;
  const auto limit = raise_descriptor_limit(wanted);
  if (!limit) return limit.error();
  if (*limit >= wanted) return {};
  return make_error(
      Code::kResourceExhausted,
      fmt::format("--connections {} needs {} descriptors, and the limit is {} (ulimit -Hn)",
                  connections, wanted, *limit));
}

/// The first address of the target that can be connected to.
Result<tcp::endpoint> find_target(asio::io_context& io, const Target& target, Duration timeout) {
  boost::system::error_code failure;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(target.host, std::to_string(target.port), failure);
  if (failure) {
    return make_error(Code::kUnavailable,
                      fmt::format("cannot resolve {}: {}", target.host, failure.message()));
  }
  for (const auto& entry : found) {
    tcp::socket probe(io);
    failure = asio::error::timed_out;
    // Not connect(): the kernel would try for two minutes where nothing answers.
    probe.async_connect(entry.endpoint(), [&](const boost::system::error_code& error) {
      if (error != asio::error::operation_aborted) failure = error;
    });
    io.restart();
    io.run_for(timeout);
    if (!failure) return entry.endpoint();
    probe.close();
    io.restart();
    io.run();  // its handler refers to what goes now
  }
  return make_error(
      Code::kUnavailable,
      fmt::format("cannot connect to {}{}: {}", target.authority,
                  target.names_port ? "" : " (port 80, as none is given)", failure.message()));
}

/// About 120 of the span, of a readable length.
Duration slice_length(std::optional<Duration> span) {
  if (!span) return std::chrono::seconds(1);
  const double wanted_s = std::chrono::duration<double>(*span).count() / kSlicesWanted;
  for (const double length_s : {0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0}) {
    if (length_s >= wanted_s) return seconds(length_s);
  }
  return std::chrono::minutes(5);
}

class Runner final : private ClientObserver {
 public:
  Runner(const Options& options, ArrivalPlan plan, const tcp::endpoint& target,
         asio::io_context& io, ProgressSink& progress)
      : options_(options),
        plan_(std::move(plan)),
        io_(io),
        progress_(progress),
        requests_(options),
        timer_(io),
        progress_timer_(io),
        signals_(io, SIGINT, SIGTERM),
        begin_(clock_.now()),
        recorder_(std::make_unique<Recorder>(options, begin_, slice_length(plan_.span()))),
        client_(io, target, options, requests_, clock_, *this) {}

  Report run() {
    Report report;
    report.options = options_;
    report.facts.started_unix_s =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    if (const auto& trace = plan_.trace()) {
      report.facts.trace = TraceFacts{trace->format, trace->records.size(), trace->reordered};
    }
    const double cpu_before = cpu_s();
    signals_.async_wait([this](const boost::system::error_code& error, int) {
      if (!error) interrupt();
    });
    show_progress();
    if (options_.concurrency) {
      for (std::uint32_t i = 0; i < *options_.concurrency; ++i) refill();
    } else {
      next_ = plan_.next();
      send_due();
    }
    io_.run();
    report.facts.cpu_s = cpu_s() - cpu_before;
    report.facts.elapsed = clock_.now() - begin_;
    report.facts.window = std::max(Duration(0), window_end_ - begin_ - seconds(options_.warmup_s));
    report.facts.interrupted = interrupted_;
    report.facts.client = client_.reading();
    show_last_progress();
    report.recorder = std::move(recorder_);
    return report;
  }

 private:
  void on_gap(const Exchange& exchange, Duration gap) override { recorder_->on_gap(exchange, gap); }
  void on_end(const Exchange& exchange, const Answer& answer, TimePoint now) override {
    recorder_->on_end(exchange, answer, now);
    // Not at once: the client is in the middle of something.
    if (!exhausted_ && options_.concurrency) asio::post(io_, [this] { refill(); });
    if (exhausted_) asio::post(io_, [this] { end_if_over(); });
  }

  // ---- open loop

  void send_due() {
    int sent = 0;
    for (; next_ && sent < kSendsInARow; ++sent) {
      const TimePoint now = clock_.now();
      const TimePoint due = begin_ + next_->due;
      if (due > now) break;
      recorder_->on_due(*next_, now);
      if (!client_.send(*next_, due)) recorder_->on_dropped(*next_);
      next_ = plan_.next();
    }
    if (!next_) return exhaust();
    if (sent == kSendsInARow) return asio::post(io_, [this] { send_due(); });
    timer_.expires_at(begin_ + next_->due);
    timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error && next_) send_due();
    });
  }

  // ---- closed loop

  void refill() {
    if (exhausted_) return;
    const TimePoint now = clock_.now();
    auto arrival = plan_.next();
    if (!arrival || (options_.duration_s && now - begin_ >= seconds(*options_.duration_s))) {
      return exhaust();
    }
    arrival->due = now - begin_;
    recorder_->on_due(*arrival, now);
    if (!client_.send(*arrival, now)) recorder_->on_dropped(*arrival);
  }

  // ---- the end

  void exhaust() {
    exhausted_ = true;
    window_end_ = clock_.now();
    // The last of an open loop is due some time before the end that was asked for.
    if (plan_.cut_by_duration()) {
      window_end_ = std::max(window_end_, begin_ + seconds(*options_.duration_s));
    }
    recorder_->end_window(window_end_);
    asio::post(io_, [this] { end_if_over(); });
  }

  void end_if_over() {
    if (exhausted_ && client_.inflight() == 0) io_.stop();
  }

  void interrupt() {
    interrupted_ = true;
    next_.reset();
    timer_.cancel();
    if (!exhausted_) exhaust();
    client_.abandon_all("interrupted");
    end_if_over();
  }

  // ---- progress

  [[nodiscard]] ProgressReading progress_reading() const {
    ProgressReading reading;
    reading.elapsed = clock_.now() - begin_;
    reading.span = plan_.span();
    reading.ended = recorder_->ended();
    reading.planned = plan_.size();
    reading.figures = &recorder_->all();
    reading.inflight = client_.inflight();
    reading.draining = exhausted_;
    return reading;
  }

  void show_progress() {
    progress_timer_.expires_after(progress_.period());
    progress_timer_.async_wait([this](const boost::system::error_code& error) {
      if (error) return;
      progress_.show(progress_reading());
      show_progress();
    });
  }
  void show_last_progress() { progress_.show(progress_reading()); }

  const Options options_;
  ArrivalPlan plan_;
  asio::io_context& io_;
  ProgressSink& progress_;
  const RequestText requests_;
  const SteadyClock clock_;
  asio::steady_timer timer_;
  asio::steady_timer progress_timer_;
  asio::signal_set signals_;
  const TimePoint begin_;
  TimePoint window_end_ = begin_;
  std::unique_ptr<Recorder> recorder_;
  Client client_;
  std::optional<Arrival> next_;
  bool exhausted_ = false;
  bool interrupted_ = false;
};

}  // namespace

Result<Report> run_replay(const Options& options, ProgressSink& progress) {
  auto plan = ArrivalPlan::create(options);
  if (!plan) return std::move(plan).error();
  if (Status room = make_room_for(options.connections); !room) return std::move(room).error();
  asio::io_context io(1);
  auto target = find_target(io, options.target, options.timeout);
  if (!target) return std::move(target).error();
  io.restart();
  Runner runner(options, *std::move(plan), *target, io, progress);
  return runner.run();
}

}  // namespace weir::replay
