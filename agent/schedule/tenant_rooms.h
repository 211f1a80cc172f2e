// SPDX-License-Identifier: Apache-2.0
//
// Whose turn it is to wait: keeps a tenant that asks for much from filling the queue, so that those
// who ask for their share find a place. Fair serving alone cannot: it chooses among those that
// wait.
//
// While less than half of the places are taken anybody may have any. Beyond that a tenant holds no
// more than its share by weight of all places, at least one, among the tenants that wait or have
// found the queue full in the last kWants. A tenant alone may fill the queue.
//
// Thread-compatible: the owner locks. Pure: time comes in as `now`. Cannot fail. O(1), but for the
// names that are forgotten, each once. Bounded: kMostRefused names that do not wait are known.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "agent/base/clock.h"
#include "agent/schedule/tenant_shares.h"

namespace weir::schedule {

class TenantRooms {
 public:
  static constexpr Duration kWants = std::chrono::seconds(1);
  static constexpr std::size_t kMostRefused = 1024;

  struct Room;
  /// Names a tenant's room while something of it waits.
  using Holder = std::pair<const std::string, Room>*;
  struct Refused {
    TimePoint at;
    Holder holder;
  };
  struct Room {
    std::size_t waiting = 0;
    double weight = 1;
    std::optional<std::list<Refused>::iterator> refused;
  };

  /// `weights` must outlive this. `places`: of the whole queue.
  TenantRooms(const TenantWeights& weights, std::size_t places)
      : weights_(&weights), places_(places) {}

  /// Whether one more of this tenant would take room from others, with `taken` places taken.
  [[nodiscard]] bool exceeds(TimePoint now, std::string_view tenant, std::size_t taken);

  /// It found every place taken.
  void refused(TimePoint now, std::string_view tenant);

  Holder enter(std::string_view tenant);
  void leave(Holder holder);

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view name) const {
      return std::hash<std::string_view>{}(name);
    }
  };
  Holder room(std::string_view tenant);
  void forget_oldest_refusal();
  void drop_if_unused(Holder holder);
  [[nodiscard]] double weight(std::string_view tenant) const;

  const TenantWeights* weights_;
  std::size_t places_;
  // Node-based: holders stay valid.
  std::unordered_map<std::string, Room, Hash, std::equal_to<>> rooms_;
  double weights_of_rooms_ = 0;
  std::list<Refused> refused_;  ///< the last refusal of each, the oldest first
};

}  // namespace weir::schedule
