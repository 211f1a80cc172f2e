// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>

#include "agent/kernel/alias_table.h"
#include "agent/kernel/decode.h"
#include "bpf/lib/alias.bpf.h"
#include "bpf/lib/breaker.bpf.h"

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

constexpr std::string_view kBackupSuffix = ".backup";

/// A service or its backup pool, as a record of weir_pool.
struct PoolSpec {
  std::string name;
  const ServiceSpec* service = nullptr;
  const std::vector<BackendSpec>* backends = nullptr;
  bool is_backup = false;  ///< of the pool before this one
};

std::vector<PoolSpec> pools_of(const std::vector<ServiceSpec>& services) {
  std::vector<PoolSpec> pools;
  for (const ServiceSpec& service : services) {
    pools.push_back({service.name, &service, &service.backends, false});
    if (service.backup_backends.empty()) continue;
    pools.push_back(
        {service.name + std::string(kBackupSuffix), &service, &service.backup_backends, true});
  }
  return pools;
}

Status validate(const std::vector<PoolSpec>& pools) {
  const auto invalid = [](std::string text) {
    return make_error(Code::kInvalidArgument, std::move(text));
  };
  std::set<Endpoint> addresses;
  for (const PoolSpec& pool : pools) {
    const std::string who = "service '" + pool.name + "'";
    if (pool.name.empty() || pool.name.size() >= WEIR_NAME_LEN) {
      return invalid(who + ": the name must have 1 to " + std::to_string(WEIR_NAME_LEN - 1) +
                     " characters");
    }
    if (!pool.is_backup && !addresses.insert(pool.service->address).second) {
      return invalid(who + ": address " + pool.service->address.to_string() +
                     " belongs to another service");
    }
    std::set<Endpoint> backends;
    for (const BackendSpec& backend : *pool.backends) {
      if (!backends.insert(backend.address).second) {
        return invalid(who + ": backend " + backend.address.to_string() + " is listed twice");
      }
    }
  }
  return {};
}

/// The records in use, by what they stand for.
class RecordIndex {
 public:
  RecordIndex(std::span<const weir_pool> pools, std::span<const weir_be> backends) : pools_(pools) {
    for (std::uint32_t i = 0; i < pools.size(); ++i) {
      if (pools[i].in_use != 0 && pools[i].address.port != 0) {
        services_.emplace(decode(pools[i].address), i);
      }
    }
    for (std::uint32_t i = 0; i < backends.size(); ++i) {
      if (backends[i].state == WEIR_BE_FREE) continue;
      backends_.emplace(std::pair(backends[i].pool, decode(backends[i].address)), i);
    }
  }

  /// `primary`: the pool that a backup pool belongs to.
  [[nodiscard]] std::optional<std::uint32_t> pool(const PoolSpec& spec,
                                                  std::optional<std::uint32_t> primary) const {
    if (!spec.is_backup) return find(services_, spec.service->address);
    if (!primary || pools_[*primary].backup >= pools_.size()) return std::nullopt;
    // The record may long have been given to another pool.
    const std::uint32_t backup = pools_[*primary].backup;
    const bool still_it = pools_[backup].in_use != 0 && pools_[backup].address.port == 0 &&
                          decode(pools_[backup], backup).name == spec.name;
    return still_it ? std::optional(backup) : std::nullopt;
  }
  [[nodiscard]] std::optional<std::uint32_t> backend(std::uint32_t pool,
                                                     const Endpoint& address) const {
    return find(backends_, std::pair(pool, address));
  }

 private:
  template <typename Map>
  static std::optional<std::uint32_t> find(const Map& map, const typename Map::key_type& key) {
    const auto found = map.find(key);
    if (found == map.end()) return std::nullopt;
    return found->second;
  }

  std::span<const weir_pool> pools_;
  std::map<Endpoint, std::uint32_t> services_;
  std::map<std::pair<std::uint32_t, Endpoint>, std::uint32_t> backends_;
};

