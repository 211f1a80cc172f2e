// SPDX-License-Identifier: Apache-2.0
//
// libllama's start-up and its log. The library reports the reason of a failure only as log lines:
// LlamaErrors collects those of the current thread, so that an Error can carry them.
//
// Thread-safe: init_llama() from any thread; a LlamaErrors belongs to the thread that made it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weir::model {

/// Bytes of the buffers that libllama made; it tells their sizes in its log alone, to a hundredth
/// of a MiB.
struct LlamaBuffers {
  std::uint64_t mapped = 0;  ///< of weights, within the mapping of the file
  std::uint64_t copied = 0;  ///< of weights, beside it
  std::uint64_t kv = 0;
  std::uint64_t compute = 0;
  std::uint64_t output = 0;

  /// Adds the buffer that `line` tells of, if it does.
  void read(std::string_view line);
};

/// Initializes libllama, routes its log to spdlog's debug level, and has malloc() give large
/// buffers back to the system when they are freed. Does its work once.
void init_llama();

/// Collects what libllama logs as errors on this thread while it lives, and the buffers that it
/// makes. Not nested.
class LlamaErrors {
 public:
  LlamaErrors();
  LlamaErrors(const LlamaErrors&) = delete;
  LlamaErrors& operator=(const LlamaErrors&) = delete;
  ~LlamaErrors();

  /// The collected lines, "; " between them; `otherwise` when there were none.
  [[nodiscard]] std::string reason(const std::string& otherwise) const;

  [[nodiscard]] const LlamaBuffers& buffers() const { return buffers_; }

  void append(const std::string& line);
  void note(std::string_view line) { buffers_.read(line); }

 private:
  std::string lines_;
  LlamaBuffers buffers_;
};

}  // namespace weir::model
