// SPDX-License-Identifier: Apache-2.0
//
// What a replay is asked to do, and the small languages of its options.
//
// Thread-safe: values and pure functions. Errors are kInvalidArgument and say what would be right.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/schedule/level.h"

namespace weir::replay {

enum class Api { kInfer, kCompletions };

/// Where requests go.
struct Target {
  std::string host;  ///< name or address; IPv6 without brackets
  std::uint16_t port = 80;
  bool names_port = false;
  std::string authority;  ///< for the Host field
  std::string path;       ///< empty: the API's own
};
/// "http://HOST[:PORT][/PATH]"; the scheme may be left out.
[[nodiscard]] Result<Target> parse_target(std::string_view text);

/// One kind of requests: a share of them, with their priority and deadline.
struct RequestClass {
  std::string name = "all";
  double share = 1;
  std::int32_t priority = schedule::kDefaultLevel;
  std::optional<std::chrono::milliseconds> deadline;
};
/// "NAME:SHARE:PRIORITY[:DEADLINE_MS]"
[[nodiscard]] Result<RequestClass> parse_class(std::string_view text);

struct Tenant {
  std::string name;  ///< empty: requests name none
  double share = 1;
};
/// "NAME:SHARE"
[[nodiscard]] Result<Tenant> parse_tenant(std::string_view text);

/// What makes an answer a good one. A request meets the objective when every bound that is set
/// holds; `itl` bounds the mean gap between its tokens.
struct Objective {
  std::optional<Duration> ttft;
  std::optional<Duration> itl;
  std::optional<Duration> e2e;
};
/// "ttft=200ms,itl=50ms,e2e=2s", any of them; units us, ms, s.
[[nodiscard]] Result<Objective> parse_objective(std::string_view text);

/// Lengths of Poisson requests: N, or MIN-MAX with equal chances.
struct LengthRange {
  std::uint32_t min = 1;
  std::uint32_t max = 1;
};
[[nodiscard]] Result<LengthRange> parse_length(std::string_view text);

/// "Name: value"
[[nodiscard]] Result<std::pair<std::string, std::string>> parse_header(std::string_view text);

/// 1..64 letters, digits, '.', '_' or '-': what can stand anywhere.
[[nodiscard]] bool is_plain_name(std::string_view name);

struct Options {
  // The load: exactly one of the three.
  std::string trace;                         ///< path, "-": standard input
  std::optional<double> poisson_per_s;       ///< mean rate
  std::optional<std::uint32_t> concurrency;  ///< closed loop: so many always outstanding

  Target target;
  double speed = 1;  ///< of the trace's own clock
  std::optional<double> duration_s;
  std::optional<std::uint64_t> limit;
  double warmup_s = 0;
  std::uint64_t seed = 1;
  LengthRange prompt_tokens{32, 32};  ///< not of a trace
  LengthRange output_tokens{16, 16};
  std::optional<std::uint32_t> max_prompt_tokens;
  std::optional<std::uint32_t> max_output_tokens;
  double scale_lengths = 1;

  std::string model;  ///< empty: the target's only one
  Api api = Api::kInfer;
  bool stream = false;
  std::vector<RequestClass> classes;  ///< at least one
  std::vector<Tenant> tenants;        ///< at least one
  std::string tenant_header = "x-weir-tenant";
  std::vector<std::pair<std::string, std::string>> headers;
  std::optional<Objective> objective;

  Duration timeout = std::chrono::seconds(60);
  std::uint32_t connections = 4096;   ///< open at most
  std::uint32_t max_inflight = 4096;  ///< requests due and not answered

  /// Fills in the class and the tenant that stand for "all", and checks what spans fields.
  [[nodiscard]] Status complete();
};

}  // namespace weir::replay
