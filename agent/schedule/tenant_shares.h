// SPDX-License-Identifier: Apache-2.0
//
// Weighted fair sharing between the tenants of one level, by tokens served: the virtual token
// counter of "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024). Each tenant has
// a counter of tokens served, divided by its weight; the next to be served is the waiting tenant
// whose counter is least. A tenant that begins to wait is lifted to the least of those that wait
// already: the time that it was away is no credit.
//
// Thread-compatible: the owner locks. Cannot fail. All operations are O(log tenants). Tenants that
// neither wait nor are ahead of the others are forgotten, so that the names that ever came are no
// bound on memory; of those that are ahead kMostRemembered are known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "agent/schedule/indexed_heap.h"

namespace weir::schedule {

using TenantWeights = std::map<std::string, double, std::less<>>;

class TenantShares {
 public:
  static constexpr std::size_t kMostRemembered = 4096;

  /// `weights` must outlive this; > 0; tenants that are not in it have weight 1.
  explicit TenantShares(const TenantWeights& weights) : weights_(&weights) {}

  /// Number of the tenant, which waits from now on; valid while it waits. Repeating is harmless.
  std::size_t begin_waiting(std::string_view name);

  /// Nothing of this tenant waits any more. Precondition: it waits.
  void end_waiting(std::size_t tenant);

  [[nodiscard]] bool anyone_waits() const { return !waiting_.empty(); }
  /// Whose turn it is. Precondition: anyone_waits().
  [[nodiscard]] std::size_t next() const { return waiting_.top(); }

  /// Tokens served to a waiting tenant.
  void serve(std::size_t tenant, std::uint64_t tokens);

  /// Corrects what was served: `tokens` more, or less, than was said. Never takes a tenant below
  /// where it was lifted to: a correction from before that is no credit either.
  void correct(std::string_view name, std::int64_t tokens);

  [[nodiscard]] const std::string& name(std::size_t tenant) const { return *tenants_[tenant].name; }
  [[nodiscard]] double weight(std::string_view name) const;
  /// Of all tenants that wait.
  [[nodiscard]] double waiting_weight() const { return waiting_weight_; }
  /// The number of a tenant that waits.
  [[nodiscard]] std::optional<std::size_t> find_waiting(std::string_view name) const;
  /// Unset: not remembered.
  [[nodiscard]] std::optional<double> counter(std::string_view name) const;
  /// Waiting ones included.
  [[nodiscard]] std::size_t remembered() const { return by_name_.size(); }

 private:
  struct Tenant {
    const std::string* name = nullptr;  ///< key in by_name_; null: the number is free
    double weight = 1;
    double counter = 0;
    double lifted_to = 0;
    bool waits = false;
    std::size_t place = 0;  ///< in waiting_ or away_
  };
  struct Order {
    std::vector<Tenant>* tenants;
    [[nodiscard]] bool before(std::size_t a, std::size_t b) const;
    [[nodiscard]] std::size_t& place(std::size_t tenant) const { return (*tenants)[tenant].place; }
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view name) const {
      return std::hash<std::string_view>{}(name);
    }
  };

  [[nodiscard]] Order order() { return {&tenants_}; }
  /// The least counter that a tenant may begin to wait with.
  [[nodiscard]] double floor() const;
  std::size_t add(std::string_view name);
  void forget(std::size_t tenant);
  void forget_the_caught_up();

  const TenantWeights* weights_;
  std::unordered_map<std::string, std::size_t, Hash, std::equal_to<>> by_name_;
  std::vector<Tenant> tenants_;
  std::vector<std::size_t> free_;
  IndexedHeap waiting_;
  IndexedHeap away_;  ///< remembered, because they are ahead of the others
  double waiting_weight_ = 0;
  double last_left_ = 0;  ///< counter of the last that ended waiting
};

}  // namespace weir::schedule
