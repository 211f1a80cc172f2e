// SPDX-License-Identifier: Apache-2.0
//
// The memory that a version of a model asks for: what only it has, and the weights, which it has
// together with all that are loaded from the same file. And what several such claims come to.
//
// Plain values.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace weir::model {

struct MemoryClaim {
  std::uint64_t own_bytes = 0;
  std::uint64_t weights_bytes = 0;  ///< count once for all with the same weights
  std::string weights;              ///< names them; empty: nobody else can have them

  [[nodiscard]] std::uint64_t all() const { return own_bytes + weights_bytes; }
};

/// What claims come to together. Weights that several have count as the largest of their claims,
/// as they are estimated before they are loaded.
class MemorySum {
 public:
  void add(const MemoryClaim& claim) {
    bytes_ += claim.own_bytes;
    if (claim.weights.empty()) {
      bytes_ += claim.weights_bytes;
      return;
    }
    Claims& claims = weights_[claim.weights];
    bytes_ -= largest(claims);
    claims.insert(claim.weights_bytes);
    bytes_ += largest(claims);
  }
  /// Precondition: it was added.
  void remove(const MemoryClaim& claim) {
    bytes_ -= claim.own_bytes;
    if (claim.weights.empty()) {
      bytes_ -= claim.weights_bytes;
      return;
    }
    Claims& claims = weights_[claim.weights];
    bytes_ -= largest(claims);
    claims.erase(claims.find(claim.weights_bytes));
    bytes_ += largest(claims);
  }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  using Claims = std::multiset<std::uint64_t>;
  static std::uint64_t largest(const Claims& claims) {
    return claims.empty() ? 0 : *claims.rbegin();
  }

  std::uint64_t bytes_ = 0;
  std::map<std::string, Claims> weights_;
};

}  // namespace weir::model
