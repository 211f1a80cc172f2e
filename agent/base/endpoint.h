// SPDX-License-Identifier: Apache-2.0
//
// A TCP endpoint, kept in one canonical form: 16 address bytes, IPv4 as ::ffff:a.b.c.d. A
// v4-mapped IPv6 address and its IPv4 twin are therefore equal, here and in the kernel's tables.
//
// Thread-safe: a value.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "agent/base/result.h"

namespace weir {

struct Endpoint {
  std::array<std::uint8_t, 16> ip{};  ///< network order
  std::uint16_t port = 0;             ///< host order

  /// Parses "127.0.0.1:8080" or "[::1]:8080". Port 0 is accepted only where `allow_port_zero`.
  static Result<Endpoint> parse(std::string_view text, bool allow_port_zero = false);

  [[nodiscard]] bool is_v4() const;
  /// "127.0.0.1:8080" or "[::1]:8080".
  [[nodiscard]] std::string to_string() const;

  auto operator<=>(const Endpoint&) const = default;
};

}  // namespace weir
