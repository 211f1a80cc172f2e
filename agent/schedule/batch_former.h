// SPDX-License-Identifier: Apache-2.0
//
// When a batch of one-shot work starts, and with how many members: pure logic over what waits, what
// is idle and what the clock says.
//
//   fixed    waits until the batch is as large as preferred, or its oldest member has waited the
//            window
//   levels   size and window by how many wait, from a table
//   learned  from the step times seen: takes up to the knee of the throughput, and waits only while
//            the company to come gains more time than those who wait lose
//
// In every mode a full batch starts at once, and no batch waits so long that a member could not be
// served within its deadline.
//
// Why `learned` waits at all: with n waiting and the next request one gap away, starting now makes
// that one wait for a batch of its own. Waiting for it instead costs the n members gap + item each
// and the newcomer its gap, and saves it the fixed part of a step. So waiting pays while
// (n + 1) * gap + n * item < fixed: never when requests come slowly or the fixed part is small,
// and never beyond n = fixed / item.
//
// Thread-compatible: the owner locks. Owns its estimates. Cannot fail; options are validated by
// whoever reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/schedule/step_time.h"

namespace weir::schedule {

enum class BatchMode { kFixed, kByLoad, kLearned };

struct BatchLevel {
  std::optional<std::size_t> below_waiting;  ///< unset: any number
  std::size_t max_batch_size = 0;
  Duration timeout{};
};

/// Used when BatchOptions names none.
[[nodiscard]] std::vector<BatchLevel> default_batch_levels();

struct BatchOptions {
  std::size_t max_batch_size = 32;  ///< 1..4096, in every mode
  Duration timeout = std::chrono::milliseconds(5);
  std::size_t preferred_batch_size = 16;  ///< kFixed only; <= max_batch_size
  BatchMode mode = BatchMode::kFixed;
  std::vector<BatchLevel> levels;  ///< kByLoad only: rising; empty: the default ones
  std::size_t instances = 1;       ///< 1..64
};

/// Why a batch started. A closed set; the names are labels of a metric.
enum class BatchCause {
  kFull,       ///< as large as it may be
  kPreferred,  ///< as large as it should be
  kTimeout,    ///< the oldest member had waited the window
  kDeadline,   ///< a member could not have waited longer
  kNoGain,     ///< waiting would not have paid
};
inline constexpr std::size_t kBatchCauses = static_cast<std::size_t>(BatchCause::kNoGain) + 1;
[[nodiscard]] std::string_view to_string(BatchCause cause);

/// What waits.
struct BatchQueue {
  std::size_t waiting = 0;
  TimePoint oldest{};                 ///< arrival of the oldest one, when any waits
  std::optional<TimePoint> deadline;  ///< the earliest one
};

struct BatchDecision {
  std::size_t take = 0;                    ///< start a batch with so many now; 0: not yet
  BatchCause cause = BatchCause::kNoGain;  ///< of a batch
  /// When to ask again if nothing arrives before; unset: only when something does.
  std::optional<TimePoint> look_again;
};

class BatchFormer {
 public:
  explicit BatchFormer(BatchOptions options);

  /// A request was queued.
  void arrived(TimePoint now);

  /// When an idle instance should start a batch if nothing arrives before; it is due when that is
  /// not after `now`. Unset: nothing waits. O(1).
  struct Start {
    TimePoint at;
    BatchCause cause = BatchCause::kNoGain;
  };
  [[nodiscard]] std::optional<Start> start(const BatchQueue& queue, TimePoint now) const;

  /// The same, and with how many if it is due. To be asked once for each batch: what it answers is
  /// tried.
  [[nodiscard]] BatchDecision decide(const BatchQueue& queue, TimePoint now);

  /// A batch ran.
  void ran(std::size_t size, Duration took) { step_time_.observe(size, took); }

  [[nodiscard]] const BatchOptions& options() const { return options_; }
  [[nodiscard]] const StepTime& step_time() const { return step_time_; }

 private:
  struct Wish {
    std::size_t full;     ///< a batch of this size starts at once
    std::size_t largest;  ///< no batch is larger
    BatchCause why;       ///< what the start of a full one is called
    Duration timeout;     ///< of the oldest member
  };
  [[nodiscard]] Wish wish(std::size_t waiting) const;
  [[nodiscard]] std::optional<TimePoint> learned_limit(std::size_t waiting) const;
  [[nodiscard]] std::size_t learned_size(const BatchQueue& queue, std::size_t available,
                                         TimePoint now);
  [[nodiscard]] std::size_t size_for(std::size_t available, double load) const;
  [[nodiscard]] std::size_t best_size(const BatchQueue& queue, std::size_t available);

  const BatchOptions options_;
  StepTime step_time_;
  // kLearned only.
  std::optional<TimePoint> last_arrival_;
  double gap_s_ = 0;            ///< average between the last arrivals
  std::uint32_t arrivals_ = 0;  ///< in gap_s_, up to what it looks back on
  double slow_gap_s_ = 0;       ///< average over many more
  std::uint32_t rate_arrivals_ = 0;
  std::uint32_t explore_every_;  ///< batches
  std::uint32_t since_explored_ = 0;
  bool explore_far_ = false;
  std::optional<std::size_t> explored_;  ///< size of the last batch, when it was a trial
};

}  // namespace weir::schedule
