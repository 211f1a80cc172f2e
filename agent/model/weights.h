// SPDX-License-Identifier: Apache-2.0
//
// A model's file in memory, without a context.
//
// Thread-safe: never changed once it is loaded. Shared by contexts, and by prompts that are being
// tokenized; the last who lets go frees it.
#pragma once

#include <llama.h>

#include <cstdint>
#include <memory>

#include "agent/model/model_file.h"

namespace weir::model {

struct Weights {
  std::shared_ptr<llama_model> model;  ///< not null
  std::shared_ptr<ModelFile> file;     ///< not null
  std::uint64_t file_bytes = 0;        ///< of all parts
  std::uint64_t copied_bytes = 0;      ///< beside the file
  /// Less of it is in memory than ready_residency asks for: there is no room for more.
  bool thin = false;
};

}  // namespace weir::model
