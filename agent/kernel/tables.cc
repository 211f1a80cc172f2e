// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>

#include "agent/kernel/alias_table.h"
#include "agent/kernel/decode.h"
#include "bpf/lib/pick.bpf.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

/// How long a backend that left stays reserved at least. A connect() that drew it just before may
/// still be about to count itself in; that takes microseconds.
constexpr auto kGrace = 1s;

/// A start that fails frees nothing: the next one would fail the same way.
const std::string kStartAfresh = "; `weir detach` drops what an earlier agent left";

template <typename T>
void store(T& field, T value) {
  __atomic_store_n(&field, value, __ATOMIC_RELEASE);
}

template <typename T>
T load(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_ACQUIRE);
}

Status validate(const std::vector<ServiceSpec>& services) {
  const auto invalid = [](std::string text) {
    return make_error(Code::kInvalidArgument, std::move(text));
  };
  std::set<Endpoint> addresses;
  for (const ServiceSpec& service : services) {
    const std::string who = "service '" + service.name + "'";
    if (service.name.empty() || service.name.size() >= WEIR_NAME_LEN) {
      return invalid(who + ": the name must have 1 to " + std::to_string(WEIR_NAME_LEN - 1) +
                     " characters");
    }
    if (!addresses.insert(service.address).second) {
      return invalid(who + ": address " + service.address.to_string() +
                     " belongs to another service");
    }
    if (service.backends.size() > WEIR_POOL_SLOTS) {
      return invalid(who + ": at most " + std::to_string(WEIR_POOL_SLOTS) + " backends, got " +
                     std::to_string(service.backends.size()));
    }
    std::set<Endpoint> backends;
    for (const BackendSpec& backend : service.backends) {
      if (!backends.insert(backend.address).second) {
        return invalid(who + ": backend " + backend.address.to_string() + " is listed twice");
      }
    }
  }
  return {};
}

std::optional<std::uint32_t> find_pool(std::span<const weir_pool> pools, const Endpoint& address) {
  for (std::uint32_t i = 0; i < pools.size(); ++i) {
    if (pools[i].in_use != 0 && decode(pools[i].address) == address) return i;
  }
  return std::nullopt;
}

std::optional<std::uint32_t> find_backend(std::span<const weir_be> backends, std::uint32_t pool,
                                          const Endpoint& address) {
  for (std::uint32_t i = 0; i < backends.size(); ++i) {
    if (backends[i].state != WEIR_BE_FREE && backends[i].pool == pool &&
        decode(backends[i].address) == address) {
      return i;
    }
  }
  return std::nullopt;
}

template <typename T, typename IsFree>
std::vector<std::uint32_t> free_records(std::span<const T> records, IsFree is_free) {
  std::vector<std::uint32_t> free;
  for (std::uint32_t i = 0; i < records.size(); ++i) {
    if (is_free(records[i])) free.push_back(i);
  }
  std::reverse(free.begin(), free.end());  // taken from the back: lowest index first
  return free;
}

/// A pool that only waits for its connections to end gives its name up to a service that is
/// configured: no two may share one, in metrics least of all. No configured name has a '#'.
void give_up_name(weir_pool& pool, std::uint32_t index) {
  const std::string suffix = "#" + std::to_string(index);
  std::string name = decode(pool, index).name.substr(0, WEIR_NAME_LEN - 1 - suffix.size()) + suffix;
  name.resize(sizeof(pool.name));
  std::memcpy(pool.name, name.data(), name.size());
}

std::uint64_t table_word(std::uint32_t first, std::size_t slots) {
  return (static_cast<std::uint64_t>(slots) << 32) | first;
}

}  // namespace

Result<TableChanges> Tables::configure(const std::vector<ServiceSpec>& services, TimePoint now) {
  if (Status valid = validate(services); !valid) return std::move(valid).error();

  const std::span<const weir_pool> pools = memory_.pools;
  const std::span<const weir_be> backends = memory_.backends;
  std::vector<std::uint32_t> free_pools =
      free_records(pools, [](const weir_pool& p) { return p.in_use == 0; });
  std::vector<std::uint32_t> free_backends =
      free_records(backends, [](const weir_be& b) { return b.state == WEIR_BE_FREE; });

  // Count first, write afterwards: a configuration that does not fit changes nothing.
  std::size_t pools_needed = 0;
  std::size_t backends_needed = 0;
  for (const ServiceSpec& service : services) {
    const auto pool = find_pool(pools, service.address);
    if (!pool) ++pools_needed;
    for (const BackendSpec& backend : service.backends) {
      if (!pool || !find_backend(backends, *pool, backend.address)) ++backends_needed;
    }
  }
  if (pools_needed > free_pools.size()) {
    return make_error(Code::kResourceExhausted, "at most " + std::to_string(WEIR_MAX_POOLS) +
                                                    " services, counting those still draining" +
                                                    kStartAfresh);
  }
  if (backends_needed > free_backends.size()) {
    return make_error(Code::kResourceExhausted, "at most " + std::to_string(WEIR_MAX_BACKENDS) +
                                                    " backends, counting those still draining" +
                                                    kStartAfresh);
  }

  TableChanges changes;
  std::vector<bool> wanted(backends.size());
  configured_.assign(pools.size(), false);
  std::set<std::string> names;
  std::vector<bool> goes_on(pools.size());     // the table in force has a backend that stays
  std::vector<BackendDecision> until_publish;  // what the other pools offer meanwhile
  for (const ServiceSpec& service : services) {
    auto found = find_pool(pools, service.address);
    if (!found) {
      found = free_pools.back();
      free_pools.pop_back();
      weir_pool& fresh = memory_.pools[*found];
      fresh = {};
      fresh.address = encode(service.address);
      fresh.table = table_word(*found * 2 * WEIR_POOL_SLOTS, 0);
      fresh.in_use = 1;
    }
    weir_pool& pool = memory_.pools[*found];
    configured_[*found] = true;
    pool.flags = service.refuse_when_empty ? WEIR_POOL_REFUSE_WHEN_EMPTY : 0;
    std::memset(pool.name, 0, sizeof(pool.name));
    std::memcpy(pool.name, service.name.data(), service.name.size());
    names.insert(service.name);
    changes.routes.push_back({pool.address, *found});

    for (const BackendSpec& spec : service.backends) {
      auto index = find_backend(backends, *found, spec.address);
      const bool kept_active = index && backends[*index].state == WEIR_BE_ACTIVE;
      if (!index) {
        index = free_backends.back();
        free_backends.pop_back();
        weir_be& fresh = memory_.backends[*index];
        fresh = {};  // free: the kernel does not count here
        fresh.address = encode(spec.address);
        fresh.pool = *found;
        fresh.since_ns = to_kernel_ns(now);
        changes.new_backends.push_back(*index);
      }
      weir_be& backend = memory_.backends[*index];
      backend.is_local = spec.is_local ? 1 : 0;
      if (kept_active) goes_on[*found] = true;
      until_publish.push_back({*index, WEIR_BE_ACTIVE, 1});
      if (backend.state != WEIR_BE_OPEN) store(backend.state, weir_u32{WEIR_BE_ACTIVE});
      leaving_[*index].reset();
      wanted[*index] = true;
    }
  }
  // Before anybody is checked out: no connect() meets an empty pool before the first publish().
  for (std::uint32_t i = 0; i < pools.size(); ++i) {
    if (configured_[i] && !goes_on[i]) flip(i, until_publish);
    if (!configured_[i] && pools[i].in_use != 0 && names.contains(decode(pools[i], i).name)) {
      give_up_name(memory_.pools[i], i);
    }
  }
  for (std::uint32_t i = 0; i < backends.size(); ++i) {
    if (backends[i].state != WEIR_BE_FREE && !wanted[i]) check_out(i, now);
  }
  return changes;
}

