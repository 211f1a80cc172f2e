// SPDX-License-Identifier: Apache-2.0
//
// A real HttpServer on a loopback port in front of a ScriptedExecutor.
//
// Thread-safety: belongs to the test's thread.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "agent/admit/admission.h"
#include "agent/serve/http_server.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/fixtures/scripted_executor.h"
#include "tests/unit/serve/http_client.h"

namespace weir::serve {

class FixedMetricsSource final : public telemetry::MetricsSource {
 public:
  std::shared_ptr<const kernel::Snapshot> kernel_snapshot() const override { return snapshot; }
  std::shared_ptr<const kernel::Snapshot> snapshot;
};

inline model::ModelInfo model_named(std::string name, model::ModelInfo::State state) {
  model::ModelInfo info;
  info.name = std::move(name);
  info.state = state;
  info.created_unix_seconds = 1700000000;
  return info;
}

class ServeTest : public testing::Test {
 protected:
  using State = model::ModelInfo::State;

  void SetUp() override { start(); }

  /// Starts, or starts anew, with the present options.
  void start() {
    options.listen = *Endpoint::parse("127.0.0.1:0", true);
    if (!options.io_threads.has_value()) options.io_threads = 2;
    server.reset();
    // Requests that a test still holds have reservations: what gave them stays.
    if (admission) earlier.push_back(std::move(admission));
    auto admits = admit::Admission::create(admission_options, clock);
    ASSERT_TRUE(admits.ok()) << admits.error().message;
    admission = *std::move(admits);
    auto created =
        HttpServer::create(options, executor, *admission, metrics, clock, nullptr, workers);
    ASSERT_TRUE(created.ok()) << created.error().message;
    server = *std::move(created);
  }

  [[nodiscard]] HttpClient client() const { return HttpClient(server->endpoint()); }

  /// Polls, as the server's threads take their own time; false after five seconds.
  template <typename Condition>
  static bool eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  /// A member of the reply's "error" object; "null" when it is null.
  static std::string error_field(const HttpReply& reply, std::string_view field) {
    boost::json::error_code failure;
    const boost::json::value body = boost::json::parse(reply.body, failure);
    if (failure || !body.is_object()) return "not JSON: " + reply.body;
    const boost::json::value* error = body.get_object().if_contains("error");
    if (error == nullptr || !error->is_object()) return "no error: " + reply.body;
    const boost::json::value* value = error->get_object().if_contains({field.data(), field.size()});
    if (value == nullptr) return "missing";
    return value->is_null() ? "null" : std::string(value->get_string());
  }

  /// How many requests were refused, by where and why.
  [[nodiscard]] std::uint64_t refusals(admit::Stage stage, model::RefusalReason reason) const {
    return admission->reading()
        .refusals[static_cast<std::size_t>(stage)][static_cast<std::size_t>(reason)];
  }

  ServeOptions options;
  admit::Admission::Options admission_options;
  FakeClock clock;
  std::vector<std::unique_ptr<admit::Admission>> earlier;
  std::unique_ptr<admit::Admission> admission;
  ScriptedExecutor executor{{model_named("tiny", State::kReady)}};
  FixedMetricsSource metrics;
  schedule::WorkerPool* workers = nullptr;  ///< the test's own, when it has some
  std::unique_ptr<HttpServer> server;
};

}  // namespace weir::serve
