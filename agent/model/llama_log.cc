// SPDX-License-Identifier: Apache-2.0
#include "agent/model/llama_log.h"

#include <llama.h>
#include <spdlog/spdlog.h>

#include <mutex>
#include <string_view>

namespace weir::model {

namespace {

constexpr std::size_t kMostReasonBytes = 1000;

thread_local LlamaErrors* collector = nullptr;

void on_log(ggml_log_level level, const char* text, void* /*unused*/) {
  std::string_view line = text == nullptr ? std::string_view() : std::string_view(text);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) {
    line.remove_suffix(1);
  }
  // Continuations are the dots of the progress bar.
  if (line.empty() || level == GGML_LOG_LEVEL_CONT) {
    return;
  }
  if (level == GGML_LOG_LEVEL_ERROR && collector != nullptr) {
    collector->append(std::string(line));
  }
  spdlog::debug("libllama: {}", line);
}

}  // namespace

void init_llama() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(on_log, nullptr);
    llama_backend_init();
  });
}

LlamaErrors::LlamaErrors() { collector = this; }

LlamaErrors::~LlamaErrors() { collector = nullptr; }

void LlamaErrors::append(const std::string& line) {
  if (lines_.size() + line.size() > kMostReasonBytes) {
    return;
  }
  if (!lines_.empty()) {
    lines_ += "; ";
  }
  lines_ += line;
}

std::string LlamaErrors::reason(const std::string& otherwise) const {
  return lines_.empty() ? otherwise : lines_;
}

}  // namespace weir::model
