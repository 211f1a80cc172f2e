// SPDX-License-Identifier: Apache-2.0
//
// The command `weir replay`: its options on the command line, and what it does with them.
//
// Thread-safety: one thread.
#pragma once

#include <CLI/App.hpp>
#include <memory>

#include "agent/base/result.h"

namespace weir::replay {

class ReplayCommand {
 public:
  /// Adds the subcommand. Parsing must be over before this is destroyed.
  explicit ReplayCommand(CLI::App& app);
  ~ReplayCommand();
  ReplayCommand(const ReplayCommand&) = delete;
  ReplayCommand& operator=(const ReplayCommand&) = delete;

  [[nodiscard]] bool parsed() const;
  /// Runs it and writes the reports. kInvalidArgument when the options or the trace are wrong;
  /// kUnavailable when the target cannot be reached or answered nothing.
  [[nodiscard]] Status run();

 private:
  struct Arguments;
  const std::unique_ptr<Arguments> arguments_;
};

}  // namespace weir::replay
