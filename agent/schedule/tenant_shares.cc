// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/tenant_shares.h"

#include <algorithm>

namespace weir::schedule {

bool TenantShares::Order::before(std::size_t a, std::size_t b) const {
  const Tenant& x = (*tenants)[a];
  const Tenant& y = (*tenants)[b];
  if (x.counter != y.counter) return x.counter < y.counter;
  return *x.name < *y.name;  // any order would do, but it should not depend on the past
}

double TenantShares::weight(std::string_view name) const {
  const auto found = weights_->find(name);
  return found == weights_->end() ? 1.0 : found->second;
}

double TenantShares::floor() const {
  return waiting_.empty() ? last_left_ : tenants_[waiting_.top()].counter;
}

std::size_t TenantShares::add(std::string_view name) {
  std::size_t tenant = tenants_.size();
  if (free_.empty()) {
    tenants_.emplace_back();
  } else {
    tenant = free_.back();
    free_.pop_back();
  }
  const auto [entry, fresh] = by_name_.emplace(std::string(name), tenant);
  tenants_[tenant] = Tenant{};
  tenants_[tenant].name = &entry->first;
  tenants_[tenant].weight = weight(name);
  tenants_[tenant].counter = floor();
  tenants_[tenant].lifted_to = tenants_[tenant].counter;
  return tenant;
}

void TenantShares::forget(std::size_t tenant) {
  away_.remove(order(), tenant);
  by_name_.erase(by_name_.find(*tenants_[tenant].name));
  tenants_[tenant].name = nullptr;
  free_.push_back(tenant);
}

void TenantShares::forget_the_caught_up() {
  // Were one of these to come back, it would be lifted to the floor: nothing is lost.
  while (!away_.empty() &&
         (tenants_[away_.top()].counter <= floor() || away_.size() > kMostRemembered)) {
    forget(away_.top());
  }
}

std::size_t TenantShares::begin_waiting(std::string_view name) {
  const auto known = by_name_.find(name);
  const std::size_t tenant = known == by_name_.end() ? add(name) : known->second;
  Tenant& entry = tenants_[tenant];
  if (entry.waits) return tenant;
  if (known != by_name_.end()) away_.remove(order(), tenant);
  const double least = floor();
  entry.counter = std::max(entry.counter, least);
  entry.lifted_to = least;
  entry.waits = true;
  waiting_weight_ += entry.weight;
  waiting_.push(order(), tenant);
  return tenant;
}

void TenantShares::end_waiting(std::size_t tenant) {
  Tenant& entry = tenants_[tenant];
  waiting_.remove(order(), tenant);
  entry.waits = false;
  // Sums of many differences drift; that of nobody is 0.
  waiting_weight_ = waiting_.empty() ? 0 : waiting_weight_ - entry.weight;
  last_left_ = entry.counter;
  away_.push(order(), tenant);
  forget_the_caught_up();
}

void TenantShares::serve(std::size_t tenant, std::uint64_t tokens) {
  tenants_[tenant].counter += static_cast<double>(tokens) / tenants_[tenant].weight;
  waiting_.moved(order(), tenant);
  forget_the_caught_up();
}

void TenantShares::correct(std::string_view name, std::int64_t tokens) {
  const auto known = by_name_.find(name);
  if (known == by_name_.end() && tokens <= 0) return;  // forgotten: it was not ahead
  const std::size_t tenant = known == by_name_.end() ? add(name) : known->second;
  if (known == by_name_.end()) away_.push(order(), tenant);
  Tenant& entry = tenants_[tenant];
  entry.counter =
      std::max(entry.lifted_to, entry.counter + static_cast<double>(tokens) / entry.weight);
  (entry.waits ? waiting_ : away_).moved(order(), tenant);
  forget_the_caught_up();
}

std::optional<std::size_t> TenantShares::find_waiting(std::string_view name) const {
  const auto known = by_name_.find(name);
  if (known == by_name_.end() || !tenants_[known->second].waits) return std::nullopt;
  return known->second;
}

std::optional<double> TenantShares::counter(std::string_view name) const {
  const auto known = by_name_.find(name);
  if (known == by_name_.end()) return std::nullopt;
  return tenants_[known->second].counter;
}

}  // namespace weir::schedule
