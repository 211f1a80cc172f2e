// SPDX-License-Identifier: Apache-2.0
//
// Whether a GGUF file can be a model that libllama loads, judged from its metadata alone: each rule
// is a sentence about the file. The rules are those whose breach makes libllama abort the process,
// or fail without saying what is wrong; files that libllama runs are not refused here. What passes
// may still be damaged in ways that only a load shows: load_trial.h.
//
// Thread-safe: free functions without state. Failures are kInvalidArgument and name the reason.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/gguf_reader.h"
#include "agent/model/gguf_shape.h"

namespace weir::model {

/// Whether the tables add up: keys and names occur once, and each tensor has a known type, a shape
/// that can be counted, and its bytes within the file, where libllama will look for them.
Status check_gguf_layout(const GgufMetadata& metadata, std::uint64_t file_bytes);

/// Whether the metadata describe a model: architecture, hyperparameters, vocabulary.
Status check_gguf_model(const GgufMetadata& metadata);

/// A model that has been checked. Its parts: the file, and the others of a split model, in order.
struct CheckedGguf {
  std::vector<std::string> paths;   ///< of the parts
  std::vector<FileIdentity> parts;  ///< likewise
  std::uint64_t bytes = 0;          ///< of all parts
  GgufShape shape;
  std::uint64_t repacked_bytes = 0;  ///< as in gguf_shape.h, of all parts
};

/// Reads the metadata of the file, and of all parts of a split model, and applies both checks. The
/// error names the path.
Result<CheckedGguf> check_gguf_file(const std::string& path);

}  // namespace weir::model
