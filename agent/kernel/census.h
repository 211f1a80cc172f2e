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
  std::span<const weir_pick_slot> slots;
  std::span<weir_census> counts;  ///< as many as `backends`
};

class Census {
 public:
  explicit Census(const CensusMemory& memory);

  /// One census: settles, then recounts once, or a few times where that tells more. When it fails,
  /// nothing was corrected.
  Status run(Recounter& recounter, TimePoint now);

  [[nodiscard]] const CensusReport& report() const { return report_; }

 private:
  /// The gauges of a backend that are recounted.
  enum Gauge : std::size_t { kInFlight, kFresh, kWaiting, kStreaming, kGauges };

  /// One backend before or after a recount.
  struct Sight {
    std::array<std::uint32_t, kGauges> gauges{};
    std::uint64_t connections = 0;  ///< so far, of every kind
    std::uint64_t requests = 0;
  };
  struct PoolSight {
    std::uint32_t open = 0;
    std::uint64_t openings = 0;  ///< of the breakers of its members, so far
  };
  struct BackendRules {
    std::uint64_t since_ns = 0;  ///< of the record that they are about
    std::array<DriftRule, kGauges> gauges;
  };

  static Sight see_before(const weir_be& backend);
  static Sight see_after(const weir_be& backend);
  static std::uint64_t entered(Gauge gauge, const Sight& before, const Sight& after);
  template <typename Work>
  void for_each_member(const weir_pool& pool, Work work) const;
  [[nodiscard]] std::uint64_t openings_of(const weir_pool& pool) const;

  Status recount_once(Recounter& recounter);
  void judge_backend(std::uint32_t index, const Sight& before);
  void judge_pool(std::uint32_t index, const PoolSight& before);
  template <typename Question>
  [[nodiscard]] bool any_rule(Question question) const;
  void conclude();
  void correct(std::uint32_t& gauge, DriftRule& rule);

  CensusMemory memory_;
  std::vector<BackendRules> rules_;
  std::vector<DriftRule> pool_rules_;
  CensusReport report_;
};

}  // namespace weir::kernel
