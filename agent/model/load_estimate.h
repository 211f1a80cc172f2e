// SPDX-License-Identifier: Apache-2.0
//
// How much memory a model will take, before it takes it.
//
// Thread-safe: a pure function.
#pragma once

#include <llama.h>

#include <cstdint>

#include "agent/model/loaded_model.h"

namespace weir::model {

/// Bytes of the weights, the KV cache and what a step computes with. `weights` null: they are not
/// loaded yet, and only the file's size is known, which is most of it.
[[nodiscard]] std::uint64_t estimate_bytes(const ModelOptions& options, std::uint64_t file_bytes,
                                           const llama_model* weights);

}  // namespace weir::model
