// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/tenant_rooms.h"

#include <algorithm>

namespace weir::schedule {

double TenantRooms::weight(std::string_view tenant) const {
  const auto found = weights_->find(tenant);
  return found == weights_->end() ? 1.0 : found->second;
}

TenantRooms::Holder TenantRooms::room(std::string_view tenant) {
  auto found = rooms_.find(tenant);
  if (found == rooms_.end()) {
    found = rooms_.emplace(std::string(tenant), Room{}).first;
    found->second.weight = weight(tenant);
    weights_of_rooms_ += found->second.weight;
  }
  return &*found;
}

void TenantRooms::drop_if_unused(Holder holder) {
  if (holder->second.waiting > 0 || holder->second.refused) return;
  weights_of_rooms_ -= holder->second.weight;
  rooms_.erase(rooms_.find(holder->first));
  if (rooms_.empty()) weights_of_rooms_ = 0;  // sums of many differences drift
}

void TenantRooms::forget_oldest_refusal() {
  const Holder holder = refused_.front().holder;
  refused_.pop_front();
  holder->second.refused.reset();
  drop_if_unused(holder);
}

bool TenantRooms::exceeds(TimePoint now, std::string_view tenant, std::size_t taken) {
  while (!refused_.empty() && refused_.front().at + kWants <= now) forget_oldest_refusal();
  if (taken < places_ - places_ / 2) return false;
  const auto found = rooms_.find(tenant);
  if (found == rooms_.end()) return false;  // it holds none
  const Room& own = found->second;
  const double share = static_cast<double>(places_) * own.weight / weights_of_rooms_;
  return static_cast<double>(own.waiting) >= std::max(1.0, share);
}

void TenantRooms::refused(TimePoint now, std::string_view tenant) {
  const Holder holder = room(tenant);
  if (holder->second.refused) refused_.erase(*holder->second.refused);
  holder->second.refused = refused_.insert(refused_.end(), {now, holder});
  if (refused_.size() > kMostRefused) forget_oldest_refusal();
}

TenantRooms::Holder TenantRooms::enter(std::string_view tenant) {
  const Holder holder = room(tenant);
  ++holder->second.waiting;
  return holder;
}

void TenantRooms::leave(Holder holder) {
  --holder->second.waiting;
  drop_if_unused(holder);
}

}  // namespace weir::schedule
