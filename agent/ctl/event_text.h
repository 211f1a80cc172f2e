// SPDX-License-Identifier: Apache-2.0
//
// How the parts of events are written, for people and in JSON.
//
// Thread-safe: pure functions, but for the time zone of the process.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/ctl/watch_loop.h"
#include "agent/kernel/event.h"

namespace weir::ctl {

/// Local time of day, "03:31:52.123".
[[nodiscard]] std::string clock_text(WallTime time);
/// "2026-11-23T03:31:52.123456Z".
[[nodiscard]] std::string utc_text(WallTime time);
/// Three significant digits in the unit that suits: "812us", "80.2ms", "12.3s"; "-": unknown.
[[nodiscard]] std::string duration_text(std::optional<std::chrono::nanoseconds> time);
/// "ECONNREFUSED"; the number where the C library has no name for it.
[[nodiscard]] std::string errno_text(int error);
/// Those of enum weir_sk_flags that mean something outside the kernel: probe, direct, adopted,
/// server, tls, mux.
[[nodiscard]] std::vector<std::string_view> flag_names(std::uint32_t flags);

/// The beginning of every JSON line: event, time, monotonic_ns, service, backend, cookie.
[[nodiscard]] boost::json::object head_json(std::string_view event, const kernel::EventHead& head,
                                            WallTime when);
/// Microseconds with decimals, or null.
[[nodiscard]] boost::json::value us_or_null(std::optional<std::chrono::nanoseconds> time);

/// "1 record lost: ...". Text of both commands; JSON: {"event": "lost", time, records,
/// unwatched_us}.
[[nodiscard]] std::string losses_text(const kernel::EventLosses& losses, WallTime when, bool json);

}  // namespace weir::ctl
