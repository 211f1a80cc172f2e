// SPDX-License-Identifier: Apache-2.0
//
// How a starting agent asks the running one to hand over: a word in the pinned weir_meta, which
// both see also from different pid namespaces. The answer is the lock on the pin directory, let go.
//
// Thread-safety: every method may be called from any thread.
#pragma once

#include <cstdint>
#include <string>

#include "agent/base/result.h"
#include "agent/kernel/map_set.h"

namespace weir::kernel {

class TakeoverMailbox {
 public:
  /// The one below `pin_root`. kNotFound when nothing is pinned there.
  static Result<TakeoverMailbox> open(const std::string& pin_root);

  /// Leaves the request, in place of one that nobody answered.
  void ask(std::uint32_t ticket);
  /// Takes that request back, if it still is there.
  void withdraw(std::uint32_t ticket);
  /// 0: nobody asks.
  [[nodiscard]] std::uint32_t asked() const;

  /// Identifies the agent that attached last.
  [[nodiscard]] std::uint64_t agent_start_ns() const;
  /// Whether that agent has attached to the end: it has published its first decisions.
  [[nodiscard]] bool agent_steers() const;
  [[nodiscard]] std::uint32_t agent_pid() const;

 private:
  explicit TakeoverMailbox(MappedArray<weir_meta> meta) : meta_(std::move(meta)) {}
  [[nodiscard]] weir_meta& meta() const { return meta_.span()[0]; }

  MappedArray<weir_meta> meta_;
};

}  // namespace weir::kernel