void Tables::check_out(std::uint32_t backend, TimePoint now) {
  store(memory_.backends[backend].state, weir_u32{WEIR_BE_DRAINING});
  memory_.backends[backend].weight_q16 = 0;
  if (!leaving_[backend]) leaving_[backend] = now;
}

Status Tables::publish(const std::vector<BackendDecision>& decisions, TimePoint now) {
  std::set<std::uint32_t> mentioned;
  for (const BackendDecision& decision : decisions) {
    const std::string who = "decision for backend " + std::to_string(decision.index);
    if (decision.index >= memory_.backends.size() ||
        memory_.backends[decision.index].state == WEIR_BE_FREE) {
      return make_error(Code::kInvalidArgument, who + ": no such backend");
    }
    if (!mentioned.insert(decision.index).second) {
      return make_error(Code::kInvalidArgument, who + ": given twice");
    }
    if (!std::isfinite(decision.weight) || decision.weight < 0) {
      return make_error(Code::kInvalidArgument, who + ": weight must be finite and >= 0");
    }
    if (decision.state == WEIR_BE_FREE) {
      return make_error(Code::kInvalidArgument, who + ": only the data plane frees records");
    }
  }

  for (const BackendDecision& decision : decisions) {
    if (leaving_[decision.index]) continue;
    weir_be& backend = memory_.backends[decision.index];
    store(backend.state, static_cast<weir_u32>(decision.state));
    store(backend.weight_q16, to_q16(decision.weight));
  }
  // Every pool, also one that no decision names: its backends are to get nothing then.
  for (std::uint32_t pool = 0; pool < memory_.pools.size(); ++pool) {
    if (configured_[pool]) flip(pool, decisions);
  }
  free_drained(now);
  return {};
}

void Tables::flip(std::uint32_t pool, const std::vector<BackendDecision>& decisions) {
  std::vector<WeightedBackend> entries;
  for (const BackendDecision& decision : decisions) {
    const weir_be& backend = memory_.backends[decision.index];
    if (backend.pool == pool && backend.state == WEIR_BE_ACTIVE) {
      entries.push_back({decision.index, decision.weight});
    }
  }
  const std::vector<weir_pick_slot> table = build_alias_table(entries);

  // Into the half that is not in force. A connect() that has slept since the flip before last may
  // still read there; it then draws a backend of this pool by a mixture of weights, no worse.
  const std::uint32_t lower = pool * 2 * WEIR_POOL_SLOTS;
  const std::uint32_t upper = lower + WEIR_POOL_SLOTS;
  const std::uint32_t in_force = weir_table_first(load(memory_.pools[pool].table));
  const std::uint32_t first = in_force == lower ? upper : lower;
  std::copy(table.begin(), table.end(), memory_.slots.begin() + first);
  store(memory_.pools[pool].table, weir_u64{table_word(first, table.size())});
}

void Tables::free_drained(TimePoint now) {
  std::vector<bool> referred(memory_.pools.size());
  for (std::uint32_t i = 0; i < memory_.backends.size(); ++i) {
    weir_be& backend = memory_.backends[i];
    if (leaving_[i] && now - *leaving_[i] >= kGrace && load(backend.in_flight) == 0) {
      store(backend.state, weir_u32{WEIR_BE_FREE});
      leaving_[i].reset();
    }
    if (backend.state != WEIR_BE_FREE && backend.pool < referred.size()) {
      referred[backend.pool] = true;
    }
  }
  for (std::uint32_t i = 0; i < memory_.pools.size(); ++i) {
    if (!configured_[i] && !referred[i]) store(memory_.pools[i].in_use, weir_u32{0});
  }
}

}  // namespace weir::kernel