template <typename T, typename IsFree>
std::vector<std::uint32_t> free_records(std::span<const T> records, IsFree is_free) {
  std::vector<std::uint32_t> free;
  for (std::uint32_t i = 0; i < records.size(); ++i) {
    if (is_free(records[i])) free.push_back(i);
  }
  std::reverse(free.begin(), free.end());  // taken from the back: lowest index first
  return free;
}

std::uint32_t take(std::vector<std::uint32_t>& free) {
  const std::uint32_t index = free.back();
  free.pop_back();
  return index;
}

void set_name(weir_pool& pool, const std::string& name) {
  std::memset(pool.name, 0, sizeof(pool.name));
  std::memcpy(pool.name, name.data(), std::min(name.size(), sizeof(pool.name) - 1));
}

/// A pool that only waits for its connections to end gives its name up to a service that is
/// configured: no two may share one, in metrics least of all. No configured name has a '#'.
void give_up_name(weir_pool& pool, std::uint32_t index) {
  const std::string suffix = "#" + std::to_string(index);
  set_name(pool, decode(pool, index).name.substr(0, WEIR_NAME_LEN - 1 - suffix.size()) + suffix);
}

std::uint64_t table_word(std::uint32_t first, std::size_t slots) {
  return (static_cast<std::uint64_t>(slots) << 32) | first;
}

std::uint32_t flags_of(const ServiceSpec& service) {
  std::uint32_t flags = 0;
  if (service.refuse_when_empty) flags |= WEIR_POOL_REFUSE_WHEN_EMPTY;
  if (service.end_idle_when_open) flags |= WEIR_POOL_END_IDLE;
  return flags;
}

std::uint32_t to_us(const std::optional<std::chrono::microseconds>& time) {
  if (!time) return 0;
  const auto largest = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(time->count(), 1, static_cast<std::int64_t>(largest)));
}

Status no_room(const std::string& limit) {
  return make_error(Code::kResourceExhausted,
                    "at most " + limit + ", counting those still draining" + kStartAfresh);
}

}  // namespace

std::size_t backends_needed(const std::vector<ServiceSpec>& services) {
  std::size_t needed = 0;
  for (const ServiceSpec& service : services) {
    needed += service.backends.size() + service.backup_backends.size();
  }
  return needed;
}

Tables::Tables(const TableMemory& memory) : memory_(memory), leaving_(memory.backends.size()) {}

