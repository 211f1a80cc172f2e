// SPDX-License-Identifier: Apache-2.0
//
// A first look at a model file, before libllama sees it: is this a GGUF file with weights in it?
// Turns the usual accidents (a download page, a Git LFS pointer, half a file, a vocabulary) into a
// sentence. What it lets pass, libllama's loader still checks in full.
//
// Thread-safe: free functions without state. Failures are errors that name the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "agent/base/result.h"

namespace weir::model {

struct GgufHeader {
  std::uint32_t version = 0;
  std::uint64_t tensors = 0;
  std::uint64_t metadata_entries = 0;
};

/// Bytes at the start of a file that parse_gguf_header() looks at.
inline constexpr std::size_t kGgufHeaderBytes = 24;

/// `head`: the first min(kGgufHeaderBytes, file_bytes) bytes of a file of `file_bytes` bytes.
Result<GgufHeader> parse_gguf_header(std::span<const std::byte> head, std::uint64_t file_bytes);

struct GgufFile {
  GgufHeader header;
  std::uint64_t bytes = 0;
  std::int64_t modified_unix_seconds = 0;
};

/// Opens the file and parses its header. The error names the path.
Result<GgufFile> inspect_gguf_file(const std::string& path);

}  // namespace weir::model
