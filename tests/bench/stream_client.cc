// SPDX-License-Identifier: Apache-2.0
//
// weir-stream-client: clients of a server that streams completions, and when each piece came.
//
// Reads one line of JSON from the standard input:
//
//   {"target": "127.0.0.1:8080", "path": "/v1/completions", "timeout_s": 60,
//    "clients": [{"requests": [{"at_ms": 0, "body": "{...}"}, ...]}, ...]}
//
// Every client sends its requests one after the other, none before its time, each over a connection
// of its own: not every server keeps one open after a stream. A request that ends later than
// `timeout_s` after the start ends everything. Prints one line:
//
//   {"requests": [{"client": 0, "at_us": ..., "sent_us": ..., "end_us": ..., "texts_us": [...],
//                  "prompt_tokens": ..., "completion_tokens": ..., "failure": ""}, ...]}
//
// in the order of clients and requests. Times are microseconds since the start; `texts_us` has one
// for each event with text. `at_us` is when a request was due: `at_ms`, or the end of the one
// before where that was later. It is one thread, so that it takes little from the servers beside
// it. Exit status: 0, 1 when it could not run, 2 for a wrong scenario.
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/ctl/replay/response_reader.h"
#include "tests/tools/socket.h"

namespace weir::bench {
namespace {

namespace json = boost::json;
using replay::ResponseReader;
using std::chrono::microseconds;

std::int64_t us(Duration time) { return std::chrono::duration_cast<microseconds>(time).count(); }

struct Sent {
  Duration at{};  ///< of all: since the start
  Duration sent{};
  Duration end{};
  std::vector<Duration> texts;
  replay::Answer answer;
};

struct Planned {
  Duration at{};
  std::string body;
};

struct Scenario {
  Endpoint target;
  std::string path;
  Duration timeout{};
  std::vector<std::vector<Planned>> clients;
};

Result<Scenario> read_scenario(const std::string& text) {
  try {
    const json::value document = json::parse(text);
    const json::object& root = document.as_object();
    Scenario scenario;
    auto target = Endpoint::parse(root.at("target").as_string());
    if (!target) return std::move(target).error();
    scenario.target = *target;
    scenario.path = root.at("path").as_string();
    scenario.timeout = std::chrono::seconds(root.at("timeout_s").as_int64());
    for (const json::value& client : root.at("clients").as_array()) {
      std::vector<Planned>& requests = scenario.clients.emplace_back();
      for (const json::value& request : client.at("requests").as_array()) {
        requests.push_back({std::chrono::milliseconds(request.at("at_ms").as_int64()),
                            std::string(request.at("body").as_string())});
      }
    }
    return scenario;
  } catch (const std::exception& wrong) {
    return make_error(Code::kInvalidArgument, std::string("the scenario: ") + wrong.what());
  }
}

class Client {
 public:
  Client(const Scenario& scenario, const std::vector<Planned>& plan, TimePoint start, int poller)
      : scenario_(scenario), plan_(plan), start_(start), poller_(poller) {}

  [[nodiscard]] bool finished() const { return done_.size() == plan_.size(); }
  /// When the next request is due, if it is not under way.
  [[nodiscard]] std::optional<TimePoint> due() const {
    if (finished() || current_) return std::nullopt;
    return start_ + std::max(plan_[done_.size()].at, free_since_);
  }
  [[nodiscard]] const std::vector<Sent>& done() const { return done_; }

  void begin(TimePoint now) {
    const Planned& planned = plan_[done_.size()];
    current_.emplace();
    current_->at = std::max(planned.at, free_since_);
    reader_.begin();
    request_ = "POST " + scenario_.path + " HTTP/1.1\r\nHost: " + scenario_.target.to_string() +
               "\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: " +
               std::to_string(planned.body.size()) + "\r\n\r\n" + planned.body;
    unsent_ = request_;
    auto socket = tools::start_connect(scenario_.target);
    if (!socket) return fail(socket.error().message, now);
    socket_ = std::move(*socket);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.ptr = this;
    // Writable when it is connected.
    if (epoll_ctl(poller_, EPOLL_CTL_ADD, socket_.get(), &event) != 0) fail("epoll_ctl", now);
  }

  void on_ready(std::uint32_t events, TimePoint now) {
    if (!current_) return;  // told of a connection that is closed by now
    if ((events & EPOLLOUT) != 0 && !unsent_.empty()) send(now);
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) receive(now);
  }

  void give_up(const std::string& why, TimePoint now) {
    while (!finished()) {
      if (!current_) {
        current_.emplace();
        current_->at = plan_[done_.size()].at;
      }
      fail(why, now);
    }
  }

 private:
  void send(TimePoint now) {
    while (!unsent_.empty()) {
      const ssize_t sent = ::send(socket_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno != EAGAIN && errno != ENOTCONN) fail("send failed", now);
        return;
      }
      unsent_.remove_prefix(static_cast<std::size_t>(sent));
    }
    current_->sent = now - start_;
  }

