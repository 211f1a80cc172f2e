// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/upgrade_carry.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <string_view>
#include <utility>

#include "agent/kernel/decode.h"
#include "bpf/lib/breaker.bpf.h"

namespace weir::kernel {
namespace {

using Rules = std::map<std::string_view, CarryRule>;

const Rules& backend_rules() {
  using enum CarryRule;
  static const Rules rules = {
      {"address.ip", kOwned},
      {"address.port", kOwned},
      {"address.protocol", kOwned},
      {"pool", kOwned},
      {"state", kRebuilt},
      {"weight_q16", kOwned},
      {"latency_us", kOwned},
      {"is_local", kOwned},
      {"since_ns", kOwned},
      {"breaker", kWord},
      {"in_flight", kGauge},
      {"fresh", kGauge},
      {"waiting", kGauge},
      {"streaming", kGauge},
      {"consecutive_failures", kWord},
      {"min_rtt_us", kLeast},
      {"connects", kCounter},
      {"established", kCounter},
      {"requests", kCounter},
      {"connect_failures", kCounter},
      {"refused", kCounter},
      {"timed_out", kCounter},
      {"resets", kCounter},
      {"direct", kCounter},
      {"adopted", kCounter},
      {"mux", kCounter},
      {"closes", kCounter},
      {"bytes_sent", kCounter},
      {"bytes_received", kCounter},
      {"retransmits", kCounter},
      {"rtos", kCounter},
      {"interim", kCounter},
      {"breaker_opens", kCounter},
      {"last_failure_ns", kLatest},
      {"idle_ended", kCounter},
  };
  return rules;
}

const Rules& pool_rules() {
  using enum CarryRule;
  static const Rules rules = {
      {"table", kRebuilt},      {"flags", kOwned},
      {"policy", kOwned},       {"rif_limit", kOwned},
      {"members", kRebuilt},    {"backup", kOwned},
      {"in_use", kOwned},       {"address.ip", kOwned},
      {"address.port", kOwned}, {"address.protocol", kOwned},
      {"name", kOwned},         {"open", kRebuilt},
      {"seed", kOwned},         {"turn", kCounter},
      {"picks", kCounter},      {"misses", kCounter},
      {"panics", kCounter},     {"backups", kCounter},
  };
  return rules;
}

std::optional<CarryRule> rule_in(const Rules& rules, const std::string& field) {
  const auto found = rules.find(field);
  if (found == rules.end()) return std::nullopt;
  return found->second;
}

template <typename T>
T& at(std::byte* record, std::uint32_t offset) {
  return *reinterpret_cast<T*>(record + offset);
}

/// What a gauge counts: its distance from the nearest multiple of the bias.
std::int32_t counted(std::uint32_t gauge) {
  constexpr std::uint32_t kHalf = kGaugeBias / 2;
  return static_cast<std::int32_t>((gauge + kHalf) % kGaugeBias) - static_cast<std::int32_t>(kHalf);
}

/// Puts a gauge on top of `base`. Returns false when what it counts is negative and had to be left
/// out, base being 0.
bool rebase(std::uint32_t& gauge, std::uint32_t base) {
  std::uint32_t before = __atomic_load_n(&gauge, __ATOMIC_RELAXED);
  for (;;) {
    const std::int32_t value = counted(before);
    const bool negative = base == 0 && value < 0;
    const std::uint32_t after = negative ? 0 : base + static_cast<std::uint32_t>(value);
    if (after == before) return true;
    if (__atomic_compare_exchange_n(&gauge, &before, after, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return !negative;
    }
  }
}

template <typename T>
void move_counter(T& from, T& to) {
  const T value = __atomic_exchange_n(&from, T{0}, __ATOMIC_RELAXED);
  if (value != 0) __atomic_fetch_add(&to, value, __ATOMIC_RELAXED);
}

void move_gauge(std::uint32_t& from, std::uint32_t& to) {
  const std::int32_t value = counted(__atomic_exchange_n(&from, kGaugeBias, __ATOMIC_RELAXED));
  if (value != 0) __atomic_fetch_add(&to, static_cast<std::uint32_t>(value), __ATOMIC_RELAXED);
}

/// `last`: what was carried before. If the new side has changed it since, that is the later news.
/// Returns whether it was carried.
template <typename T>
bool carry_word(T& from, T& to, T& last) {
  const T now = __atomic_load_n(&from, __ATOMIC_RELAXED);
  T expected = std::exchange(last, now);
  return now != expected && __atomic_compare_exchange_n(&to, &expected, now, false,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

template <typename T, typename IsBetter>
void carry_extreme(T& from, T& to, IsBetter is_better) {
  const T value = __atomic_load_n(&from, __ATOMIC_RELAXED);
  T now = __atomic_load_n(&to, __ATOMIC_RELAXED);
  while (
      value != 0 && (now == 0 || is_better(value, now)) &&
      !__atomic_compare_exchange_n(&to, &now, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

std::size_t count(const RecordMemory& memory) { return memory.bytes.size() / memory.stride; }

std::byte* record(const RecordMemory& memory, std::size_t i) {
  return memory.bytes.data() + i * memory.stride;
}

const FieldMatch* find(const std::vector<FieldMatch>& fields, std::string_view name) {
  const auto found = std::find_if(fields.begin(), fields.end(),
                                  [&](const FieldMatch& field) { return field.name == name; });
  return found == fields.end() ? nullptr : &*found;
}

bool is_closed(std::uint64_t breaker) {
  return weir_breaker_state_of(breaker) == WEIR_BREAKER_CLOSED;
}

/// Without these a record says nothing.
Status need(const std::vector<FieldMatch>& fields, const char* map,
            std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (find(fields, name) != nullptr) continue;
    return make_error(Code::kUnsupported,
                      std::string(map) + ": field " + std::string(name) + " is not there");
  }
  return {};
}

template <typename Visit>
void each_gauge(std::span<weir_be> backends, Visit visit) {
  for (weir_be& backend : backends) {
    if (backend.state == WEIR_BE_FREE) continue;
    for (weir_u32* gauge :
         {&backend.in_flight, &backend.fresh, &backend.waiting, &backend.streaming}) {
      visit(*gauge);
    }
  }
}

/// Moves one field that is counted. Offsets are those of naturally aligned integers.
void move_counted(CarryRule rule, const FieldMatch& field, std::byte* from, std::byte* to) {
  const bool is_long = field.bytes == sizeof(std::uint64_t);
  if (rule == CarryRule::kGauge) {
    move_gauge(at<std::uint32_t>(from, field.from), at<std::uint32_t>(to, field.to));
  } else if (rule == CarryRule::kCounter && is_long) {
    move_counter(at<std::uint64_t>(from, field.from), at<std::uint64_t>(to, field.to));
  } else if (rule == CarryRule::kCounter) {
    move_counter(at<std::uint32_t>(from, field.from), at<std::uint32_t>(to, field.to));
  } else if (rule == CarryRule::kLeast) {
    carry_extreme(at<std::uint32_t>(from, field.from), at<std::uint32_t>(to, field.to),
                  std::less<>());
  } else if (rule == CarryRule::kLatest) {
    carry_extreme(at<std::uint64_t>(from, field.from), at<std::uint64_t>(to, field.to),
                  std::greater<>());
  }
}

}  // namespace

std::optional<CarryRule> backend_rule(const std::string& field) {
  return rule_in(backend_rules(), field);
}

std::optional<CarryRule> pool_rule(const std::string& field) {
  return rule_in(pool_rules(), field);
}

Result<UpgradeCarry> UpgradeCarry::create(Options options) {
  auto backends = match_fields(options.backend_layout, options.our_backend_layout);
  if (!backends) return std::move(backends).error().context(WEIR_MAP_BE);
  auto pools = match_fields(options.pool_layout, options.our_pool_layout);
  if (!pools) return std::move(pools).error().context(WEIR_MAP_POOL);
  if (Status done = need(*backends, WEIR_MAP_BE, {"address.ip", "address.port", "pool", "state"});
      !done) {
    return std::move(done).error();
  }
  if (Status done = need(*pools, WEIR_MAP_POOL, {"address.ip", "address.port", "name", "in_use"});
      !done) {
    return std::move(done).error();
  }
  if (count(options.from_backends) > options.backends.size() ||
      count(options.from_pools) > options.pools.size()) {
    return make_error(Code::kUnsupported, "there are more records than this build has room for");
  }
  UpgradeCarry carry(std::move(options));
  carry.backend_fields_ = std::move(*backends);
  carry.pool_fields_ = std::move(*pools);
  carry.last_words_.resize(count(carry.options_.from_backends));
  return carry;
}

void UpgradeCarry::copy_owned() {
  const auto copy = [](const std::vector<FieldMatch>& fields, const auto& rule,
                       const std::byte* from, std::byte* to) {
    for (const FieldMatch& field : fields) {
      if (rule(field.name) == CarryRule::kOwned) {
        std::memcpy(to + field.to, from + field.from, field.bytes);
      }
    }
  };
  for (std::size_t i = 0; i < count(options_.from_backends); ++i) {
    std::byte* const from = record(options_.from_backends, i);
    weir_be& to = options_.backends[i];
    copy(backend_fields_, backend_rule, from, reinterpret_cast<std::byte*>(&to));
    // Versions number the states differently, but for this one; the configuration says which it is.
    const FieldMatch& state = *find(backend_fields_, "state");
    const bool is_free = at<std::uint32_t>(from, state.from) == WEIR_BE_FREE;
    to.state = is_free ? WEIR_BE_FREE : WEIR_BE_ACTIVE;
  }
  carry_words();
  const std::size_t slots_per_pool = 2 * options_.backends.size();
  for (std::size_t i = 0; i < count(options_.from_pools); ++i) {
    weir_pool& to = options_.pools[i];
    to.backup = WEIR_NO_POOL;
    copy(pool_fields_, pool_rule, record(options_.from_pools, i),
         reinterpret_cast<std::byte*>(&to));
    to.table = i * slots_per_pool;  // no slots yet
  }
}

bool UpgradeCarry::carries(std::size_t backend) const {
  if (backend >= count(options_.from_backends)) return false;
  const FieldMatch& state = *find(backend_fields_, "state");
  return at<std::uint32_t>(record(options_.from_backends, backend), state.from) != WEIR_BE_FREE;
}

void UpgradeCarry::raise_gauges() const {
  if (!options_.sockets_kept) return;
  each_gauge(options_.backends, [](weir_u32& gauge) { rebase(gauge, kGaugeBias); });
}

void UpgradeCarry::transfer() {
  const auto move = [this](const std::vector<FieldMatch>& fields, const auto& rule, std::byte* from,
                           std::byte* to) {
    for (const FieldMatch& field : fields) {
      const CarryRule how = *rule(field.name);
      if (how == CarryRule::kGauge && !options_.sockets_kept) continue;
      move_counted(how, field, from, to);
    }
  };
  carry_words();
  for (std::size_t i = 0; i < count(options_.from_backends); ++i) {
    if (!carries(i)) continue;
    move(backend_fields_, backend_rule, record(options_.from_backends, i),
         reinterpret_cast<std::byte*>(&options_.backends[i]));
  }
  const FieldMatch& in_use = *find(pool_fields_, "in_use");
  for (std::size_t i = 0; i < count(options_.from_pools); ++i) {
    if (at<std::uint32_t>(record(options_.from_pools, i), in_use.from) == 0) continue;
    move(pool_fields_, pool_rule, record(options_.from_pools, i),
         reinterpret_cast<std::byte*>(&options_.pools[i]));
  }
}

void UpgradeCarry::carry_words() {
  const FieldMatch* const breaker = find(backend_fields_, "breaker");
  const FieldMatch* const failures = find(backend_fields_, "consecutive_failures");
  for (std::size_t i = 0; i < count(options_.from_backends); ++i) {
    std::byte* const from = record(options_.from_backends, i);
    weir_be& to = options_.backends[i];
    LastWords& last = last_words_[i];
    if (!carries(i)) continue;
    if (failures != nullptr) {
      carry_word(at<std::uint32_t>(from, failures->from), to.consecutive_failures,
                 last.consecutive_failures);
    }
    if (breaker == nullptr) continue;
    const bool was_closed = is_closed(last.breaker);
    const bool carried =
        carry_word(at<std::uint64_t>(from, breaker->from), to.breaker, last.breaker);
    if (!carried || was_closed == is_closed(last.breaker)) continue;
    const weir_u32 change = was_closed ? 1 : ~weir_u32{0};
    if (weir_is_member(&to) && to.pool < options_.pools.size()) {
      __atomic_fetch_add(&options_.pools[to.pool].open, change, __ATOMIC_RELAXED);
    }
  }
}

std::size_t UpgradeCarry::lower_gauges() const {
  std::size_t negative = 0;
  each_gauge(options_.backends, [&](weir_u32& gauge) {
    if (!rebase(gauge, 0)) ++negative;
  });
  return negative;
}

void lower_gauges(std::span<weir_be> backends) {
  each_gauge(backends, [](weir_u32& gauge) {
    if (gauge >= kGaugeBias / 2) rebase(gauge, 0);
  });
}

}  // namespace weir::kernel
