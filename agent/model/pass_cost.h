// SPDX-License-Identifier: Apache-2.0
//
// What one pass over the weights takes, by the tokens in it: a table, for the curve has steps where
// the kernels change. (Measured on 2 CPUs with 135 M parameters: 2 tokens take 2.3 times as long as
// one, 8 and 12 take 4.5 times, 32 take 9 times.) What was not measured lies between its
// neighbours. What has not been measured for long, or not often, is taken for cheaper than it was,
// so that it is tried again: machines change, and a sample may have been held up.
//
// Thread-compatible. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace weir::model {

class PassCost {
 public:
  static constexpr std::size_t kMostTokens = 128;

  /// One more step has begun: everything is older.
  void tick() { ++now_; }
  /// 1..kMostTokens; others are ignored.
  void learn(std::size_t tokens, double micros);

  struct Measured {
    double micros = 0;
    std::uint64_t age = 0;  ///< in steps
    bool sure = false;      ///< more than once or twice
  };
  [[nodiscard]] std::optional<Measured> measured(std::size_t tokens) const;

  /// In microseconds; 0 while nothing has been measured.
  [[nodiscard]] double hoped(std::size_t tokens) const;

 private:
  struct Entry {
    double micros = 0;
    std::uint64_t at = 0;
    std::uint32_t samples = 0;
  };
  std::array<Entry, kMostTokens + 1> entries_{};
  std::uint64_t now_ = 0;
};

}  // namespace weir::model
