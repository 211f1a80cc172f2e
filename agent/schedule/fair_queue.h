// SPDX-License-Identifier: Apache-2.0
//
// The queue of waiting requests. The order: level, lower first; inside a level weighted fair shares
// of the tokens between tenants (tenant_shares.h); inside a tenant the earliest deadline, none
// last, then arrival. With one tenant that is level, deadline, arrival, exactly. When places get
// scarce, no tenant holds more than its share of them (tenant_rooms.h).
//
// Nothing starves. Whoever has waited `ageing` moves up one level, and on from there. Whoever has
// waited that long in level 0 as well is overdue: one of kOverdueEvery pops takes the one that is
// overdue longest, whatever else waits. So a value of level l, in a queue that never holds more
// than n, waits no longer than (l + 1) * ageing and then kOverdueEvery * n pops.
//
// A value may wait before it is ready: it has its place in the arrivals and counts for the bounds,
// can be removed and expires, and is not popped. Its age counts from its arrival all the same.
//
// push(), pop(), remove(), each expiry and each step of ageing are O(log n); nothing sweeps.
//
// Thread-compatible: the owner locks. Pure: time comes in as `now`, which must not go back. Owns
// its values. A refused push leaves the value with the caller and names the bound that was reached;
// a handle that is no longer valid removes nothing.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "agent/base/clock.h"
#include "agent/schedule/indexed_heap.h"
#include "agent/schedule/level.h"
#include "agent/schedule/queue_options.h"
#include "agent/schedule/tenant_rooms.h"
#include "agent/schedule/tenant_shares.h"

namespace weir::schedule {

/// What the place of a value depends on.
struct QueueKey {
  std::int32_t level = kDefaultLevel;  ///< 0..kLevels - 1
  std::optional<TimePoint> deadline;
  std::string_view tenant = "default";
  std::uint64_t tokens = 0;  ///< estimated; what its tenant is charged with when it is popped
};

template <typename T>
class FairQueue {
 public:
  /// Of every kOverdueEvery pops one goes to who is overdue longest, when anybody is.
  static constexpr std::uint32_t kOverdueEvery = 4;

  /// Names one queued value until it leaves; never names another one afterwards.
  struct Handle {
    std::size_t slot = 0;
    std::uint64_t arrival = 0;
  };

  struct Popped {
    T value;
    std::string tenant;
    std::int32_t level = 0;    ///< where it was taken from, and its tenant charged
    std::uint64_t tokens = 0;  ///< as it was pushed
    TimePoint pushed;
  };

  /// Precondition: valid options (queue_options.h).
  explicit FairQueue(QueueOptions options)
      : options_(std::move(options)), rooms_(options_.weights, options_.all.max_requests) {
    shares_.reserve(kLevels);
    for (std::int32_t level = 0; level < kLevels; ++level) {
      shares_.emplace_back(options_.weights);
    }
  }
  FairQueue(const FairQueue&) = delete;
  FairQueue& operator=(const FairQueue&) = delete;

  [[nodiscard]] std::size_t size() const { return all_.requests; }
  [[nodiscard]] bool empty() const { return all_.requests == 0; }
  [[nodiscard]] const QueueLoad& load() const { return all_; }
  [[nodiscard]] const QueueOptions& options() const { return options_; }

  /// How many of them pop() can give.
  [[nodiscard]] std::size_t ready() const { return ready_; }

  /// What is ready in a level now, those that moved up to it included.
  [[nodiscard]] const QueueLoad& load(std::int32_t level) const { return at_[index(level)]; }

  /// What would be served before a new value of this level, were all of one tenant and none had a
  /// deadline: the levels up to this one.
  [[nodiscard]] QueueLoad ahead(std::int32_t level) const {
    QueueLoad sum;
    for (std::int32_t above = 0; above <= level; ++above) {
      sum.requests += at_[index(above)].requests;
      sum.tokens += at_[index(above)].tokens;
    }
    return sum;
  }

