// SPDX-License-Identifier: Apache-2.0
//
// What the engine of one model counts beside requests and tokens: KV cells, sequences that made
// room for others, prompts that began like earlier ones, and tokens that were guessed.
//
// A plain value.
#pragma once

#include <cstdint>

namespace weir::model {

struct EngineReading {
  // Gauges.
  std::uint64_t kv_cells = 0;         ///< 0 until loaded
  std::uint64_t kv_cells_in_use = 0;  ///< by requests
  std::uint64_t kv_cells_kept = 0;    ///< by ended requests only: given up when needed
  std::uint32_t parked = 0;           ///< sequences
  std::uint64_t parked_bytes = 0;     ///< copies of their cells
  // Cumulative.
  std::uint64_t parks = 0;
  std::uint64_t restores = 0;    ///< of those: from the copy
  std::uint64_t recomputes = 0;  ///< of those: computed again
  std::uint64_t recomputed_tokens = 0;
  std::uint64_t park_drops = 0;      ///< copies that the budget had no room for
  std::uint64_t preemptions = 0;     ///< steps stopped for more urgent requests
  std::uint64_t pauses = 0;          ///< generations that waited for more urgent prompts
  std::uint64_t prefix_lookups = 0;  ///< prompts compared with earlier ones
  std::uint64_t prefix_hits = 0;     ///< that began like one of them
  std::uint64_t prefix_tokens = 0;   ///< which therefore were not computed
  std::uint64_t kept_evictions = 0;  ///< kept prompts given up because cells were needed
  std::uint64_t draft_tokens = 0;    ///< guessed, and computed together with the token before
  std::uint64_t draft_hits = 0;      ///< of those: what was sampled
  std::uint64_t sliced_prompts = 0;  ///< long prompts computed in slices beside who generated
  std::uint64_t sliced_drops = 0;    ///< given up: the request left, or its cells were short

  /// Counts and gauges of another one of the same model.
  void add(const EngineReading& other);
  /// Of an engine that holds nothing any more.
  void clear_gauges() {
    kv_cells = kv_cells_in_use = kv_cells_kept = parked_bytes = 0;
    parked = 0;
  }
};

/// What one of several contexts of a model does.
struct InstanceReading {
  std::uint32_t running = 0;            ///< requests
  std::uint64_t decode_steps = 0;       ///< cumulative
  std::uint64_t completion_tokens = 0;  ///< cumulative

  void add(const InstanceReading& other) {
    running += other.running;
    decode_steps += other.decode_steps;
    completion_tokens += other.completion_tokens;
  }
};

inline void EngineReading::add(const EngineReading& other) {
  kv_cells += other.kv_cells;
  kv_cells_in_use += other.kv_cells_in_use;
  kv_cells_kept += other.kv_cells_kept;
  parked += other.parked;
  parked_bytes += other.parked_bytes;
  parks += other.parks;
  restores += other.restores;
  recomputes += other.recomputes;
  recomputed_tokens += other.recomputed_tokens;
  park_drops += other.park_drops;
  preemptions += other.preemptions;
  pauses += other.pauses;
  prefix_lookups += other.prefix_lookups;
  prefix_hits += other.prefix_hits;
  prefix_tokens += other.prefix_tokens;
  kept_evictions += other.kept_evictions;
  draft_tokens += other.draft_tokens;
  draft_hits += other.draft_hits;
  sliced_prompts += other.sliced_prompts;
  sliced_drops += other.sliced_drops;
}

}  // namespace weir::model
