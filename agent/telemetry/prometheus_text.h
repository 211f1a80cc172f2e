// SPDX-License-Identifier: Apache-2.0
//
// Writer for the Prometheus text exposition format 0.0.4. Debian's prometheus-cpp would serve, but
// its development package installs a web server (civetweb), and it keeps counters as doubles.
//
// Thread-safety: a PrometheusText belongs to one thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace weir::telemetry {

enum class MetricType { kCounter, kGauge, kHistogram };
[[nodiscard]] std::string_view to_string(MetricType type);

/// One metric family: what the HELP and TYPE lines say, and one row of deploy/METRICS.md.
struct MetricDescription {
  std::string_view name;
  MetricType type;
  std::string_view unit;  ///< "1", "seconds", "bytes", "tokens", ...
  std::string_view help;
};

struct Label {
  std::string_view name;
  std::string_view value;
};
using Labels = std::initializer_list<Label>;

/// Samples with a value of at most `upper_seconds`, and of more than the bucket before.
struct HistogramBucket {
  double upper_seconds = 0;
  std::uint64_t count = 0;
};

class PrometheusText {
 public:
  static constexpr std::string_view kContentType = "text/plain; version=0.0.4; charset=utf-8";

  /// Starts a family: the samples that follow belong to it.
  void family(const MetricDescription& description);
  void sample(Labels labels, std::uint64_t value);
  void sample(Labels labels, double value);
  /// Writes cumulative buckets, `+Inf`, sum and count. `overflow`: samples beyond the last bucket.
  void histogram(Labels labels, std::span<const HistogramBucket> buckets, std::uint64_t overflow,
                 double sum_seconds);

  [[nodiscard]] std::string take() && { return std::move(text_); }

 private:
  void series(std::string_view suffix, Labels labels, std::optional<double> le);
  void value(std::uint64_t number);
  void value(double number);

  std::string text_;
  std::string_view name_;
};

}  // namespace weir::telemetry
