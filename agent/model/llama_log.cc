// SPDX-License-Identifier: Apache-2.0
#include "agent/model/llama_log.h"

#include <llama.h>
#include <malloc.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <mutex>
#include <string_view>

namespace weir::model {

namespace {

constexpr std::size_t kMostReasonBytes = 1000;
// Buffers from this size on are mappings of their own, which go back to the system when freed.
constexpr int kMappedBytes = 1 << 20;
// Free at the end of a heap; as glibc has it at first.
constexpr int kKeptBytes = 128 << 10;

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
  if (collector != nullptr) {
    if (level == GGML_LOG_LEVEL_ERROR) collector->append(std::string(line));
    if (level == GGML_LOG_LEVEL_INFO) collector->note(line);
  }
  spdlog::debug("libllama: {}", line);
}

}  // namespace

// As in "load_tensors:   CPU_Mapped model buffer size =   136.40 MiB".
void LlamaBuffers::read(std::string_view line) {
  constexpr std::string_view kBefore = " buffer size = ";
  constexpr double kMiB = 1 << 20;
  const std::size_t at = line.find(kBefore);
  if (at == std::string_view::npos || !line.ends_with(" MiB")) return;
  const std::string number(line.substr(at + kBefore.size()));
  char* end = nullptr;
  const double mib = std::strtod(number.c_str(), &end);
  if (end == number.c_str() || !(mib > 0)) return;
  const auto bytes = static_cast<std::uint64_t>(mib * kMiB);
  const std::string_view head = line.substr(0, at);
  if (head.ends_with("_Mapped model")) {
    mapped += bytes;
  } else if (head.ends_with(" model")) {
    copied += bytes;
  } else if (head.ends_with(" compute")) {
    compute += bytes;
  } else if (head.ends_with(" output")) {
    output += bytes;
  } else if (head.ends_with(" KV") || head.ends_with(" RS") || head.ends_with(" state")) {
    kv += bytes;  // what the model remembers of a sequence
  }
}

void init_llama() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Of itself glibc raises the first up to 32 MiB, after buffers that were freed, and the second
    // with it: those of the next model then come from the heap of a thread, whose end it keeps.
    ::mallopt(M_MMAP_THRESHOLD, kMappedBytes);
    ::mallopt(M_TRIM_THRESHOLD, kKeptBytes);
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
