// SPDX-License-Identifier: Apache-2.0
//
// Chooses the next token of one sequence: greedy at temperature 0, else top-k, top-p, temperature
// and a draw from what is left.
//
// Thread-compatible: one engine thread. Owns the chain and its random state.
#pragma once

#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/llama_handles.h"

namespace weir::model {

/// Fails with kInvalidArgument when a parameter is outside its range (see SamplingParams). Without
/// a seed every call draws one from the system.
Result<SamplerHandle> make_sampler(const SamplingParams& params);

}  // namespace weir::model
