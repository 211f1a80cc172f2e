// SPDX-License-Identifier: Apache-2.0
//
// How much memory a model will take, before it takes it.
//
// Thread-safe: a pure function.
#pragma once

#include <cstdint>

#include "agent/model/gguf_check.h"
#include "agent/model/loaded_model.h"
#include "agent/model/memory_reading.h"

namespace weir::model {

/// What the instances over the file will have; the numbers that libllama will not tell before the
/// load has been done. Within a few percent of what it then says (tests/unit/model).
[[nodiscard]] MemoryReading estimate_memory(const ModelOptions& options, const CheckedGguf& file);

}  // namespace weir::model
