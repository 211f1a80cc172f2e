// SPDX-License-Identifier: Apache-2.0
//
// The first decode of a loaded model, before anybody waits for it: it reserves what the graph needs
// and brings the weights into memory.
//
// Thread-compatible: the engine thread. The cache is empty afterwards.
#pragma once

#include <atomic>
#include <cstddef>

#include "agent/base/result.h"
#include "agent/model/loaded_model.h"

namespace weir::model {

/// Tokens of the batch: few, as the weights are read once whatever their number.
inline constexpr std::size_t kWarmUpTokens = 16;

/// kUnavailable when `stopping` became true meanwhile; kInternal when libllama cannot decode.
Status warm_up(LoadedModel& model, const std::atomic<bool>& stopping);

}  // namespace weir::model