  /// What would be served before a new value with this key for certain, or nearly so: the levels
  /// above, what its tenant has waiting with earlier deadlines, and what the other tenants of the
  /// level are served meanwhile. Looks at no more than kMostLooks values; what is behind those is
  /// left out.
  [[nodiscard]] QueueLoad surely_ahead(const QueueKey& key) const;

  /// The bound that a value of this level and size would break, whoever its tenant is; unset: there
  /// is room.
  [[nodiscard]] std::optional<QueueBound> full(std::int32_t level, std::uint64_t tokens) const {
    if (all_.requests >= options_.all.max_requests) return QueueBound::kRequests;
    if (exceeds(options_.all, all_, tokens)) return QueueBound::kTokens;
    const QueueBounds& bounds = options_.levels[index(level)];
    const QueueLoad& home = home_[index(level)];
    if (home.requests >= bounds.max_requests) return QueueBound::kLevelRequests;
    if (exceeds(bounds, home, tokens)) return QueueBound::kLevelTokens;
    return std::nullopt;
  }

  /// A bound: it has been reached and `value` is untouched.
  [[nodiscard]] std::variant<Handle, QueueBound> push(TimePoint now, const QueueKey& key,
                                                      T&& value) {
    const auto pushed = push_unready(now, key, std::move(value));
    if (const auto* handle = std::get_if<Handle>(&pushed)) make_ready(now, *handle, key.tokens);
    return pushed;
  }

  /// The same for one that is not popped before make_ready().
  [[nodiscard]] std::variant<Handle, QueueBound> push_unready(TimePoint now, const QueueKey& key,
                                                              T&& value) {
    age(now);
    if (const auto bound = full(key.level, key.tokens)) {
      if (*bound == QueueBound::kRequests) rooms_.refused(now, key.tenant);
      return *bound;
    }
    if (rooms_.exceeds(now, key.tenant, all_.requests)) return QueueBound::kTenantRequests;
    const std::size_t slot = take_slot();
    Slot& entry = slots_[slot];
    entry.room = rooms_.enter(key.tenant);
    entry.home = entry.level = key.level;
    entry.deadline = key.deadline;
    entry.tokens = key.tokens;
    entry.arrival = next_arrival_++;
    entry.pushed = now;
    entry.ready = entry.overdue = false;
    entry.unready_tenant = key.tenant;
    entry.value.emplace(std::move(value));
    count(home_[index(key.level)], entry, +1);
    count(all_, entry, +1);
    if (entry.deadline) deadlines_.push(ByDeadline{&slots_}, slot);
    link_newest(slot);
    return Handle{slot, entry.arrival};
  }

  /// From now on the named value, which was not ready, can be popped, and has `tokens`: they may be
  /// more than a bound allows, it has its place already. Nothing happens when it has left.
  void make_ready(TimePoint now, Handle handle, std::uint64_t tokens) {
    if (find(handle) == nullptr) return;
    Slot& entry = slots_[handle.slot];
    for (QueueLoad* load : {&home_[index(entry.home)], &all_}) {
      load->tokens = load->tokens - entry.tokens + tokens;
    }
    entry.tokens = tokens;
    entry.ready = true;
    ++ready_;
    if (options_.ageing) {
      entry.due = entry.pushed + *options_.ageing;
      ageing_.push(ByDue{&slots_}, handle.slot);
    }
    enter_level(handle.slot, std::exchange(entry.unready_tenant, {}));
    age(now);
  }

  /// The named value; null when it has left already. Valid until the next change.
  [[nodiscard]] T* find(Handle handle) {
    if (handle.slot >= slots_.size()) return nullptr;
    Slot& entry = slots_[handle.slot];
    return entry.value.has_value() && entry.arrival == handle.arrival ? &*entry.value : nullptr;
  }