Result<TableChanges> Tables::configure(const std::vector<ServiceSpec>& services, TimePoint now) {
  const std::vector<PoolSpec> specs = pools_of(services);
  if (Status valid = validate(specs); !valid) return std::move(valid).error();

  const std::span<weir_pool> pools = memory_.pools;
  const std::span<weir_be> backends = memory_.backends;
  const RecordIndex index(pools, backends);
  std::vector<std::uint32_t> free_pools = free_records(
      std::span<const weir_pool>(pools), [](const weir_pool& p) { return p.in_use == 0; });
  std::vector<std::uint32_t> free_backends = free_records(
      std::span<const weir_be>(backends), [](const weir_be& b) { return b.state == WEIR_BE_FREE; });

  // Count first, write afterwards: a configuration that does not fit changes nothing.
  std::size_t new_pools = 0;
  std::size_t new_backends = 0;
  std::optional<std::uint32_t> primary;
  for (const PoolSpec& spec : specs) {
    const auto pool = index.pool(spec, primary);
    if (!spec.is_backup) primary = pool;
    if (!pool) ++new_pools;
    for (const BackendSpec& backend : *spec.backends) {
      if (!pool || !index.backend(*pool, backend.address)) ++new_backends;
    }
  }
  if (new_pools > free_pools.size()) {
    return no_room(std::to_string(WEIR_MAX_POOLS) + " services and backup pools").error();
  }
  if (new_backends > free_backends.size()) {
    return no_room(std::to_string(backends.size()) + " backends").error();
  }

  TableChanges changes;
  std::vector<Route> backend_routes;
  std::vector<bool> wanted(backends.size());
  configured_.assign(pools.size(), false);
  std::set<std::string> names;
  std::vector<bool> goes_on(pools.size());     // the table in force has a backend that stays
  std::vector<BackendDecision> until_publish;  // what the other pools offer meanwhile
  for (const PoolSpec& spec : specs) {
    auto found = index.pool(spec, primary);
    if (!found) {
      found = take(free_pools);
      weir_pool& fresh = pools[*found];
      fresh = {};
      if (!spec.is_backup) fresh.address = encode(spec.service->address);
      fresh.table = table_word(*found * 2 * static_cast<std::uint32_t>(backends.size()), 0);
      fresh.backup = WEIR_NO_POOL;
      fresh.seed = static_cast<weir_u32>(std::random_device{}());
      fresh.in_use = 1;
    }
    weir_pool& pool = pools[*found];
    configured_[*found] = true;
    if (spec.is_backup) {
      store(pools[*primary].backup, *found);
    } else {
      primary = found;
      if (spec.service->backup_backends.empty()) store(pool.backup, WEIR_NO_POOL);
      changes.routes.push_back({pool.address, {WEIR_TARGET_SERVICE, *found}});
    }
    store(pool.flags, flags_of(*spec.service));
    store(pool.policy, static_cast<weir_u32>(spec.service->policy));
    set_name(pool, spec.name);
    names.insert(spec.name);

    for (const BackendSpec& backend_spec : *spec.backends) {
      auto at = index.backend(*found, backend_spec.address);
      const bool takes_connections =
          at && backends[*at].state == WEIR_BE_ACTIVE && backends[*at].weight_q16 > 0;
      if (!at) {
        at = take(free_backends);
        weir_be& fresh = backends[*at];
        // Free: the kernel does not count here. Notes of the last owner tell by the generation.
        const std::uint32_t generation = fresh.generation + 1;
        fresh = {};
        fresh.generation = generation;
        fresh.address = encode(backend_spec.address);
        fresh.pool = *found;
        memory_.totals[*at] = {};
        memory_.totals[*at].since_ns = to_kernel_ns(now);
        changes.new_backends.push_back(*at);
      }
      weir_be& backend = backends[*at];
      memory_.totals[*at].is_local = backend_spec.is_local ? 1 : 0;
      if (takes_connections) goes_on[*found] = true;
      until_publish.push_back({*at, 1, std::nullopt});
      store(backend.state, weir_u32{WEIR_BE_ACTIVE});
      leaving_[*at].reset();
      wanted[*at] = true;
      backend_routes.push_back({backend.address, {WEIR_TARGET_BACKEND, *at}});
    }
  }
  // Before anybody is checked out: no connect() meets an empty pool before the first publish().
  for (std::uint32_t i = 0; i < pools.size(); ++i) {
    if (configured_[i] && !goes_on[i]) share_evenly(i, until_publish);
    if (!configured_[i] && pools[i].in_use != 0 && names.contains(decode(pools[i], i).name)) {
      give_up_name(pools[i], i);
    }
  }
  for (std::uint32_t i = 0; i < backends.size(); ++i) {
    if (backends[i].state != WEIR_BE_FREE && !wanted[i]) check_out(i, now);
  }
  // An address that is a service's own is steered, whatever else it is; of a backend of several
  // pools the first one counts what connects to it directly.
  std::set<Endpoint> routed;
  for (const Route& route : changes.routes) routed.insert(decode(route.address));
  for (const Route& route : backend_routes) {
    if (routed.insert(decode(route.address)).second) changes.routes.push_back(route);
  }
  return changes;
}

void Tables::share_evenly(std::uint32_t pool, const std::vector<BackendDecision>& decisions) {
  for (const BackendDecision& decision : decisions) {
    weir_be& backend = memory_.backends[decision.index];
    if (backend.pool == pool) store(backend.weight_q16, to_q16(decision.weight));
  }
  flip(pool, decisions);
}

void Tables::check_out(std::uint32_t backend, TimePoint now) {
  store(memory_.backends[backend].state, weir_u32{WEIR_BE_DRAINING});
  memory_.backends[backend].weight_q16 = 0;
  if (!leaving_[backend]) leaving_[backend] = now;
}

