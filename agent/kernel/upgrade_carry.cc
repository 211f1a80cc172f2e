// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/upgrade_carry.h"

#include <algorithm>
#include <cstring>
#include <functional>
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
      {"generation", kOwned},
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
      {"seed", kOwned},         {"first", kRebuilt},
      {"turn", kCounter},       {"picks", kCounter},
      {"misses", kCounter},     {"panics", kCounter},
      {"backups", kCounter},
  };
  return rules;
}

std::optional<CarryRule> rule_in(const Rules& rules, const std::string& field) {
  const auto found = rules.find(field);
  if (found == rules.end()) return std::nullopt;
  return found->second;
}

template <typename T>
T& at(std::byte* value) {
  return *reinterpret_cast<T*>(value);
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

/// Without its fields a record says nothing.
Error missing(const char* map, std::string_view field) {
  return make_error(Code::kUnsupported,
                    std::string(map) + ": field " + std::string(field) + " is not there");
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

/// Moves one field that is counted, a naturally aligned integer.
void move_counted(CarryRule rule, std::uint32_t bytes, std::byte* from, std::byte* to) {
  const bool is_long = bytes == sizeof(std::uint64_t);
  if (rule == CarryRule::kGauge) {
    move_gauge(at<std::uint32_t>(from), at<std::uint32_t>(to));
  } else if (rule == CarryRule::kCounter && is_long) {
    move_counter(at<std::uint64_t>(from), at<std::uint64_t>(to));
  } else if (rule == CarryRule::kCounter) {
    move_counter(at<std::uint32_t>(from), at<std::uint32_t>(to));
  } else if (rule == CarryRule::kLeast) {
    carry_extreme(at<std::uint32_t>(from), at<std::uint32_t>(to), std::less<>());
  } else if (rule == CarryRule::kLatest) {
    carry_extreme(at<std::uint64_t>(from), at<std::uint64_t>(to), std::greater<>());
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
  auto backends = match_backends(options);
  if (!backends) return std::move(backends).error();
  auto pools = match_fields(options.pool_layout, options.our_pool_layout);
  if (!pools) return std::move(pools).error().context(WEIR_MAP_POOL);
  for (const char* name : {"address.ip", "address.port", "pool", "state"}) {
    const BackendField* const field = find(*backends, name);
    if (field == nullptr || field->from != 0) return missing(WEIR_MAP_BE, name);
  }
  for (const char* name : {"address.ip", "address.port", "name", "in_use"}) {
    if (weir::kernel::find(*pools, name) == nullptr) return missing(WEIR_MAP_POOL, name);
  }
  const auto& [records, totals] = options.from_backends;
  if (totals.stride != 0 && count(totals) < count(records)) {
    return make_error(Code::kUnsupported, WEIR_MAP_TOTAL " has fewer records than " WEIR_MAP_BE);
  }
  if (count(records) > options.backends.size() ||
      count(options.from_pools) > options.pools.size()) {
    return make_error(Code::kUnsupported, "there are more records than this build has room for");
  }
  UpgradeCarry carry(std::move(options));
  carry.backend_fields_ = std::move(*backends);
  carry.pool_fields_ = std::move(*pools);
  carry.last_words_.resize(carry.old_backends());
  return carry;
}

/// A field may have moved from one of the two maps to the other.
Result<std::vector<UpgradeCarry::BackendField>> UpgradeCarry::match_backends(
    const Options& options) {
  constexpr std::array kMaps = {WEIR_MAP_BE, WEIR_MAP_TOTAL};
  std::vector<BackendField> fields;
  for (std::size_t from = 0; from < kMaps.size(); ++from) {
    for (std::size_t to = 0; to < kMaps.size(); ++to) {
      auto matches = match_fields(options.backend_layouts[from], options.our_backend_layouts[to]);
      if (!matches) return std::move(matches).error().context(kMaps[from]);
      for (FieldMatch& match : *matches) fields.push_back({std::move(match), from, to});
    }
  }
  return fields;
}

const UpgradeCarry::BackendField* UpgradeCarry::find(const std::vector<BackendField>& fields,
                                                     std::string_view name) {
  const auto found = std::find_if(fields.begin(), fields.end(), [&](const BackendField& field) {
    return field.match.name == name;
  });
  return found == fields.end() ? nullptr : &*found;
}

std::size_t UpgradeCarry::old_backends() const { return count(options_.from_backends[0]); }

std::byte* UpgradeCarry::old_value(const BackendField& field, std::size_t backend) const {
  return record(options_.from_backends[field.from], backend) + field.match.from;
}

std::byte* UpgradeCarry::new_value(const BackendField& field, std::size_t backend) const {
  std::byte* const to = field.to == 0 ? reinterpret_cast<std::byte*>(&options_.backends[backend])
                                      : reinterpret_cast<std::byte*>(&options_.totals[backend]);
  return to + field.match.to;
}

void UpgradeCarry::copy_owned() {
  for (std::size_t i = 0; i < old_backends(); ++i) {
    for (const BackendField& field : backend_fields_) {
      if (backend_rule(field.match.name) != CarryRule::kOwned) continue;
      std::memcpy(new_value(field, i), old_value(field, i), field.match.bytes);
    }
    // Versions number the states differently, but for this one; the configuration says which it is.
    options_.backends[i].state = carries(i) ? WEIR_BE_ACTIVE : WEIR_BE_FREE;
  }
  carry_words();
  const std::size_t slots_per_pool = 2 * options_.backends.size();
  for (std::size_t i = 0; i < count(options_.from_pools); ++i) {
    weir_pool& to = options_.pools[i];
    to.backup = WEIR_NO_POOL;
    for (const FieldMatch& field : pool_fields_) {
      if (pool_rule(field.name) != CarryRule::kOwned) continue;
      std::memcpy(reinterpret_cast<std::byte*>(&to) + field.to,
                  record(options_.from_pools, i) + field.from, field.bytes);
    }
    to.table = i * slots_per_pool;  // no slots yet
  }
}

bool UpgradeCarry::carries(std::size_t backend) const {
  if (backend >= old_backends()) return false;
  return at<std::uint32_t>(old_value(*find(backend_fields_, "state"), backend)) != WEIR_BE_FREE;
}

void UpgradeCarry::raise_gauges() const {
  if (!options_.sockets_kept) return;
  each_gauge(options_.backends, [](weir_u32& gauge) { rebase(gauge, kGaugeBias); });
}

void UpgradeCarry::transfer() {
  carry_words();
  for (std::size_t i = 0; i < old_backends(); ++i) {
    if (!carries(i)) continue;
    for (const BackendField& field : backend_fields_) {
      const CarryRule how = *backend_rule(field.match.name);
      if (how == CarryRule::kGauge && !options_.sockets_kept) continue;
      move_counted(how, field.match.bytes, old_value(field, i), new_value(field, i));
    }
  }
  const FieldMatch& in_use = *weir::kernel::find(pool_fields_, "in_use");
  for (std::size_t i = 0; i < count(options_.from_pools); ++i) {
    std::byte* const from = record(options_.from_pools, i);
    if (at<std::uint32_t>(from + in_use.from) == 0) continue;
    for (const FieldMatch& field : pool_fields_) {
      move_counted(*pool_rule(field.name), field.bytes, from + field.from,
                   reinterpret_cast<std::byte*>(&options_.pools[i]) + field.to);
    }
  }
}

void UpgradeCarry::carry_words() {
  const BackendField* const breaker = find(backend_fields_, "breaker");
  const BackendField* const failures = find(backend_fields_, "consecutive_failures");
  for (std::size_t i = 0; i < old_backends(); ++i) {
    weir_be& to = options_.backends[i];
    LastWords& last = last_words_[i];
    if (!carries(i)) continue;
    if (failures != nullptr) {
      carry_word(at<std::uint32_t>(old_value(*failures, i)),
                 options_.totals[i].consecutive_failures, last.consecutive_failures);
    }
    if (breaker == nullptr) continue;
    const bool was_closed = is_closed(last.breaker);
    const bool carried =
        carry_word(at<std::uint64_t>(old_value(*breaker, i)), to.breaker, last.breaker);
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