  /// All that are not ready, the oldest first.
  [[nodiscard]] std::vector<Handle> unready() const {
    std::vector<Handle> handles;
    for (std::size_t slot = oldest_; slot != kNone; slot = slots_[slot].newer) {
      if (!slots_[slot].ready) handles.push_back({slot, slots_[slot].arrival});
    }
    return handles;
  }

  /// The first in the order; unset when nothing is ready. Its tenant is charged with its tokens.
  [[nodiscard]] std::optional<Popped> pop(TimePoint now) {
    if (ready_ == 0) return std::nullopt;
    age(now);
    const std::size_t slot = first();
    Slot& entry = slots_[slot];
    TenantShares& shares = shares_[index(entry.level)];
    Popped popped{std::move(*entry.value), shares.name(entry.tenant), entry.level, entry.tokens,
                  entry.pushed};
    shares.serve(entry.tenant, entry.tokens);
    leave(slot);
    return popped;
  }

  /// The named value; unset when it has left already.
  [[nodiscard]] std::optional<T> remove(Handle handle) {
    if (find(handle) == nullptr) return std::nullopt;
    return take(handle.slot);
  }

  /// All whose deadline is not after `now`, the earliest first.
  [[nodiscard]] std::vector<T> expire(TimePoint now) {
    std::vector<T> expired;
    while (!deadlines_.empty() && *slots_[deadlines_.top()].deadline <= now) {
      expired.push_back(take(deadlines_.top()));
    }
    return expired;
  }

  /// Everything, the oldest first.
  [[nodiscard]] std::vector<T> take_all() {
    std::vector<T> all;
    all.reserve(size());
    while (oldest_ != kNone) all.push_back(take(oldest_));
    return all;
  }

  /// When expire() has something to give next; unset: nothing that waits has a deadline.
  [[nodiscard]] std::optional<TimePoint> next_event() const {
    if (deadlines_.empty()) return std::nullopt;
    return slots_[deadlines_.top()].deadline;
  }

  /// When the one that waits longest came; unset when empty.
  [[nodiscard]] std::optional<TimePoint> oldest() const {
    if (oldest_ == kNone) return std::nullopt;
    return slots_[oldest_].pushed;
  }

  /// Corrects what was charged by pop(): a positive number is tokens served beyond the estimate, a
  /// negative one what the estimate was too high by. `level` as in Popped.
  void charge(std::string_view tenant, std::int32_t level, std::int64_t tokens) {
    shares_[index(level)].correct(tenant, tokens);
  }

  /// Moves up who has waited long enough; push() and pop() do it themselves.
  void age(TimePoint now) {
    while (!ageing_.empty() && slots_[ageing_.top()].due <= now) {
      const std::size_t slot = ageing_.top();
      Slot& entry = slots_[slot];
      ageing_.remove(ByDue{&slots_}, slot);
      if (entry.level == 0) {
        entry.overdue = true;
        overdue_.push(ByDue{&slots_}, slot);
        continue;
      }
      const std::string tenant = shares_[index(entry.level)].name(entry.tenant);
      leave_level(slot);
      --entry.level;
      ++promoted_;
      enter_level(slot, tenant);
      // From when it was due, not from now: the bound must not depend on how often we look.
      entry.due += *options_.ageing;
      ageing_.push(ByDue{&slots_}, slot);
    }
  }

  /// Steps up so far, of all values.
  [[nodiscard]] std::uint64_t promoted() const { return promoted_; }
  [[nodiscard]] std::size_t overdue() const { return overdue_.size(); }

 private:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  static constexpr std::size_t kMostLooks = 512;

