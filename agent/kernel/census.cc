// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/census.h"

#include <algorithm>
#include <cstdlib>

#include "bpf/lib/alias.bpf.h"
#include "bpf/lib/breaker.bpf.h"

namespace weir::kernel {
namespace {

/// Careful recounts in one census at most. Each waits four times some ten milliseconds.
constexpr int kMaxCarefulRecounts = 2;

template <typename T>
T load(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_ACQUIRE);
}

}  // namespace

Census::Census(const CensusMemory& memory)
    : memory_(memory),
      sights_(memory.backends.size()),
      rules_(memory.backends.size()),
      pool_rules_(memory.pools.size()) {}

Census::Counters Census::counters_of(const weir_total& total) {
  return {load(total.connects) + load(total.direct) + load(total.adopted), load(total.requests)};
}

Census::Gauges Census::gauges_of(const weir_be& backend) {
  return {load(backend.in_flight), load(backend.fresh), load(backend.waiting),
          load(backend.streaming)};
}

std::uint64_t Census::entered(Gauge gauge, const Sight& sight) {
  const std::uint64_t connections =
      sight.counters_after.connections - sight.counters_before.connections;
  const std::uint64_t requests = sight.counters_after.requests - sight.counters_before.requests;
  if (gauge == kInFlight || gauge == kFresh) return connections;
  // (A TLS hello that for some microseconds was taken for a request goes back to `fresh` uncounted:
  // it takes four recounts, seconds apart, that each meet one, to be taken for drift.)
  if (gauge == kStreaming) return requests;  // only a first response byte leads there
  // Nothing counts the requests that were sent; but each one is still waiting, or was answered, or
  // its connection is over.
  const auto difference = [](std::uint64_t later, std::uint64_t earlier) {
    return static_cast<std::int64_t>(later - earlier);
  };
  const std::int64_t closed =
      difference(sight.last_connections, sight.counters_before.connections) -
      difference(sight.last_in_flight, sight.before[kInFlight]);
  const std::int64_t left = static_cast<std::int64_t>(requests) + std::max<std::int64_t>(closed, 0);
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(left + difference(sight.after[kWaiting], sight.before[kWaiting]), 0));
}

template <typename Look>
void Census::for_each_backend(Look look) {
  for (std::size_t i = 0; i < sights_.size(); ++i) {
    if (load(memory_.backends[i].state) != WEIR_BE_FREE) look(i, sights_[i]);
  }
}

template <typename Work>
void Census::for_each_member(const weir_pool& pool, Work work) const {
  const std::uint64_t table = load(pool.table);
  const std::size_t first = weir_table_first(table);
  const std::size_t slots = weir_table_slots(table);
  for (std::size_t i = first; i < first + slots && i < memory_.slots.size(); ++i) {
    const std::uint32_t member = memory_.slots[i].backend;
    if (member < memory_.backends.size()) work(member);
  }
}

std::uint64_t Census::openings_of(const weir_pool& pool) const {
  std::uint64_t openings = 0;
  for_each_member(
      pool, [&](std::size_t member) { openings += load(memory_.totals[member].breaker_opens); });
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
    const std::uint64_t since_ns = load(memory_.totals[i].since_ns);
    if (rules_[i].since_ns != since_ns) rules_[i] = {since_ns, {}};
  }
  if (Status done = recount_once(recounter, Care::kQuick); !done) return done;
  for (int recounts = 0; recounts < kMaxCarefulRecounts; ++recounts) {
    if (!any_rule([](const DriftRule& rule) { return rule.suspects(); })) break;
    if (Status done = recount_once(recounter, Care::kCareful); !done) return done;
  }
  conclude();
  return {};
}

// Why each wait: a connection enters by stores to gauge, counter and socket, in this order, and
// leaves by stores to socket and gauge. What is in the gauge before the recount is then either in
// the socket when the recount comes by, or in the counter afterwards (1); what the recount found
// gone has left the gauge afterwards (2); what is in the gauge afterwards is in the counter (3).
// `waiting` has no counter of what enters, and is reckoned from what leaves: so again (4).
Status Census::recount_once(Recounter& recounter, Care care) {
  const auto wait = [&] {
    if (care == Care::kCareful) recounter.wait_for_programs();
  };
  std::fill(memory_.counts.begin(), memory_.counts.end(), weir_census{});
  std::vector<PoolSight> pools_before(memory_.pools.size());
  for (std::size_t i = 0; i < pools_before.size(); ++i) {
    pools_before[i].openings = openings_of(memory_.pools[i]);
    pools_before[i].open = load(memory_.pools[i].open);
  }
  for_each_backend([this](std::size_t i, Sight& sight) {
    sight = {};
    sight.counters_before = counters_of(memory_.totals[i]);
    sight.before = gauges_of(memory_.backends[i]);
  });
  wait();  // (1)
  auto swept = recounter.recount();
  if (!swept) return std::move(swept).error();
  report_.sockets = swept->sockets;
  std::vector<std::uint32_t> open(memory_.pools.size());
  for (std::size_t i = 0; i < open.size(); ++i) open[i] = count_open(memory_.pools[i]);
  wait();  // (2)
  std::vector<std::uint32_t> open_after(memory_.pools.size());
  for (std::size_t i = 0; i < open_after.size(); ++i) open_after[i] = load(memory_.pools[i].open);
  for_each_backend(
      [this](std::size_t i, Sight& sight) { sight.after = gauges_of(memory_.backends[i]); });
  wait();  // (3)
  for_each_backend([this](std::size_t i, Sight& sight) {
    sight.last_in_flight = load(memory_.backends[i].in_flight);
    sight.counters_after = counters_of(memory_.totals[i]);
  });
  for (std::size_t i = 0; i < open.size(); ++i) {
    if (memory_.pools[i].in_use == 0) continue;
    // Openings of half-open breakers are among them, and enter nothing: an upper limit.
    const std::uint64_t entered = openings_of(memory_.pools[i]) - pools_before[i].openings;
    tell(pool_rules_[i], care, {pools_before[i].open, open[i], open_after[i], entered});
  }
  wait();  // (4)
  for_each_backend([&](std::size_t index, Sight& sight) {
    const weir_census& counts = memory_.counts[index];
    const Gauges counted = {counts.in_flight, counts.fresh, counts.waiting, counts.streaming};
    sight.last_connections = counters_of(memory_.totals[index]).connections;
    for (const Gauge gauge : {kInFlight, kFresh, kWaiting, kStreaming}) {
      tell(rules_[index].gauges[gauge], care,
           {sight.before[gauge], counted[gauge], sight.after[gauge], entered(gauge, sight)});
    }
  });
  return {};
}

void Census::tell(DriftRule& rule, Care care, const GaugeRecount& recount) const {
  if (care == Care::kQuick) {
    rule.glance(bounds(recount));
  } else {
    rule.examine(bounds(recount));
  }
}

std::uint32_t Census::count_open(const weir_pool& pool) const {
  std::uint32_t open = 0;
  for_each_member(pool, [&](std::size_t member) {
    if (weir_breaker_state(load(memory_.backends[member].breaker)) != WEIR_BREAKER_CLOSED) ++open;
  });
  return open;
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
