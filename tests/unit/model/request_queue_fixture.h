// SPDX-License-Identifier: Apache-2.0
//
// The queue of a model without a model: the test takes and settles what an engine would.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/model/request_queue.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {

inline std::uint64_t refused(const RequestQueue& queue, RefusalReason reason) {
  ModelInfo info;
  queue.read(info);
  return info.refused[static_cast<std::size_t>(reason)];
}

inline ModelInfo read(const RequestQueue& queue) {
  ModelInfo info;
  queue.read(info);
  return info;
}

/// Estimated at `tokens`, none of them of the prompt.
inline Call call_of(std::uint32_t tokens, std::int32_t level = 4, std::string tenant = "default") {
  Call call = greedy_call("", tokens);
  call.request->priority = level;
  call.request->tenant = std::move(tenant);
  return call;
}

inline Outcome completed(Taken taken, std::uint64_t tokens) {
  return {std::move(taken), Completion{}, tokens};
}

struct RequestQueueTest : testing::Test {
  void make(schedule::QueueOptions options = {}, std::size_t concurrency = 1) {
    make_unprepared(std::move(options), concurrency);
    queue->prepare_with([this](RequestQueue::Ticket ticket, const GenerationRequest&) {
      queue->prepared(ticket, std::vector<std::int32_t>{});
    });
  }
  void make_unprepared(schedule::QueueOptions options = {}, std::size_t concurrency = 1) {
    queue = RequestQueue::create(std::move(options), concurrency, clock, timers);
  }
  /// As a preparer that takes its time.
  void keep_tickets() {
    queue->prepare_with([this](RequestQueue::Ticket ticket, const GenerationRequest&) {
      tickets.push_back(ticket);
    });
  }
  ~RequestQueueTest() override {
    if (!queue) return;
    queue->fail_waiting(make_error(Code::kUnavailable, "the test is over"));
    queue->close();
  }
  /// Takes one and settles it after `service`, with as many tokens as were estimated.
  void serve_one(Duration service) {
    auto taken = queue->take(1);
    ASSERT_EQ(taken.size(), 1U);
    clock.advance(service);
    const std::uint64_t tokens = taken[0].estimated_tokens;
    queue->settle({completed(std::move(taken[0]), tokens)});
  }
  /// So that a second is measured for every hundred tokens.
  void measure() {
    for (int i = 0; i < 20; ++i) {
      ASSERT_FALSE(queue->submit(call_of(100).request));
      serve_one(std::chrono::seconds(1));
    }
  }

  FakeClock clock;
  schedule::TimerThread timers{clock};
  std::shared_ptr<RequestQueue> queue;
  std::vector<RequestQueue::Ticket> tickets;
};

}  // namespace weir::model
