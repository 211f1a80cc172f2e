// SPDX-License-Identifier: Apache-2.0
//
// The gate in front of everything: decides from the head of a request alone whether it may come in,
// and sets aside what it may need, before a byte of its body is read. Once the body is parsed,
// settle() holds the request against the limits of its model and corrects what was set aside.
//
//   head ──reserve()──► Reservation ──settle()──► the same, exact ──► travels with the request
//           │                          │                              and goes back when that ends
//           └── Refusal                └── Refusal
//
// Thread-safe: all methods from any thread. Owns nothing of the request; must outlive every
// Reservation it gave. Refusals carry the reason and when to come back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "agent/base/clock.h"
#include "agent/schedule/level.h"
#include "agent/schedule/refusal.h"

namespace weir::admit {

inline constexpr std::string_view kDefaultTenant = "default";

/// What the connection and the header fields say.
struct RequestHead {
  std::string_view tenant = kDefaultTenant;
  std::string_view model;  ///< empty: only the body will tell
  std::int32_t level = schedule::kDefaultLevel;
  std::optional<TimePoint> deadline;
  std::uint64_t body_bytes = 0;  ///< declared, or the most it may have
};

/// What the parsed body says.
struct RequestNeeds {
  std::string_view tenant = kDefaultTenant;
  std::string_view model;
  std::int32_t level = schedule::kDefaultLevel;
  std::optional<TimePoint> deadline;
  std::uint64_t prompt_bytes = 0;
  std::uint64_t tokens = 0;  ///< prompt and completion, estimated
};

class Admission;

/// What is set aside for one request. Goes back exactly once: on release(), or when the last owner
/// lets go of it. Move-only.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { release(); }

  void release();
  [[nodiscard]] bool held() const { return admission_ != nullptr; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  friend class Admission;

  Admission* admission_ = nullptr;  ///< null: holds nothing
  void* tenant_ = nullptr;          ///< Admission's record of the tenant
  std::uint64_t bytes_ = 0;         ///< of the memory budget
};

}  // namespace weir::admit
