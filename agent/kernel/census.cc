// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/census.h"

#include <algorithm>
#include <cstdlib>

#include "bpf/lib/alias.bpf.h"
#include "bpf/lib/breaker.bpf.h"

namespace weir::kernel {
namespace {

/// Recounts in one census at most. Each takes some 100 ns per socket.
constexpr int kMaxRecounts = 4;

template <typename T>
T load(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_ACQUIRE);
}

/// Everything that ever entered in_flight.
std::uint64_t connections_of(const weir_be& backend) {
  return load(backend.connects) + load(backend.direct) + load(backend.adopted);
}

}  // namespace

Census::Census(const CensusMemory& memory)
    : memory_(memory), rules_(memory.backends.size()), pool_rules_(memory.pools.size()) {}

// Counters first before a recount and last after it: what enters in between is never missed.
Census::Sight Census::see_before(const weir_be& backend) {
  Sight sight;
  sight.connections = connections_of(backend);
  sight.requests = load(backend.requests);
  sight.gauges = {load(backend.in_flight), load(backend.fresh), load(backend.waiting),
                  load(backend.streaming)};
  return sight;
}

Census::Sight Census::see_after(const weir_be& backend) {
  Sight sight;
  sight.gauges = {load(backend.in_flight), load(backend.fresh), load(backend.waiting),
                  load(backend.streaming)};
  sight.connections = connections_of(backend);
  sight.requests = load(backend.requests);
  return sight;
}

std::uint64_t Census::entered(Gauge gauge, const Sight& before, const Sight& after) {
  const std::uint64_t connections = after.connections - before.connections;
  const std::uint64_t requests = after.requests - before.requests;
  if (gauge == kInFlight || gauge == kFresh) return connections;
  if (gauge == kStreaming) return requests;  // only a first response byte leads there
  // Nothing counts the requests that were sent; but each one is still waiting, or was answered, or
  // its connection is over.
  const auto change = [&](Gauge of) {
    return static_cast<std::int64_t>(after.gauges[of]) -
           static_cast<std::int64_t>(before.gauges[of]);
  };
  const std::int64_t ended = static_cast<std::int64_t>(connections) - change(kInFlight);
  const std::int64_t left = static_cast<std::int64_t>(requests) + std::max<std::int64_t>(ended, 0);
  return static_cast<std::uint64_t>(std::max<std::int64_t>(left + change(kWaiting), 0));
}

template <typename Work>
void Census::for_each_member(const weir_pool& pool, Work work) const {
  const std::uint64_t table = load(pool.table);
  const std::size_t first = weir_table_first(table);
  const std::size_t slots = weir_table_slots(table);
  for (std::size_t i = first; i < first + slots && i < memory_.slots.size(); ++i) {
    const std::uint32_t member = memory_.slots[i].backend;
    if (member < memory_.backends.size()) work(memory_.backends[member]);
  }
}

std::uint64_t Census::openings_of(const weir_pool& pool) const {
  std::uint64_t openings = 0;
  for_each_member(pool, [&](const weir_be& member) { openings += load(member.breaker_opens); });
  return openings;
}

template <typename Question>
bool Census::any_rule(Question question) const {
  return std::any_of(pool_rules_.begin(), pool_rules_.end(), question) ||
         std::any_of(rules_.begin(), rules_.end(), [&](const BackendRules& rules) {
           return std::any_of(rules.gauges.begin(), rules.gauges.end(), question);
         });
}

Status Census::run(Recounter& recounter, TimePoint now) {
  if (Status done = recounter.settle(now); !done) return done;
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    // A record that changed hands starts anew.
    const std::uint64_t since_ns = load(memory_.backends[i].since_ns);
    if (rules_[i].since_ns != since_ns) rules_[i] = {since_ns, {}};
  }
  for (int recounts = 0; recounts < kMaxRecounts; ++recounts) {
    if (any_rule([](const DriftRule& rule) { return rule.suspects(); })) {
      recounter.wait_for_programs();
    }
    if (Status done = recount_once(recounter); !done) return done;
    if (!any_rule([](const DriftRule& rule) { return rule.wants_more(); })) break;
  }
  conclude();
  return {};
}

