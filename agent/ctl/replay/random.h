// SPDX-License-Identifier: Apache-2.0
//
// A small generator whose streams are the same on every machine, unlike the distributions of the
// standard library. Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014).
//
// Thread-compatible: one thread at a time.
#pragma once

#include <cmath>
#include <cstdint>

namespace weir::replay {

class Random {
 public:
  /// Streams of different numbers are independent for all that matters here.
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0)
      : state_(mix(seed + kGamma) ^ mix(stream * kGamma + 1)) {}

  std::uint64_t next() { return mix(state_ += kGamma); }

  /// In [0, 1).
  double unit() { return static_cast<double>(next() >> 11U) * 0x1p-53; }

  /// Exponential with mean 1.
  double exponential() { return -std::log1p(-unit()); }

  /// In [min, max], equal chances but for 2^-32.
  std::uint32_t between(std::uint32_t min, std::uint32_t max) {
    const std::uint64_t span = std::uint64_t{max} - min + 1;
    return min + static_cast<std::uint32_t>(((next() >> 32U) * span) >> 32U);
  }

 private:
  static constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15;

  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EB;
    return z ^ (z >> 31U);
  }

  std::uint64_t state_;
};

}  // namespace weir::replay
