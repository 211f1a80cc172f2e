// SPDX-License-Identifier: Apache-2.0
//
// From a parsed call to a running generation: what /infer and /v1/completions share. Results come
// back from the engine's thread and are turned into bytes on the session's I/O thread.
//
// Thread-safety: functions are called on I/O threads; the listeners they make are called by the
// engine.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/serve/api_error.h"
#include "agent/serve/exchange.h"
#include "agent/serve/generation_json.h"
#include "agent/serve/handlers.h"

namespace weir::serve {

/// Makes the body of a whole answer.
using FormatResult = std::string (*)(const GenerationNames&, const GeneratedText& text,
                                     const model::Completion&);

/// Submits the call, or answers the exchange with the error. A call with `stream` set is answered
/// with OpenAI's events, any other with one body made by `format`. The client leaving cancels it.
void start_generation(const Services& services, const std::shared_ptr<Exchange>& exchange,
                      Outcome<GenerationCall> call, FormatResult format);

}  // namespace weir::serve
