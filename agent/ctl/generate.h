// SPDX-License-Identifier: Apache-2.0
//
// The command `weir generate`: text from a model file, in this process and without a server. The
// text goes to the standard output as it comes, times to the standard error.
//
// Thread-safety: one thread.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/ctl/local_model.h"
#include "agent/model/generation.h"

namespace weir::ctl {

struct GenerateOptions {
  LocalModelOptions model;
  std::string prompt;  ///< "-": what the standard input has
  std::uint32_t max_tokens = 128;
  model::SamplingParams sampling;
  std::vector<std::string> stop;
  bool json = false;
};

/// Exit status after Ctrl-C or SIGTERM: what a shell says of a program that SIGINT ended.
inline constexpr int kInterrupted = 130;

class GenerateCommand {
 public:
  /// Adds the subcommand. Parsing must be over before this is destroyed.
  explicit GenerateCommand(CLI::App& app);
  ~GenerateCommand();
  GenerateCommand(const GenerateCommand&) = delete;
  GenerateCommand& operator=(const GenerateCommand&) = delete;

  [[nodiscard]] bool parsed() const;
  /// As the command line says. Valid after parsing.
  [[nodiscard]] const GenerateOptions& options() const;
  /// Runs it; the exit status, 0 or kInterrupted. kUnavailable when the model cannot be loaded,
  /// kInvalidArgument when the request is wrong.
  [[nodiscard]] Result<int> run();

 private:
  struct Arguments;
  const std::unique_ptr<Arguments> arguments_;
};

/// Cells that a prompt of so many bytes and an answer of so many tokens need at most: no token is
/// shorter than a byte. A model's own context may be gigabytes of cache for a question of ten
/// words.
[[nodiscard]] std::uint32_t context_for(std::size_t prompt_bytes, std::uint32_t max_tokens);

/// "load 0.19 s, prompt 12 tokens 540.1/s, generated 128 tokens 101.3/s, ended by length"
[[nodiscard]] std::string timings_text(const model::Completion& completion);
/// What --json prints: one object with text, finish_reason, usage and timings.
[[nodiscard]] std::string answer_json(const std::string& text, const model::Completion& completion);

}  // namespace weir::ctl
