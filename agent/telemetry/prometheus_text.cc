// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/prometheus_text.h"

#include <array>
#include <charconv>
#include <cmath>

namespace weir::telemetry {
namespace {

// HELP escapes backslash and line feed; label values also the quote.
void append_escaped(std::string& out, std::string_view text, bool in_quotes) {
  for (const char c : text) {
    if (c == '\\') {
      out += "\\\\";
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '"' && in_quotes) {
      out += "\\\"";
    } else {
      out += c;
    }
  }
}

void append_double(std::string& out, double number) {
  if (std::isnan(number)) {
    out += "NaN";
  } else if (std::isinf(number)) {
    out += number > 0 ? "+Inf" : "-Inf";
  } else {
    std::array<char, 32> text{};
    out.append(text.data(), std::to_chars(text.data(), text.data() + text.size(), number).ptr);
  }
}

}  // namespace

std::string_view to_string(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "untyped";
}

void PrometheusText::family(const MetricDescription& description) {
  name_ = description.name;
  text_ += "# HELP ";
  text_ += name_;
  text_ += ' ';
  append_escaped(text_, description.help, false);
  text_ += "\n# TYPE ";
  text_ += name_;
  text_ += ' ';
  text_ += to_string(description.type);
  text_ += '\n';
}

void PrometheusText::sample(Labels labels, std::uint64_t number) {
  series("", labels, std::nullopt);
  value(number);
}

void PrometheusText::sample(Labels labels, double number) {
  series("", labels, std::nullopt);
  value(number);
}

void PrometheusText::histogram(Labels labels, std::span<const HistogramBucket> buckets,
                               std::uint64_t overflow, double sum_seconds) {
  std::uint64_t cumulative = 0;
  for (const HistogramBucket& bucket : buckets) {
    cumulative += bucket.count;
    series("_bucket", labels, bucket.upper_seconds);
    value(cumulative);
  }
  cumulative += overflow;
  series("_bucket", labels, HUGE_VAL);
  value(cumulative);
  series("_sum", labels, std::nullopt);
  value(sum_seconds);
  series("_count", labels, std::nullopt);
  value(cumulative);
}

void PrometheusText::series(std::string_view suffix, Labels labels, std::optional<double> le) {
  text_ += name_;
  text_ += suffix;
  char separator = '{';
  for (const Label& label : labels) {
    text_ += separator;
    text_ += label.name;
    text_ += "=\"";
    append_escaped(text_, label.value, true);
    text_ += '"';
    separator = ',';
  }
  if (le.has_value()) {
    text_ += separator;
    text_ += "le=\"";
    append_double(text_, *le);
    text_ += '"';
    separator = ',';
  }
  if (separator == ',') text_ += '}';
  text_ += ' ';
}

void PrometheusText::value(std::uint64_t number) {
  text_ += std::to_string(number);
  text_ += '\n';
}

void PrometheusText::value(double number) {
  append_double(text_, number);
  text_ += '\n';
}

}  // namespace weir::telemetry
