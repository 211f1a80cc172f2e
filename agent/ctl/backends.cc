// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/backends.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "agent/base/json_text.h"
#include "agent/ctl/text_table.h"
#include "agent/kernel/names.h"
#include "agent/telemetry/stat_names.h"

namespace weir::ctl {
namespace {

namespace json = boost::json;
using kernel::BackendReading;
using kernel::Histogram;
using std::chrono::nanoseconds;

/// The weight that counts: only active backends are picked.
double effective_weight(const BackendReading& backend) {
  return backend.state == WEIR_BE_ACTIVE ? backend.weight : 0;
}

double pool_weight(const kernel::Snapshot& snapshot, std::uint32_t pool) {
  double sum = 0;
  for (const auto& backend : snapshot.backends) {
    if (backend.pool == pool) sum += effective_weight(backend);
  }
  return sum;
}

double share(const BackendReading& backend, double sum) {
  return sum > 0 ? effective_weight(backend) / sum : 0;
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

json::object backend_json(const BackendReading& backend, double sum) {
  json::object ttfb = histogram_json(backend.ttfb);
  ttfb["buckets"] = buckets_json(backend.ttfb);
  return {{"index", backend.index},
          {"address", backend.address.to_string()},
          {"local", backend.is_local},
          {"state", kernel::to_string(backend.state)},
          {"weight", backend.weight},
          {"share", share(backend, sum)},
          {"in_flight", backend.in_flight},
          {"waiting", backend.waiting},
          {"streaming", backend.streaming},
          {"connects", backend.connects},
          {"established", backend.established},
          {"connect_failures", backend.connect_failures},
          {"requests", backend.requests},
          {"connect_us", histogram_json(backend.connect_latency)},
          {"ttfb_us", std::move(ttfb)}};
}

Row backend_row(const BackendReading& backend, double sum) {
  return {backend.address.to_string() + (backend.is_local ? " (local)" : ""),
          std::string(kernel::to_string(backend.state)),
          fmt::format("{:.3g}", backend.weight),
          fmt::format("{:.1f}%", 100 * share(backend, sum)),
          std::to_string(backend.in_flight),
          std::to_string(backend.waiting),
          time_text(backend.connect_latency.quantile(0.5)),
          time_text(backend.connect_latency.quantile(0.99)),
          time_text(backend.ttfb.quantile(0.5)),
          time_text(backend.ttfb.quantile(0.99)),
          std::to_string(backend.connects),
          std::to_string(backend.connect_failures),
          std::to_string(backend.requests)};
}

}  // namespace

std::string to_text(const kernel::Snapshot& snapshot) {
  if (snapshot.services.empty()) return "no services are configured\n";
  std::string out;
  for (const auto& service : snapshot.services) {
    if (!out.empty()) out += '\n';
    out += fmt::format("{}  {}  picks {}  misses {}\n", service.name, service.address.to_string(),
                       service.picks, service.misses);
    std::vector<Row> rows = {{"BACKEND", "STATE", "WEIGHT", "SHARE", "IN-FLIGHT", "WAITING",
                              "CONN P50", "CONN P99", "TTFB P50", "TTFB P99", "CONNECTS",
                              "FAILURES", "REQUESTS"}};
    const double sum = pool_weight(snapshot, service.pool);
    for (const auto& backend : snapshot.backends) {
      if (backend.pool == service.pool) rows.push_back(backend_row(backend, sum));
    }
    out += format_table(rows, 2);
  }
  return out;
}

std::string to_json(const kernel::Snapshot& snapshot) {
  json::array services;
  for (const auto& service : snapshot.services) {
    json::array backends;
    const double sum = pool_weight(snapshot, service.pool);
    for (const auto& backend : snapshot.backends) {
      if (backend.pool == service.pool) backends.push_back(backend_json(backend, sum));
    }
    services.push_back(json::object{{"name", service.name},
                                    {"address", service.address.to_string()},
                                    {"picks", service.picks},
                                    {"misses", service.misses},
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
