// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/body_parser.h"

#include <cstddef>
#include <exception>
#include <optional>
#include <string>
#include <utility>

namespace weir::serve {
namespace {

// Less of it takes at most 0.3 ms, and mostly less time than to hand it over and back.
constexpr std::size_t kLargeBodyBytes = 64 * 1024;

struct LargeBody {
  // Constant.
  Services services;  ///< used on the I/O thread only: only there is the server known to live
  std::shared_ptr<Exchange> exchange;
  ParseBody parse;
  FormatResult format;
  TimePoint arrived;
  std::shared_ptr<admit::Reservation> reservation;  ///< for as long as the body is in memory
  // The worker's, then the I/O thread's.
  std::string body;
  std::optional<Outcome<GenerationCall>> call;
  // The I/O thread's.
  bool client_left = false;
};

/// Any thread.
void parse(const std::shared_ptr<LargeBody>& large) {
  try {
    large->call = large->parse(large->body, large->arrived);
  } catch (const std::exception& failure) {  // bad_alloc; nothing else throws here
    ApiError error;
    error.code = "internal_error";
    error.message = failure.what();
    large->call = std::move(error);
  }
  std::string().swap(large->body);
  large->exchange->post([large] {
    if (large->client_left) return;
    start_generation(large->services, large->exchange, *std::move(large->call), large->format);
  });
}

}  // namespace

void parse_and_start(const Services& services, const std::shared_ptr<Exchange>& exchange,
                     ParseBody parse_body, FormatResult format) {
  const TimePoint now = services.clock.now();
  if (services.workers == nullptr || exchange->request().body.size() < kLargeBodyBytes) {
    return start_generation(services, exchange, parse_body(exchange->take_body(), now), format);
  }
  const auto large = std::make_shared<LargeBody>(LargeBody{services, exchange, parse_body, format,
                                                           now, exchange->request().reservation,
                                                           exchange->take_body(), std::nullopt});
  // The exchange must not own it: it owns the exchange.
  exchange->on_abort([weak = std::weak_ptr(large)] {
    if (const auto left = weak.lock()) left->client_left = true;
  });
  schedule::Task task([large] { parse(large); });
  if (services.workers->submit(std::move(task)) != schedule::WorkerPool::Submitted::kAccepted) {
    std::move(task)();
  }
}

}  // namespace weir::serve
