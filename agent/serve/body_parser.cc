// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/body_parser.h"

#include <cstddef>
#include <exception>
#include <functional>
#include <string>
#include <utility>

namespace weir::serve {
namespace {

// Less of it takes at most 0.3 ms, and mostly less time than to hand it over and back.
constexpr std::size_t kLargeBodyBytes = 64 * 1024;

struct LargeBody {
  // Constant.
  std::shared_ptr<Exchange> exchange;
  ParseAndGoOn parse;
  TimePoint arrived;
  std::shared_ptr<admit::Reservation> reservation;  ///< for as long as the body is in memory
  // The worker's, then the I/O thread's.
  std::string body;
  std::function<void()> go_on;
  // The I/O thread's.
  bool client_left = false;
};

bool is_large(const Services& services, const Exchange& exchange) {
  return services.workers != nullptr && exchange.request().body.size() >= kLargeBodyBytes;
}

/// Any thread.
void parse(const std::shared_ptr<LargeBody>& large) {
  try {
    large->go_on = large->parse(large->body, large->arrived);
  } catch (const std::exception& failure) {  // bad_alloc; nothing else throws here
    ApiError error;
    error.code = "internal_error";
    error.message = failure.what();
    large->go_on = [exchange = large->exchange, error] { exchange->respond(to_response(error)); };
  }
  std::string().swap(large->body);
  large->exchange->post([large] {
    if (large->client_left) return;
    large->go_on();
  });
}

}  // namespace

void parse_body(const Services& services, const std::shared_ptr<Exchange>& exchange,
                ParseAndGoOn parse_and_go_on) {
  const TimePoint now = services.clock.now();
  if (!is_large(services, *exchange)) {
    return parse_and_go_on(exchange->take_body(), now)();
  }
  const auto large = std::make_shared<LargeBody>(LargeBody{exchange,
                                                           std::move(parse_and_go_on),
                                                           now,
                                                           exchange->request().reservation,
                                                           exchange->take_body(),
                                                           {}});
  // The exchange must not own it: it owns the exchange.
  exchange->on_abort([weak = std::weak_ptr(large)] {
    if (const auto left = weak.lock()) left->client_left = true;
  });
  schedule::Task task([large] { parse(large); });
  if (services.workers->submit(std::move(task)) != schedule::WorkerPool::Submitted::kAccepted) {
    std::move(task)();
  }
}

void parse_and_start(const Services& services, const std::shared_ptr<Exchange>& exchange,
                     ParseBody parse, FormatResult format) {
  if (!is_large(services, *exchange)) {
    const std::string body = exchange->take_body();
    return start_generation(services, exchange, parse(body, services.clock.now()), format);
  }
  parse_body(services, exchange,
             [services, exchange, parse, format](std::string_view body,
                                                 TimePoint now) -> std::function<void()> {
               return [services, exchange, format, call = parse(body, now)] {
                 start_generation(services, exchange, call, format);
               };
             });
}

}  // namespace weir::serve
