// SPDX-License-Identifier: Apache-2.0
//
// Sequences that have made room for others and go on later. Each keeps a copy of its KV cells, as
// far as all copies together are within a budget: when they are not, the copies of those that are
// worth least are dropped, and their cells are computed again later. Worth is urgency: level,
// deadline, admission.
//
// Thread-compatible. Owns what is parked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "agent/model/step_plan.h"

namespace weir::model {

template <typename T>
class ParkingLot {
 public:
  struct Parked {
    std::unique_ptr<T> value;         ///< not null
    std::vector<std::uint8_t> state;  ///< empty: to be computed again
  };
  using Places = std::map<Urgency, Parked>;  ///< the first is worth most

  explicit ParkingLot(std::uint64_t budget_bytes) : budget_(budget_bytes) {}

  [[nodiscard]] std::size_t size() const { return places_.size(); }
  [[nodiscard]] bool empty() const { return places_.empty(); }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  /// Copies that were dropped, so far.
  [[nodiscard]] std::uint64_t dropped() const { return dropped_; }
  [[nodiscard]] const Places& places() const { return places_; }

  /// Whether a copy of this size would be kept now: others, worth less, may be dropped for it.
  [[nodiscard]] bool keeps(const Urgency& urgency, std::uint64_t bytes) const {
    std::uint64_t stay = bytes;
    for (const auto& [other, parked] : places_) {
      if (!(urgency < other)) stay += parked.state.size();
    }
    return stay <= budget_;
  }

  /// Precondition: no other one is parked with this urgency.
  void park(const Urgency& urgency, std::unique_ptr<T> value, std::vector<std::uint8_t> state) {
    if (!state.empty() && !keeps(urgency, state.size())) {
      ++dropped_;
      state = {};
    }
    for (auto place = places_.rbegin(); bytes_ + state.size() > budget_; ++place) {
      std::vector<std::uint8_t>& other = place->second.state;
      if (other.empty()) continue;
      bytes_ -= other.size();
      ++dropped_;
      other = {};
    }
    bytes_ += state.size();
    places_.emplace(urgency, Parked{std::move(value), std::move(state)});
  }

  /// Precondition: it is there.
  [[nodiscard]] Parked take(const Urgency& urgency) {
    auto place = places_.extract(urgency);
    bytes_ -= place.mapped().state.size();
    return std::move(place.mapped());
  }

 private:
  const std::uint64_t budget_;
  Places places_;
  std::uint64_t bytes_ = 0;  ///< of the states
  std::uint64_t dropped_ = 0;
};

}  // namespace weir::model
