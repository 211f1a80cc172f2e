// SPDX-License-Identifier: Apache-2.0
//
// What a replay found, as JSON for programs, as text for a terminal, as HTML with plots.
//
// Thread-safe: values and pure functions.
#pragma once

#include <boost/json/object.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "agent/ctl/replay/client.h"
#include "agent/ctl/replay/options.h"
#include "agent/ctl/replay/recorder.h"
#include "agent/ctl/replay/trace_reader.h"

namespace weir::replay {

/// Version of the JSON report: raised when a field changes its meaning or goes.
inline constexpr int kReportVersion = 1;

struct TraceFacts {
  TraceFormat format = TraceFormat::kCsv;
  std::uint64_t records = 0;
  std::uint64_t reordered = 0;
};

struct RunFacts {
  double started_unix_s = 0;
  Duration elapsed{};  ///< from the start to the last answer
  Duration window{};   ///< in which load was offered, without the warm-up
  double cpu_s = 0;    ///< of the generator
  bool interrupted = false;
  ClientReading client;
  std::optional<TraceFacts> trace;
};

struct Report {
  Options options;
  RunFacts facts;
  std::unique_ptr<const Recorder> recorder;
};

/// "poisson 100/s", "trace a.csv at 2 times its speed", "closed, 16 at a time".
[[nodiscard]] std::string load_name(const Options& options);
[[nodiscard]] double window_s(const Report& report);
/// Tokens served (prompt and completion) by tenant.
[[nodiscard]] std::vector<double> tokens_by_tenant(const Report& report);

[[nodiscard]] boost::json::object to_json(const Report& report);
[[nodiscard]] std::string to_text(const Report& report);
[[nodiscard]] std::string to_html(const Report& report);

}  // namespace weir::replay