  struct Slot {
    std::optional<T> value;  ///< unset: the slot is free
    std::int32_t home = 0;   ///< level that it was pushed with, whose bounds it counts for
    std::int32_t level = 0;  ///< where it stands
    std::optional<TimePoint> deadline;
    std::uint64_t tokens = 0;
    std::uint64_t arrival = 0;
    TimePoint pushed;
    bool ready = false;          ///< in the heap of its tenant, and in ageing_ or overdue_
    std::string unready_tenant;  ///< until it is ready
    TimePoint due;               ///< next step of ageing; since when it is overdue
    bool overdue = false;        ///< in overdue_ instead of ageing_
    std::size_t tenant = 0;      ///< number in the shares of its level
    TenantRooms::Holder room = nullptr;
    std::size_t older = kNone, newer = kNone;  ///< list by arrival
    // Places in the heaps.
    std::size_t in_tenant = 0, in_deadlines = 0, in_ageing = 0;
  };
  using Slots = std::vector<Slot>;

  /// What one tenant has waiting in one level.
  struct TenantQueue {
    IndexedHeap heap;
    QueueLoad load;
  };

  struct ByDeadlineThenArrival {
    Slots* slots;
    [[nodiscard]] bool before(std::size_t a, std::size_t b) const {
      const TimePoint x = (*slots)[a].deadline.value_or(TimePoint::max());
      const TimePoint y = (*slots)[b].deadline.value_or(TimePoint::max());
      return x != y ? x < y : (*slots)[a].arrival < (*slots)[b].arrival;
    }
    [[nodiscard]] std::size_t& place(std::size_t slot) const { return (*slots)[slot].in_tenant; }
  };
  struct ByDeadline : ByDeadlineThenArrival {
    [[nodiscard]] std::size_t& place(std::size_t slot) const {
      return (*this->slots)[slot].in_deadlines;
    }
  };
  struct ByDue {
    Slots* slots;
    [[nodiscard]] bool before(std::size_t a, std::size_t b) const {
      const Slot& x = (*slots)[a];
      const Slot& y = (*slots)[b];
      return x.due != y.due ? x.due < y.due : x.arrival < y.arrival;
    }
    [[nodiscard]] std::size_t& place(std::size_t slot) const { return (*slots)[slot].in_ageing; }
  };

  static std::size_t index(std::int32_t level) { return static_cast<std::size_t>(level); }

  static bool exceeds(const QueueBounds& bounds, const QueueLoad& load, std::uint64_t tokens) {
    return load.tokens > bounds.max_tokens || tokens > bounds.max_tokens - load.tokens;
  }

  static void count(QueueLoad& load, const Slot& entry, int sign) {
    if (sign > 0) {
      ++load.requests;
      load.tokens += entry.tokens;
    } else {
      --load.requests;
      load.tokens -= entry.tokens;
    }
  }

  /// Whose turn it is. Precondition: something is ready, all is aged.
  std::size_t first() {
    turn_ = std::min(turn_ + 1, kOverdueEvery);
    if (turn_ == kOverdueEvery && !overdue_.empty()) {
      turn_ = 0;
      return overdue_.top();
    }
    std::size_t level = 0;
    while (!shares_[level].anyone_waits()) ++level;
    return queues_[level][shares_[level].next()].heap.top();
  }

  void enter_level(std::size_t slot, std::string_view tenant) {
    Slot& entry = slots_[slot];
    const std::size_t level = index(entry.level);
    entry.tenant = shares_[level].begin_waiting(tenant);
    if (queues_[level].size() <= entry.tenant) queues_[level].resize(entry.tenant + 1);
    TenantQueue& queue = queues_[level][entry.tenant];
    queue.heap.push(ByDeadlineThenArrival{&slots_}, slot);
    count(queue.load, entry, +1);
    count(at_[level], entry, +1);
  }

  void leave_level(std::size_t slot) {
    Slot& entry = slots_[slot];
    const std::size_t level = index(entry.level);
    TenantQueue& queue = queues_[level][entry.tenant];
    queue.heap.remove(ByDeadlineThenArrival{&slots_}, slot);
    count(queue.load, entry, -1);
    count(at_[level], entry, -1);
    if (queue.heap.empty()) shares_[level].end_waiting(entry.tenant);
  }