Status Census::recount_once(Recounter& recounter) {
  std::vector<Sight> before(memory_.backends.size());
  std::vector<PoolSight> pools_before(memory_.pools.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    memory_.counts[i] = {};
    if (load(memory_.backends[i].state) != WEIR_BE_FREE) {
      before[i] = see_before(memory_.backends[i]);
    }
  }
  for (std::size_t i = 0; i < pools_before.size(); ++i) {
    const weir_pool& pool = memory_.pools[i];
    if (pool.in_use == 0) continue;
    pools_before[i].openings = openings_of(pool);
    pools_before[i].open = load(pool.open);
  }
  auto swept = recounter.recount();
  if (!swept) return std::move(swept).error();
  report_.sockets = swept->sockets;
  for (std::uint32_t i = 0; i < before.size(); ++i) {
    if (load(memory_.backends[i].state) != WEIR_BE_FREE) judge_backend(i, before[i]);
  }
  for (std::uint32_t i = 0; i < pools_before.size(); ++i) {
    if (memory_.pools[i].in_use != 0) judge_pool(i, pools_before[i]);
  }
  return {};
}

void Census::judge_backend(std::uint32_t index, const Sight& before) {
  const weir_census& counts = memory_.counts[index];
  const std::array<std::uint32_t, kGauges> counted = {counts.in_flight, counts.fresh,
                                                      counts.waiting, counts.streaming};
  const Sight after = see_after(memory_.backends[index]);
  for (const Gauge gauge : {kInFlight, kFresh, kWaiting, kStreaming}) {
    rules_[index].gauges[gauge].add(bounds({before.gauges[gauge], counted[gauge],
                                            after.gauges[gauge], entered(gauge, before, after)}));
  }
}

void Census::judge_pool(std::uint32_t index, const PoolSight& before) {
  const weir_pool& pool = memory_.pools[index];
  std::uint32_t counted = 0;
  for_each_member(pool, [&](const weir_be& member) {
    if (weir_breaker_state(load(member.breaker)) != WEIR_BREAKER_CLOSED) ++counted;
  });
  const std::uint32_t after = load(pool.open);
  // Openings of half-open breakers are among them, and enter nothing: an upper limit.
  const std::uint64_t entered = openings_of(pool) - before.openings;
  pool_rules_[index].add(bounds({before.open, counted, after, entered}));
}

void Census::conclude() {
  report_.drift = 0;
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    weir_be& backend = memory_.backends[i];
    auto& gauges = rules_[i].gauges;
    correct(backend.in_flight, gauges[kInFlight]);
    correct(backend.fresh, gauges[kFresh]);
    correct(backend.waiting, gauges[kWaiting]);
    correct(backend.streaming, gauges[kStreaming]);
  }
  for (std::size_t i = 0; i < pool_rules_.size(); ++i) {
    correct(memory_.pools[i].open, pool_rules_[i]);
  }
  ++report_.censuses;
}

void Census::correct(std::uint32_t& gauge, DriftRule& rule) {
  const std::int64_t correction = rule.conclude();
  report_.drift += static_cast<std::uint64_t>(std::abs(rule.drift()));
  if (correction == 0) return;
  report_.corrected += static_cast<std::uint64_t>(std::abs(correction));
  std::uint32_t now = load(gauge);
  std::uint32_t right = 0;
  do {  // a gauge that fell meanwhile is not taken below 0
    right = static_cast<std::uint32_t>(
        std::max<std::int64_t>(static_cast<std::int64_t>(now) + correction, 0));
  } while (
      !__atomic_compare_exchange_n(&gauge, &now, right, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
}

}  // namespace weir::kernel
