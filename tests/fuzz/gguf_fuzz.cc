// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer's way into the reader of model files and the rules about them: `make fuzz-gguf`.
// Whatever the bytes are, the answer is that the file may pass or a sentence why not.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <variant>

#include "agent/model/gguf_check.h"
#include "tests/fixtures/gguf_mutator.h"
#include "tests/fixtures/gguf_writer.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

/// libFuzzer knows no lengths and offsets; half of the time the mutator that does takes its place.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned int seed) {
  if (size >= 24 && seed % 2 == 0) return LLVMFuzzerMutate(data, size, most);
  std::string head = size >= 24 ? std::string(reinterpret_cast<const char*>(data), size)
                                : weir::model::small_model().head();
  weir::model::GgufMutator(seed).mutate(head);
  const std::size_t length = std::min(head.size(), most);
  std::memcpy(data, head.data(), length);
  return length;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using weir::model::GgufMetadata;
  // As if a megabyte of weights came behind it.
  const std::uint64_t file_bytes = size + (1U << 20);
  const auto parsed = weir::model::parse_gguf(std::as_bytes(std::span(data, size)), file_bytes);
  if (const auto* error = std::get_if<weir::Error>(&parsed)) {
    if (error->message.size() < 10) std::abort();
    return 0;
  }
  const auto* metadata = std::get_if<GgufMetadata>(&parsed);
  if (metadata == nullptr) return 0;
  weir::Status status = weir::model::check_gguf_layout(*metadata, file_bytes);
  if (status) status = weir::model::check_gguf_model(*metadata);
  if (!status && status.error().message.size() < 10) std::abort();
  return 0;
}
