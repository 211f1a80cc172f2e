// SPDX-License-Identifier: Apache-2.0
//
// libllama's start-up and its log. The library reports the reason of a failure only as log lines:
// LlamaErrors collects those of the current thread, so that an Error can carry them.
//
// Thread-safe: init_llama() from any thread; a LlamaErrors belongs to the thread that made it.
#pragma once

#include <string>

namespace weir::model {

/// Initializes libllama and routes its log to spdlog's debug level. Does its work once.
void init_llama();

/// Collects what libllama logs as errors on this thread while it lives. Not nested.
class LlamaErrors {
 public:
  LlamaErrors();
  LlamaErrors(const LlamaErrors&) = delete;
  LlamaErrors& operator=(const LlamaErrors&) = delete;
  ~LlamaErrors();

  /// The collected lines, "; " between them; `otherwise` when there were none.
  [[nodiscard]] std::string reason(const std::string& otherwise) const;

  void append(const std::string& line);

 private:
  std::string lines_;
};

}  // namespace weir::model
