// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a model, as pure logic: events go in, with the time where it matters, and what is
// to be done comes out. Knows neither threads nor files.
//
//   unloaded ──► loading ──► warming ──► ready ──► unloaded      idle, evicted
//      ▲            └── failed ◄┘          └──► draining ──► unloaded      explicitly
//
// Beside a ready model a successor may load and warm: the file's next version. It takes over when
// it is ready; when it fails, the model goes on as it was.
//
// Thread-compatible: the owner locks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "agent/base/clock.h"
#include "agent/model/generation.h"

namespace weir::model {

struct LifecycleOptions {
  std::string name;
  /// Unloaded after this long without a request; zero: as soon as it has nothing to do. Unset:
  /// never.
  std::optional<Duration> keep_alive;
  bool wanted = false;  ///< a failed load is tried again without a request
};

class Lifecycle {
 public:
  using State = ModelInfo::State;

  enum class Action {
    kNone,
    kStart,           ///< begin to load
    kStartSuccessor,  ///< begin to load the file's next version
    kSwap,            ///< the successor takes over, the version before drains
    kDrain,           ///< no requests for this version any more; let it go when it has none left
    kRetireIfIdle,    ///< let it go if it has no request at this moment; then tell unloaded()
  };

  static constexpr Duration kFirstBackoff = std::chrono::seconds(5);
  static constexpr Duration kLongestBackoff = std::chrono::seconds(60);
  /// Without memory for it now; who holds it may let go soon.
  static constexpr Duration kMemoryBackoff = std::chrono::seconds(1);

  explicit Lifecycle(LifecycleOptions options) : options_(std::move(options)) {}

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] float progress() const { return progress_; }
  [[nodiscard]] const std::string& failure() const { return failure_; }
  [[nodiscard]] bool has_successor() const { return successor_; }
  /// Of the successor; meaningless without.
  [[nodiscard]] float successor_progress() const { return successor_progress_; }
  /// Why the last successor failed; empty: it did not.
  [[nodiscard]] const std::string& successor_failure() const { return successor_failure_; }
  [[nodiscard]] bool disabled() const { return disabled_; }

  /// A request came. Unset: it can be taken, after kStart or as things are. Otherwise why not.
  [[nodiscard]] std::optional<Refusal> request(TimePoint now, Action& action);

  /// Somebody wants it loaded, whatever failed before. `changed`: the file is not the one that is
  /// loaded.
  [[nodiscard]] Action load(bool changed);

  /// Somebody wants it unloaded, and kept so until load().
  [[nodiscard]] Action unload();

  /// Requests are taken again; loads nothing.
  void enable() { disabled_ = false; }

  /// Time has passed. `idle_since`: of a version without a request; `served`: it had one before.
  [[nodiscard]] Action tick(TimePoint now, std::optional<TimePoint> idle_since, bool served);
  /// When tick() has something to say at the latest, if nothing happens before.
  [[nodiscard]] std::optional<TimePoint> next_tick(std::optional<TimePoint> idle_since,
                                                   bool served) const;

  /// Whether it may be unloaded in favour of another one, if it has no request.
  [[nodiscard]] bool evictable() const { return state_ == State::kReady && !successor_; }

  // What became of the version that loads; of the successor where there is one.
  void progressed(float progress);
  void loaded();
  [[nodiscard]] Action warmed();
  void failed(TimePoint now, std::string why);
  void no_memory(TimePoint now, std::string why);

  /// It was let go while idle.
  void unloaded();
  /// Nothing of it is left; to be told when a version that drained has gone, and no other is there.
  void drained();

 private:
  [[nodiscard]] Action start();

  const LifecycleOptions options_;
  State state_ = State::kUnloaded;
  float progress_ = 0;
  std::string failure_;
  bool disabled_ = false;
  bool successor_ = false;
  float successor_progress_ = 0;
  std::string successor_failure_;
  Duration backoff_ = kFirstBackoff;
  std::optional<TimePoint> retry_at_;  ///< of kFailed
  std::optional<TimePoint> no_memory_until_;
};

}  // namespace weir::model