  void leave(std::size_t slot) {
    Slot& entry = slots_[slot];
    if (entry.ready) {
      leave_level(slot);
      if (options_.ageing) (entry.overdue ? overdue_ : ageing_).remove(ByDue{&slots_}, slot);
      --ready_;
    }
    if (entry.deadline) deadlines_.remove(ByDeadline{&slots_}, slot);
    count(home_[index(entry.home)], entry, -1);
    count(all_, entry, -1);
    rooms_.leave(entry.room);
    unlink(slot);
    entry.value.reset();
    free_.push_back(slot);
  }

  T take(std::size_t slot) {
    T value = std::move(*slots_[slot].value);
    leave(slot);
    return value;
  }

  std::size_t take_slot() {
    if (!free_.empty()) {
      const std::size_t slot = free_.back();
      free_.pop_back();
      return slot;
    }
    slots_.emplace_back();
    return slots_.size() - 1;
  }

  void link_newest(std::size_t slot) {
    slots_[slot].older = newest_;
    slots_[slot].newer = kNone;
    (newest_ == kNone ? oldest_ : slots_[newest_].newer) = slot;
    newest_ = slot;
  }

  void unlink(std::size_t slot) {
    const Slot& entry = slots_[slot];
    (entry.older == kNone ? oldest_ : slots_[entry.older].newer) = entry.newer;
    (entry.newer == kNone ? newest_ : slots_[entry.newer].older) = entry.older;
  }

  const QueueOptions options_;
  std::uint64_t next_arrival_ = 0;
  Slots slots_;                    ///< stable numbers; grows to the high-water mark
  std::vector<std::size_t> free_;  ///< slots without a value
  std::size_t oldest_ = kNone, newest_ = kNone;
  std::vector<TenantShares> shares_;                      ///< by level
  std::array<std::vector<TenantQueue>, kLevels> queues_;  ///< by level and number of the tenant
  std::array<QueueLoad, kLevels> at_{};                   ///< by the level where they stand
  std::array<QueueLoad, kLevels> home_{};                 ///< by the level they were pushed with
  QueueLoad all_;
  std::size_t ready_ = 0;  ///< of these
  TenantRooms rooms_;
  IndexedHeap deadlines_;
  IndexedHeap ageing_;
  IndexedHeap overdue_;
  std::uint32_t turn_ = 0;  ///< pops since an overdue one was preferred
  std::uint64_t promoted_ = 0;
};

template <typename T>
QueueLoad FairQueue<T>::surely_ahead(const QueueKey& key) const {
  QueueLoad sum = key.level > 0 ? ahead(key.level - 1) : QueueLoad{};
  const std::size_t level = index(key.level);
  const auto tenant = shares_[level].find_waiting(key.tenant);
  if (!tenant) return sum;
  const TimePoint deadline = key.deadline.value_or(TimePoint::max());
  const auto& [heap, waiting] = queues_[level][*tenant];
  QueueLoad own;
  // Whatever is below a value in the heap comes after it.
  std::vector<std::size_t> places{0};
  for (std::size_t looks = 0; !places.empty() && looks < kMostLooks; ++looks) {
    const std::size_t place = places.back();
    places.pop_back();
    if (place >= heap.size()) continue;
    const Slot& entry = slots_[heap.at(place)];
    if (entry.deadline.value_or(TimePoint::max()) > deadline) continue;
    count(own, entry, +1);
    places.push_back(2 * place + 1);
    places.push_back(2 * place + 2);
  }
  // While `own` is served, the others of the level get their shares, as far as they have use for
  // them.
  const double weight = shares_[level].weight(key.tenant);
  const double others_weight = std::max(0.0, shares_[level].waiting_weight() - weight);
  const auto others_tokens = static_cast<double>(at_[level].tokens - waiting.tokens);
  const double meanwhile =
      std::min(others_tokens, static_cast<double>(own.tokens) * others_weight / weight);
  sum.requests += own.requests;
  sum.tokens += own.tokens + static_cast<std::uint64_t>(meanwhile);
  return sum;
}

}  // namespace weir::schedule
