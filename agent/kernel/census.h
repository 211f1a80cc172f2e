// SPDX-License-Identifier: Apache-2.0
//
// The periodic recount: compares the gauges of every backend, and the number of open breakers of
// every pool, with what is there, and corrects what is certainly wrong (drift.h).
//
// Thread-safety: one thread; the kernel programs count at the same time.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/kernel/data_plane.h"
#include "agent/kernel/drift.h"
#include "agent/kernel/socket_sweeps.h"
#include "weir/abi.h"

namespace weir::kernel {

/// The maps that a census compares. Not owned; must outlive it.
struct CensusMemory {
  std::span<weir_pool> pools;
  std::span<weir_be> backends;
  std::span<const weir_total> totals;  ///< as many as `backends`
  std::span<const weir_pick_slot> slots;
  std::span<weir_census> counts;  ///< as many as `backends`
};

class Census {
 public:
  explicit Census(const CensusMemory& memory);

  /// One census: settles, recounts, and looks closer where that shows a difference. When it fails,
  /// nothing was corrected.
  Status run(Recounter& recounter, TimePoint now);

  [[nodiscard]] const CensusReport& report() const { return report_; }

 private:
  /// The gauges of a backend that are recounted.
  enum Gauge : std::size_t { kInFlight, kFresh, kWaiting, kStreaming, kGauges };

  /// What enters and leaves the gauges of a backend is told by these.
  struct Counters {
    std::uint64_t connections = 0;  ///< so far, of every kind
    std::uint64_t requests = 0;     ///< answered, so far
  };
  using Gauges = std::array<std::uint32_t, kGauges>;
  /// One backend around a recount, in the order in which it is looked at.
  struct Sight {
    Counters counters_before;
    Gauges before{};
    Gauges after{};
    Counters counters_after;
    std::uint32_t last_in_flight = 0;
    std::uint64_t last_connections = 0;
  };
  struct PoolSight {
    std::uint32_t open = 0;
    std::uint64_t openings = 0;  ///< of the breakers of its members, so far
  };
  struct BackendRules {
    std::uint64_t since_ns = 0;  ///< of the record that they are about
    std::array<DriftRule, kGauges> gauges;
  };

  static Counters counters_of(const weir_total& total);
  static Gauges gauges_of(const weir_be& backend);
  static std::uint64_t entered(Gauge gauge, const Sight& sight);
  template <typename Look>
  void for_each_backend(Look look);
  template <typename Work>
  void for_each_member(const weir_pool& pool, Work work) const;
  [[nodiscard]] std::uint64_t openings_of(const weir_pool& pool) const;

  enum class Care { kQuick, kCareful };
  Status recount_once(Recounter& recounter, Care care);
  void tell(DriftRule& rule, Care care, const GaugeRecount& recount) const;
  [[nodiscard]] std::uint32_t count_open(const weir_pool& pool) const;
  template <typename Question>
  [[nodiscard]] bool any_rule(Question question) const;
  void conclude();
  void correct(std::uint32_t& gauge, DriftRule& rule);

  CensusMemory memory_;
  std::vector<Sight> sights_;  ///< of the recount under way
  std::vector<BackendRules> rules_;
  std::vector<DriftRule> pool_rules_;
  CensusReport report_;
};

}  // namespace weir::kernel