Status Tables::publish(const std::vector<BackendDecision>& decisions, TimePoint now) {
  std::vector<bool> mentioned(memory_.backends.size());
  for (const BackendDecision& decision : decisions) {
    const std::string who = "decision for backend " + std::to_string(decision.index);
    if (decision.index >= memory_.backends.size() ||
        memory_.backends[decision.index].state == WEIR_BE_FREE) {
      return make_error(Code::kInvalidArgument, who + ": no such backend");
    }
    if (mentioned[decision.index]) {
      return make_error(Code::kInvalidArgument, who + ": given twice");
    }
    mentioned[decision.index] = true;
    if (!std::isfinite(decision.weight) || decision.weight < 0) {
      return make_error(Code::kInvalidArgument, who + ": weight must be finite and >= 0");
    }
  }

  std::vector<std::vector<BackendDecision>> by_pool(memory_.pools.size());
  for (const BackendDecision& decision : decisions) {
    if (leaving_[decision.index]) continue;
    weir_be& backend = memory_.backends[decision.index];
    store(backend.weight_q16, to_q16(decision.weight));
    store(backend.latency_us, to_us(decision.latency));
    if (backend.pool < by_pool.size()) by_pool[backend.pool].push_back(decision);
  }
  // Every pool, also one that no decision names: its backends are to get nothing then.
  for (std::uint32_t pool = 0; pool < memory_.pools.size(); ++pool) {
    if (configured_[pool]) flip(pool, by_pool[pool]);
  }
  free_drained(now);
  return {};
}

Status Tables::set_rif_limits(const std::vector<PoolLimit>& limits) {
  for (const PoolLimit& limit : limits) {
    const std::string who = "limit of pool " + std::to_string(limit.pool);
    if (limit.pool >= memory_.pools.size() || memory_.pools[limit.pool].in_use == 0) {
      return make_error(Code::kInvalidArgument, who + ": no such pool");
    }
    if (!std::isfinite(limit.rif_limit) || limit.rif_limit < 0) {
      return make_error(Code::kInvalidArgument, who + ": must be finite and >= 0");
    }
  }
  for (const PoolLimit& limit : limits) {
    store(memory_.pools[limit.pool].rif_limit, to_load(limit.rif_limit));
  }
  return {};
}

void Tables::flip(std::uint32_t pool_index, const std::vector<BackendDecision>& decisions) {
  weir_pool& pool = memory_.pools[pool_index];
  std::vector<WeightedBackend> entries;
  for (const BackendDecision& decision : decisions) {
    const weir_be& backend = memory_.backends[decision.index];
    if (backend.pool == pool_index && backend.state == WEIR_BE_ACTIVE) {
      entries.push_back({decision.index, decision.weight});
    }
  }
  const std::vector<weir_pick_slot> table = build_alias_table(entries);

  // Into the half that is not in force. A connect() that has slept since the flip before last may
  // still read there; it then draws a backend of this pool by a mixture of weights, no worse.
  const auto half = static_cast<std::uint32_t>(memory_.backends.size());
  const std::uint32_t lower = pool_index * 2 * half;
  const std::uint32_t in_force = weir_table_first(load(pool.table));
  const std::uint32_t first = in_force == lower ? lower + half : lower;
  std::copy(table.begin(), table.end(), memory_.slots.begin() + first);
  if (!table.empty()) store(pool.first, weir_u32{table.front().backend});
  store(pool.table, weir_u64{table_word(first, table.size())});

  std::vector<std::uint32_t> members;
  for (const weir_pick_slot& slot : table) members.push_back(slot.backend);
  store(pool.members, static_cast<weir_u32>(members.size()));
  if (members == members_[pool_index]) return;
  // The kernel counts its breakers as they open and close; who joined or left it cannot know. One
  // that changes in this moment is found by the recount.
  weir_u32 open = 0;
  for (const std::uint32_t member : members) {
    if (weir_breaker_state_of(load(memory_.backends[member].breaker)) != WEIR_BREAKER_CLOSED)
      ++open;
  }
  store(pool.open, open);
  members_[pool_index] = std::move(members);
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
