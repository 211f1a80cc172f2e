// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/backends.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "agent/base/json_text.h"
#include "agent/ctl/text_table.h"
#include "agent/health/tracker.h"
#include "agent/kernel/names.h"
#include "agent/telemetry/stat_names.h"

namespace weir::ctl {
namespace {

namespace json = boost::json;
using kernel::BackendReading;
using kernel::Histogram;
using kernel::ServiceReading;
using std::chrono::nanoseconds;

/// The weight that counts: a backend whose breaker is not closed gets a few trials at most, unless
/// its pool ignores breakers.
double effective_weight(const BackendReading& backend, bool panic) {
  const bool taken =
      backend.state == WEIR_BE_ACTIVE && (panic || backend.breaker.state == WEIR_BREAKER_CLOSED);
  return taken ? backend.weight : 0;
}

/// The backends of one pool, with the share of its new connections that each has by weight.
struct Member {
  const BackendReading* backend = nullptr;
  double share = 0;
};

std::vector<Member> members_of(const ServiceReading& service, const kernel::Snapshot& snapshot) {
  std::vector<Member> members;
  const bool panic = health::in_panic(service, snapshot.services);
  double sum = 0;
  for (const auto& backend : snapshot.backends) {
    if (backend.pool != service.pool) continue;
    members.push_back({&backend, effective_weight(backend, panic)});
    sum += members.back().share;
  }
  for (auto& member : members) member.share = sum > 0 ? member.share / sum : 0;
  return members;
}

double to_us(nanoseconds time) { return std::chrono::duration<double, std::micro>(time).count(); }

/// Three significant digits in the unit that suits: "812us", "80.2ms", "12.3s".
std::string time_text(std::optional<nanoseconds> time) {
  if (!time) return "-";
  const double us = to_us(*time);
  if (us < 1e3) return fmt::format("{:.0f}us", us);
  if (us < 1e6) return fmt::format("{:.3g}ms", us / 1e3);
  return fmt::format("{:.3g}s", us / 1e6);
}

json::value us_or_null(std::optional<nanoseconds> time) {
  return time ? json::value(to_us(*time)) : json::value(nullptr);
}

json::object histogram_json(const Histogram& histogram) {
  return {{"count", histogram.count()},
          {"mean", us_or_null(histogram.mean())},
          {"p50", us_or_null(histogram.quantile(0.5))},
          {"p99", us_or_null(histogram.quantile(0.99))}};
}

json::array buckets_json(const Histogram& histogram) {
  json::array buckets;
  for (std::size_t i = 0; i < histogram.buckets().size(); ++i) {
    const auto& bucket = histogram.buckets()[i];
    if (bucket.count == 0) continue;
    buckets.push_back(json::array{to_us(Histogram::upper_bound(i)), bucket.count, bucket.sum_ns});
  }
  return buckets;
}

/// What is left of the open time of a breaker; null when it is not open.
json::value open_ms_or_null(const BackendReading& backend, TimePoint now) {
  if (backend.breaker.state != WEIR_BREAKER_OPEN) return nullptr;
  const auto left = std::max(backend.breaker.until - now, Duration::zero());
  return std::chrono::duration_cast<std::chrono::milliseconds>(left).count();
}

json::object backend_json(const Member& member, TimePoint now) {
  const BackendReading& backend = *member.backend;
  json::object ttfb = histogram_json(backend.ttfb());
  ttfb["buckets"] = buckets_json(backend.ttfb());
  return {{"index", backend.index},
          {"address", backend.address.to_string()},
          {"local", backend.is_local},
          {"state", kernel::to_string(backend.state)},
          {"breaker",
           {{"state", kernel::to_string(backend.breaker.state)},
            {"level", backend.breaker.level},
            {"open_ms", open_ms_or_null(backend, now)},
            {"opens", backend.breaker_opens}}},
          {"weight", backend.weight},
          {"share", member.share},
          {"latency_us", us_or_null(backend.latency)},
          {"min_rtt_us", us_or_null(backend.min_rtt)},
          {"load", backend.load()},
          {"in_flight", backend.in_flight},
          {"fresh", backend.fresh},
          {"waiting", backend.waiting},
          {"streaming", backend.streaming},
          {"connects", backend.connects},
          {"direct", backend.direct},
          {"adopted", backend.adopted},
          {"established", backend.established},
          {"connect_failures", backend.connect_failures},
          {"consecutive_failures", backend.consecutive_failures},
          {"refused", backend.refused},
          {"timed_out", backend.timed_out},
          {"resets", backend.resets},
          {"closes", backend.closes},
          {"mux", backend.mux},
          {"idle_ended", backend.idle_ended},
          {"requests", backend.requests},
          {"interim", backend.interim},
          {"bytes_sent", backend.bytes_sent},
          {"bytes_received", backend.bytes_received},
          {"retransmits", backend.retransmits},
          {"rtos", backend.rtos},
          {"connect_us", histogram_json(backend.connect_latency())},
          {"ttfb_us", std::move(ttfb)},
          {"duration_us", histogram_json(backend.histogram(WEIR_HIST_DURATION))},
          {"rtt_us", histogram_json(backend.histogram(WEIR_HIST_RTT))},
          {"unread_us", histogram_json(backend.histogram(WEIR_HIST_UNREAD))}};
}

/// "active", "draining", "half_open", "open 4.2s"; with the level of a breaker that relapsed.
std::string state_text(const BackendReading& backend, TimePoint now) {
  const auto& breaker = backend.breaker;
  if (backend.state != WEIR_BE_ACTIVE || breaker.state == WEIR_BREAKER_CLOSED) {
    return std::string(kernel::to_string(backend.state));
  }
  std::string text(kernel::to_string(breaker.state));
  if (breaker.state == WEIR_BREAKER_OPEN) {
    const std::chrono::duration<double> left = breaker.until - now;
    text += fmt::format(" {:.1f}s", std::max(left.count(), 0.0));
  }
  if (breaker.level > 0) text += fmt::format(" level {}", breaker.level);
  return text;
}

Row backend_row(const Member& member, TimePoint now) {
  const BackendReading& backend = *member.backend;
  return {backend.address.to_string() + (backend.is_local ? " (local)" : ""),
          state_text(backend, now),
          fmt::format("{:.3g}", backend.weight),
          fmt::format("{:.1f}%", 100 * member.share),
          fmt::format("{:g}", backend.load()),
          std::to_string(backend.in_flight),
          time_text(backend.connect_latency().quantile(0.5)),
          time_text(backend.ttfb().quantile(0.5)),
          time_text(backend.ttfb().quantile(0.99)),
          std::to_string(backend.connects),
          std::to_string(backend.connect_failures),
          std::to_string(backend.resets),
          std::to_string(backend.requests)};
}

std::string service_line(const ServiceReading& service, bool panic) {
  std::string line = service.name;
  if (!service.is_backup()) line += "  " + service.address.to_string();
  line += fmt::format("  {}", kernel::to_string(service.policy));
  if (service.policy == WEIR_POLICY_PREQUAL)
    line += fmt::format("  hot above {:.3g}", service.rif_limit);
  // A pick of the backup pool is one of its service.
  if (!service.is_backup()) {
    line += fmt::format("  picks {}  misses {}", service.picks, service.misses);
    if (service.backup) line += fmt::format("  from backup {}", service.backups);
    if (service.panics > 0 || panic) line += fmt::format("  in panic {}", service.panics);
  }
  return line + "\n";
}

}  // namespace

std::string to_text(const kernel::Snapshot& snapshot) {
  if (snapshot.services.empty()) return "no services are configured\n";
  std::string out;
  for (const auto& service : snapshot.services) {
    if (!out.empty()) out += '\n';
    out += service_line(service, health::in_panic(service, snapshot.services));
    std::vector<Row> rows = {{"BACKEND", "STATE", "WEIGHT", "SHARE", "LOAD", "IN-FLIGHT",
                              "CONN P50", "TTFB P50", "TTFB P99", "CONNECTS", "FAILURES", "RESETS",
                              "REQUESTS"}};
    for (const auto& member : members_of(service, snapshot)) {
      rows.push_back(backend_row(member, snapshot.taken));
    }
    out += format_table(rows, 2);
  }
  return out;
}

std::string to_json(const kernel::Snapshot& snapshot) {
  json::array services;
  for (const auto& service : snapshot.services) {
    json::array backends;
    for (const auto& member : members_of(service, snapshot)) {
      backends.push_back(backend_json(member, snapshot.taken));
    }
    const auto backup =
        std::find_if(snapshot.services.begin(), snapshot.services.end(),
                     [&](const ServiceReading& other) { return service.backup == other.pool; });
    const bool has_backup = backup != snapshot.services.end();
    services.push_back(
        json::object{{"name", service.name},
                     {"address", service.is_backup() ? json::value(nullptr)
                                                     : json::value(service.address.to_string())},
                     {"policy", kernel::to_string(service.policy)},
                     {"when_empty", service.refuse_when_empty ? "refuse" : "pass"},
                     {"end_idle_when_open", service.end_idle_when_open},
                     {"backup", has_backup ? json::value(backup->name) : json::value(nullptr)},
                     {"rif_limit", service.rif_limit},
                     {"members", service.members},
                     {"open", service.open},
                     {"panic", health::in_panic(service, snapshot.services)},
                     {"picks", service.picks},
                     {"misses", service.misses},
                     {"panic_picks", service.panics},
                     {"backup_picks", service.backups},
                     {"backends", std::move(backends)}});
  }
  json::object stats;
  for (const auto& stat : telemetry::kStatNames) stats[stat.name] = snapshot.stats.at(stat.id);
  const json::object object = {{"services", std::move(services)}, {"stats", std::move(stats)}};
  return to_json_text(object) + "\n";
}

Result<std::string> backends_command(const std::string& pin_root, bool json) {
  auto reader = kernel::open_pinned(pin_root);
  if (!reader) return std::move(reader).error();
  auto snapshot = (*reader)->read();
  if (!snapshot) return std::move(snapshot).error();
  return json ? to_json(*snapshot) : to_text(*snapshot);
}

}  // namespace weir::ctl
