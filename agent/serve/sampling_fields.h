// SPDX-License-Identifier: Apache-2.0
//
// The fields of a request's body that say how tokens are chosen; both generating protocols have
// them. Ranges are those of OpenAI's completions where it has the field.
//
// Thread-safe: pure functions.
#pragma once

#include "agent/model/generation.h"
#include "agent/serve/json_fields.h"

namespace weir::serve {

/// Sets what is there and leaves the rest. A grammar or a schema that cannot be used is an error of
/// its field, as is more than one of them.
void read_sampling(JsonFields& fields, model::SamplingParams& sampling);

}  // namespace weir::serve
