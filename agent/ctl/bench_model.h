// SPDX-License-Identifier: Apache-2.0
//
// The command `weir bench-model`: how many tokens a second a model file makes on this machine, by
// how many sequences are decoded together, with the engine of the agent and without a server.
//
// Thread-safety: one thread.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/result.h"

namespace weir::ctl {

struct BenchModelOptions {
  std::string path;
  std::uint32_t prompt_tokens = 512;
  std::uint32_t generate_tokens = 128;
  std::vector<std::uint32_t> batches = {1, 4, 8, 32};
  std::uint32_t rounds = 3;
  std::optional<std::uint32_t> threads;
  bool json = false;
};

/// What was measured of one number of sequences, a value for each round.
struct BatchFigures {
  std::uint32_t sequences = 0;
  std::vector<double> prompt_per_s;     ///< of all sequences together
  std::vector<double> generated_per_s;  ///< likewise, from the first token on
  std::uint64_t ended_early = 0;        ///< sequences that found an end of their own
};

struct BenchModelReport {
  std::string path;
  std::uint64_t parameters = 0;
  std::uint64_t file_bytes = 0;
  double load_s = 0;
  std::uint32_t prompt_tokens = 0;  ///< as the tokenizer counts the prompts; about what was asked
  std::uint32_t generate_tokens = 0;
  std::uint64_t resident_bytes = 0;   ///< of this process, when everything was measured
  std::uint64_t anonymous_bytes = 0;  ///< of these, what is not mapped from files
  std::vector<BatchFigures> batches;
};

class BenchModelCommand {
 public:
  /// Adds the subcommand. Parsing must be over before this is destroyed.
  explicit BenchModelCommand(CLI::App& app);
  ~BenchModelCommand();
  BenchModelCommand(const BenchModelCommand&) = delete;
  BenchModelCommand& operator=(const BenchModelCommand&) = delete;

  [[nodiscard]] bool parsed() const;
  /// As the command line says. Valid after parsing.
  [[nodiscard]] const BenchModelOptions& options() const;
  /// Measures; what to print. kUnavailable when the model cannot be loaded.
  [[nodiscard]] Result<std::string> run();

 private:
  struct Arguments;
  const std::unique_ptr<Arguments> arguments_;
};

/// "1,4,8": each 1..256 and named once.
[[nodiscard]] Result<std::vector<std::uint32_t>> parse_batches(std::string_view text);

[[nodiscard]] std::string to_text(const BenchModelReport& report);
/// One line.
[[nodiscard]] std::string to_json(const BenchModelReport& report);

}  // namespace weir::ctl
