// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/ids.h"

#include <array>
#include <cstdint>
#include <random>

namespace weir::serve {

std::string make_id(std::string_view prefix) {
  thread_local std::mt19937_64 generator = [] {
    std::random_device entropy;
    std::seed_seq seed{entropy(), entropy(), entropy(), entropy()};
    return std::mt19937_64(seed);
  }();
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::array<char, 32> digits{};
  for (std::size_t i = 0; i < digits.size();) {
    std::uint64_t bits = generator();
    for (int digit = 0; digit < 16; ++digit, bits >>= 4U) digits[i++] = kDigits[bits & 15U];
  }
  std::string id;
  id.reserve(prefix.size() + digits.size());
  id.append(prefix).append(digits.data(), digits.size());
  return id;
}

}  // namespace weir::serve
