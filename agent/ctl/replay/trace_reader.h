// SPDX-License-Identifier: Apache-2.0
//
// Reads traces of requests: when each came, how long its prompt and its answer were. Two formats,
// told apart by the first line that is not blank:
//
//   CSV    a header with the columns arrived_at (s), num_prefill_tokens, num_decode_tokens, in any
//          order; other columns are ignored. Or TIMESTAMP (date and time), ContextTokens,
//          GeneratedTokens, as Azure publishes its traces
//   JSONL  an object a line with timestamp (ms), input_length, output_length and, optionally,
//          hash_ids: one id for each 512 tokens of the prompt; prompts with equal first ids share
//          these tokens. Other members are ignored (Mooncake's traces)
//
// Thread-safe: pure functions. A line that is neither is kInvalidArgument: file, line, what is
// wrong, what would be right. Nothing is skipped but blank lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/ctl/replay/line_source.h"

namespace weir::replay {

/// Tokens that one of a trace's hash_ids stands for.
inline constexpr std::uint32_t kBlockTokens = 512;

enum class TraceFormat { kCsv, kJsonLines };

struct TraceRecord {
  std::chrono::nanoseconds at{};  ///< since the earliest record
  std::uint32_t prompt_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::uint64_t first_block = 0;  ///< in Trace::blocks
  std::uint32_t blocks = 0;
};

struct Trace {
  TraceFormat format = TraceFormat::kCsv;
  std::vector<TraceRecord> records;   ///< by time; at least one
  std::vector<std::uint64_t> blocks;  ///< hash_ids of all records
  std::uint64_t reordered = 0;        ///< records that stood behind a later one

  [[nodiscard]] std::span<const std::uint64_t> blocks_of(const TraceRecord& record) const {
    return std::span(blocks).subspan(record.first_block, record.blocks);
  }
};

/// `name` stands before the line number in errors.
[[nodiscard]] Result<Trace> read_trace(LineSource& lines, const std::string& name);
[[nodiscard]] Result<Trace> read_trace_file(const std::string& path);

}  // namespace weir::replay
