// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/event_text.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <array>
#include <boost/json.hpp>
#include <cstring>
#include <ctime>

#include "agent/base/json_text.h"

namespace weir::ctl {
namespace {

namespace json = boost::json;
using std::chrono::microseconds;
using std::chrono::nanoseconds;

struct FlagName {
  std::uint32_t flag;  ///< enum weir_sk_flags
  std::string_view name;
};
constexpr std::array kFlagNames = {
    FlagName{WEIR_SK_PROBE, "probe"},     FlagName{WEIR_SK_DIRECT, "direct"},
    FlagName{WEIR_SK_ADOPTED, "adopted"}, FlagName{WEIR_SK_SERVER, "server"},
    FlagName{WEIR_SK_TLS, "tls"},         FlagName{WEIR_SK_MUX, "mux"},
};

struct SplitTime {
  std::time_t seconds;
  std::int64_t micros;  ///< 0 .. 999999
};

SplitTime split(WallTime time) {
  const auto whole = std::chrono::floor<std::chrono::seconds>(time);
  return {std::chrono::system_clock::to_time_t(whole),
          std::chrono::duration_cast<microseconds>(time - whole).count()};
}

double to_us(nanoseconds time) { return std::chrono::duration<double, std::micro>(time).count(); }

}  // namespace

std::string clock_text(WallTime time) {
  const SplitTime parts = split(time);
  std::tm local{};
  localtime_r(&parts.seconds, &local);
  return fmt::format("{:%H:%M:%S}.{:03}", local, parts.micros / 1000);
}

std::string utc_text(WallTime time) {
  const SplitTime parts = split(time);
  std::tm utc{};
  gmtime_r(&parts.seconds, &utc);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:06}Z", utc, parts.micros);
}

std::string duration_text(std::optional<nanoseconds> time) {
  if (!time) return "-";
  const double us = to_us(*time);
  if (us < 1e3) return fmt::format("{:.0f}us", us);
  if (us < 1e6) return fmt::format("{:.3g}ms", us / 1e3);
  return fmt::format("{:.3g}s", us / 1e6);
}

std::string errno_text(int error) {
  const char* const name = strerrorname_np(error);
  return name != nullptr ? name : fmt::format("error {}", error);
}

std::vector<std::string_view> flag_names(std::uint32_t flags) {
  std::vector<std::string_view> names;
  for (const auto& [flag, name] : kFlagNames) {
    if ((flags & flag) != 0) names.push_back(name);
  }
  return names;
}

json::object head_json(std::string_view event, const kernel::EventHead& head, WallTime when) {
  json::object object = {{"event", event},
                         {"time", utc_text(when)},
                         {"monotonic_ns", nanoseconds(head.time.time_since_epoch()).count()},
                         {"service", head.service}};
  object["backend"] = head.backend ? json::value(*head.backend) : json::value(nullptr);
  object["cookie"] = head.cookie;
  return object;
}

json::value us_or_null(std::optional<nanoseconds> time) {
  return time ? json::value(to_us(*time)) : json::value(nullptr);
}

std::string losses_text(const kernel::EventLosses& losses, WallTime when, bool json) {
  if (json) {
    return to_json_text(json::object{{"event", "lost"},
                                     {"time", utc_text(when)},
                                     {"records", losses.records},
                                     {"unwatched_us", to_us(losses.unwatched)}}) +
           "\n";
  }
  std::string out;
  if (losses.records != 0) {
    out += fmt::format("{}  lost     {} records: they came faster than they were read\n",
                       clock_text(when), losses.records);
  }
  if (losses.unwatched.count() != 0) {
    out += fmt::format("{}  lost     whatever happened in {}: the output was blocked\n",
                       clock_text(when), duration_text(losses.unwatched));
  }
  return out;
}

}  // namespace weir::ctl