  void receive(TimePoint now) {
    static thread_local std::array<char, 64 * 1024> chunk;
    while (current_) {
      const ssize_t got = ::recv(socket_.get(), chunk.data(), chunk.size(), 0);
      if (got < 0) {
        if (errno != EAGAIN) fail("the connection failed", now);
        return;
      }
      if (got == 0 && !reader_.begun()) return fail("closed before it answered", now);
      const auto state =
          got == 0 ? reader_.put_end() : reader_.put({chunk.data(), static_cast<std::size_t>(got)});
      if (got > 0) current_->texts.insert(current_->texts.end(), reader_.new_texts(), now - start_);
      if (state == ResponseReader::State::kDone) {
        socket_.reset();
        end(reader_.answer(), now);
      } else if (got == 0 || state == ResponseReader::State::kMalformed) {
        fail(got == 0 ? "closed early" : "malformed", now);
      }
    }
  }

  void fail(const std::string& why, TimePoint now) {
    socket_.reset();
    end(replay::error_answer(why), now);
  }

  void end(replay::Answer answer, TimePoint now) {
    current_->answer = std::move(answer);
    current_->end = free_since_ = now - start_;
    done_.push_back(std::move(*current_));
    current_.reset();
  }

  const Scenario& scenario_;
  const std::vector<Planned>& plan_;
  const TimePoint start_;
  const int poller_;
  tools::UniqueFd socket_;
  ResponseReader reader_;
  std::string request_;
  std::string_view unsent_;  ///< of request_
  std::optional<Sent> current_;
  Duration free_since_{};
  std::vector<Sent> done_;
};

json::object report(const std::vector<std::unique_ptr<Client>>& clients) {
  json::array requests;
  for (std::size_t i = 0; i < clients.size(); ++i) {
    for (const Sent& sent : clients[i]->done()) {
      json::array texts;
      for (const Duration at : sent.texts) texts.push_back(us(at));
      const bool failed = sent.answer.kind != replay::Answer::Kind::kOk;
      requests.push_back({{"client", i},
                          {"at_us", us(sent.at)},
                          {"sent_us", us(sent.sent)},
                          {"end_us", us(sent.end)},
                          {"texts_us", std::move(texts)},
                          {"prompt_tokens", sent.answer.prompt_tokens},
                          {"completion_tokens", sent.answer.completion_tokens},
                          {"failure", failed ? sent.answer.reason : ""}});
    }
  }
  return {{"requests", std::move(requests)}};
}

int run(const Scenario& scenario) {
  const tools::UniqueFd poller(epoll_create1(EPOLL_CLOEXEC));
  if (!poller.open()) return std::perror("weir-stream-client: epoll_create1"), 1;
  prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
  const TimePoint start = std::chrono::steady_clock::now();
  const TimePoint give_up = start + scenario.timeout;
  std::vector<std::unique_ptr<Client>> clients;
  for (const auto& plan : scenario.clients) {
    clients.push_back(std::make_unique<Client>(scenario, plan, start, poller.get()));
  }
  std::array<epoll_event, 64> events{};
  for (;;) {
    const TimePoint now = std::chrono::steady_clock::now();
    std::optional<TimePoint> next;
    bool all_finished = true;
    for (const auto& client : clients) {
      if (const auto due = client->due()) {
        if (*due <= now) {
          client->begin(now);
        } else {
          next = std::min(next.value_or(*due), *due);
        }
      }
      all_finished = all_finished && client->finished();
    }
    if (all_finished) break;
    if (now >= give_up) {
      for (const auto& client : clients) client->give_up("timeout", now);
      break;
    }
    const TimePoint until = std::min(next.value_or(give_up), give_up);
    const auto wait =
        std::max<Duration>(until - std::chrono::steady_clock::now(), Duration::zero());
    const timespec timeout{std::chrono::duration_cast<std::chrono::seconds>(wait).count(),
                           (wait % std::chrono::seconds(1)).count()};
    const int ready = epoll_pwait2(poller.get(), events.data(), events.size(), &timeout, nullptr);
    const TimePoint came = std::chrono::steady_clock::now();
    for (int i = 0; i < ready; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      static_cast<Client*>(event.data.ptr)->on_ready(event.events, came);
    }
  }
  std::cout << json::serialize(report(clients)) << std::endl;
  return std::cout ? 0 : 1;
}

}  // namespace
}  // namespace weir::bench

int main() {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const auto scenario = weir::bench::read_scenario(text);
  if (!scenario) {
    std::fprintf(stderr, "weir-stream-client: %s\n", scenario.error().message.c_str());
    return 2;
  }
  return weir::bench::run(*scenario);
}
