// SPDX-License-Identifier: Apache-2.0
//
// From the body of a request to what it asks for. A large body is parsed by the worker pool: a
// MiB takes 0.5 ms (text) to 4 ms (numbers), for which the I/O thread, which has thousands of other
// connections, would stand still.
//
// Thread-safety: called on the I/O thread, which also starts what is asked for. For a client that
// leaves while its body is parsed nothing is started; what admission set aside is held until then.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "agent/base/clock.h"
#include "agent/serve/exchange.h"
#include "agent/serve/generation_call.h"
#include "agent/serve/handlers.h"

namespace weir::serve {

/// Parses, on any thread, and makes what is then called once, on the I/O thread.
using ParseAndGoOn = std::function<std::function<void()>(std::string_view body, TimePoint now)>;

/// Only from a handler. Without workers, or when they refuse, it is parsed here and now.
void parse_body(const Services& services, const std::shared_ptr<Exchange>& exchange,
                ParseAndGoOn parse);

/// Pure; any thread.
using ParseBody = Outcome<GenerationCall> (*)(std::string_view body, TimePoint now);

/// The same for a generation.
void parse_and_start(const Services& services, const std::shared_ptr<Exchange>& exchange,
                     ParseBody parse, FormatResult format);

}  // namespace weir::serve
