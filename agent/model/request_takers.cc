// SPDX-License-Identifier: Apache-2.0
#include "agent/model/request_takers.h"

#include <algorithm>
#include <utility>

namespace weir::model {

RequestTakers::RequestTakers(std::size_t count, std::function<bool()> has_work)
    : has_work_(std::move(has_work)), takers_(count) {}

bool RequestTakers::any_busy() const {
  return std::any_of(takers_.begin(), takers_.end(), [](const Taker& one) { return one.busy; });
}

void RequestTakers::wake_one() {
  Taker* chosen = nullptr;
  for (Taker& taker : takers_) {
    if (!taker.waits || taker.woken) continue;
    if (chosen == nullptr || taker.held < chosen->held) chosen = &taker;
  }
  if (chosen == nullptr) return;  // whoever is busy looks by itself, before its next round
  chosen->woken = true;
  chosen->wake.notify_one();
}

void RequestTakers::poke(std::size_t taker) {
  takers_[taker].poked = true;
  takers_[taker].wake.notify_one();
}

void RequestTakers::poke_all() {
  for (std::size_t taker = 0; taker < takers_.size(); ++taker) poke(taker);
}

void RequestTakers::poke_holders() {
  for (std::size_t taker = 0; taker < takers_.size(); ++taker) {
    if (takers_[taker].held > 0) poke(taker);
  }
}

void RequestTakers::idle(std::size_t taker) { takers_[taker].busy = false; }

void RequestTakers::wait(std::unique_lock<std::mutex>& lock, std::size_t taker) {
  Taker& self = takers_[taker];
  self.waits = true;
  self.wake.wait(lock, [&] { return comes(self); });
  self.waits = self.woken = self.poked = false;
}

void RequestTakers::rest(std::unique_lock<std::mutex>& lock, std::size_t taker, Duration longest,
                         bool for_requests) {
  Taker& self = takers_[taker];
  self.waits = for_requests;
  self.wake.wait_for(lock, longest, [&] { return comes(self); });
  self.waits = self.woken = self.poked = false;
}

bool RequestTakers::comes(Taker& taker) const {
  if (taker.poked || (taker.waits && has_work_())) return true;
  taker.woken = false;  // the request has left already: the next one wakes anew
  return false;
}

std::size_t RequestTakers::share(std::size_t taker, std::size_t ready) const {
  const std::size_t each = (held_ + ready + takers_.size() - 1) / takers_.size();
  const std::size_t held = takers_[taker].held;
  return each > held ? each - held : 0;
}

std::size_t RequestTakers::claim(std::size_t taker, std::size_t ready, std::size_t most) {
  Taker& self = takers_[taker];
  const std::size_t fair = share(taker, ready);
  const bool stands_back = fair == 0 && most > 0 && ready > 0;
  const bool again = stands_back && self.stood_back;
  self.stood_back = stands_back && !again;
  return std::min(most, again ? 1 : fair);
}

void RequestTakers::took(std::size_t taker, std::size_t count) {
  takers_[taker].busy = true;
  takers_[taker].held += count;
  held_ += count;
}

void RequestTakers::gave_back(std::size_t taker, std::size_t count) {
  takers_[taker].held -= count;
  held_ -= count;
}

}  // namespace weir::model
