// SPDX-License-Identifier: Apache-2.0
//
// `weir models`: what an agent's models are doing; has one loaded or unloaded.
//
// Thread-safety: one thread.
#pragma once

#include <CLI/App.hpp>
#include <boost/json/array.hpp>
#include <memory>
#include <string>

#include "agent/base/result.h"

namespace weir::ctl {

/// The table for a terminal, of what /v2/repository/index answers.
[[nodiscard]] std::string models_text(const boost::json::array& models);

class ModelsCommand {
 public:
  /// Adds the subcommand. Parsing must be over before this is destroyed.
  explicit ModelsCommand(CLI::App& app);
  ~ModelsCommand();
  ModelsCommand(const ModelsCommand&) = delete;
  ModelsCommand& operator=(const ModelsCommand&) = delete;

  [[nodiscard]] bool parsed() const;
  /// What goes to the standard output. The error is what the agent says, or why there is none.
  Result<std::string> run();

 private:
  struct Arguments;
  const std::unique_ptr<Arguments> arguments_;
};

}  // namespace weir::ctl
