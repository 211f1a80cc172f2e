// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer's way into the reader of traces: `make fuzz-trace`. Whatever the text is, the answer is
// a trace that can be replayed or an error that says where.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "agent/ctl/replay/line_source.h"
#include "agent/ctl/replay/trace_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto lines = weir::replay::lines_of(text);
  const auto trace = weir::replay::read_trace(*lines, "trace");
  if (!trace.ok()) {
    // The file, and mostly the line: an editor finds the place.
    if (!trace.error().message.starts_with("trace:")) std::abort();
    return 0;
  }
  if (trace->records.empty()) std::abort();
  std::chrono::nanoseconds last{0};
  if (trace->records.front().at != last) std::abort();
  for (const auto& record : trace->records) {
    if (record.at < last || record.prompt_tokens == 0) std::abort();
    last = record.at;
    if (record.first_block > trace->blocks.size() ||
        record.blocks > trace->blocks.size() - record.first_block) {
      std::abort();
    }
  }
  return 0;
}
