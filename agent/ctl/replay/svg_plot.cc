// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/svg_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace weir::replay {
namespace {

constexpr double kWidth = 720;
constexpr double kHeight = 300;
constexpr double kLeft = 64;
constexpr double kRight = 16;
constexpr double kTop = 16;
constexpr double kBottom = 44;
/// Of a share of 1, which has infinitely many.
constexpr double kMostNines = 6;

struct Tick {
  double at = 0;  // as placed()
  std::string text;
};

/// Where a value lies on its axis, before it is stretched to the plot.
double placed(Scale scale, double value) {
  switch (scale) {
    case Scale::kLog:
      return value > 0 ? std::log10(value) : std::numeric_limits<double>::quiet_NaN();
    case Scale::kNines:
      return value >= 1 ? kMostNines : std::min(-std::log10(1 - value), kMostNines);
    case Scale::kLinear:
      break;
  }
  return value;
}

std::vector<Tick> linear_ticks(double low, double high) {
  const double rough = (high - low) / 5;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = power;
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    step = factor * power;
    if (step >= rough) break;
  }
  std::vector<Tick> ticks;
  for (double at = std::ceil(low / step) * step; at <= high + step * 1e-6; at += step) {
    ticks.push_back({at, fmt::format("{:.4g}", std::abs(at) < step * 1e-6 ? 0.0 : at)});
  }
  return ticks;
}

std::vector<Tick> log_ticks(double low, double high) {
  std::vector<Tick> ticks;
  const bool between = high - low < 2.5;  // room for 2 and 5
  for (double decade = std::floor(low); decade <= high; ++decade) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double at = decade + std::log10(factor);
      if ((factor > 1 && !between) || at < low - 1e-9 || at > high + 1e-9) continue;
      ticks.push_back({at, fmt::format("{:.10g}", factor * std::pow(10, decade))});
    }
  }
  return ticks;
}

std::vector<Tick> nines_ticks(double high) {
  std::vector<Tick> ticks{{0, "0 %"}};
  for (int nines = 1; nines <= high + 1e-9; ++nines) {
    ticks.push_back({double(nines), fmt::format("{:.10g} %", 100 - 100 * std::pow(10, -nines))});
  }
  return ticks;
}

/// A range of placed values, and where it lies in the picture.
struct Frame {
  Scale scale = Scale::kLinear;
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  double from = 0;  // pixel of low
  double to = 0;    // pixel of high

  void include(double value) {
    const double at = placed(scale, value);
    if (!std::isfinite(at)) return;
    low = std::min(low, at);
    high = std::max(high, at);
  }
  [[nodiscard]] bool empty() const { return low > high; }
  /// Zero belongs to a linear axis of amounts; a range of nothing has no scale.
  void settle() {
    if (scale != Scale::kLog) low = std::min(low, 0.0);
    if (high - low < 1e-9) high = low + 1;
    if (scale == Scale::kLinear) high += (high - low) * 0.05;
  }
  [[nodiscard]] double pixel(double at) const {
    return from + (at - low) / (high - low) * (to - from);
  }
  [[nodiscard]] std::vector<Tick> ticks() const {
    if (scale == Scale::kLog) return log_ticks(low, high);
    return scale == Scale::kNines ? nines_ticks(high) : linear_ticks(low, high);
  }
};

std::string begin_plot(std::string_view title) {
  return fmt::format(
      "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {} {}\" role=\"img\" "
      "aria-label=\"{}\">\n",
      escaped(title), kWidth, kHeight, escaped(title));
}

std::string axes(const Frame& x, const Frame& y, std::string_view x_label,
                 std::string_view y_label) {
  std::string out;
  for (const Tick& tick : y.ticks()) {
    const double at = y.pixel(tick.at);
    out += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        x.from, x.to, at, at, x.from - 6, at + 4, tick.text);
  }
  for (const Tick& tick : x.ticks()) {
    const double at = x.pixel(tick.at);
    out += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\"/>"
        "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
        at, at, y.from, y.to, at, y.from + 16, tick.text);
  }
  out += fmt::format("<path class=\"axis\" d=\"M{} {}V{}H{}\"/>\n", x.from, y.to, y.from, x.to);
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                     (x.from + x.to) / 2, kHeight - 6, escaped(x_label));
  out += fmt::format(
      "<text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      (y.from + y.to) / 2, escaped(y_label));
  return out;
}

std::string legend(const std::vector<Series>& series) {
  std::string out = "<div class=\"legend\">";
  for (const Series& each : series) {
    if (each.points.empty()) continue;
    out += fmt::format("<span><i class=\"b{}\"></i>{}</span>", each.colour % 8, escaped(each.name));
  }
  return out + "</div></figure>\n";
}

std::string nothing(std::string_view title) {
  return fmt::format(
      "<figure><figcaption>{}</figcaption><p class=\"none\">nothing measured</p>"
      "</figure>\n",
      escaped(title));
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string line_plot(std::string_view title, const Axis& x_axis, const Axis& y_axis,
                      const std::vector<Series>& series) {
  Frame x{.scale = x_axis.scale, .from = kLeft, .to = kWidth - kRight};
  Frame y{.scale = y_axis.scale, .from = kHeight - kBottom, .to = kTop};
  for (const Series& each : series) {
    for (const auto& [at, value] : each.points) {
      if (y_axis.scale == Scale::kLog && !(value > 0)) continue;
      if (x_axis.scale == Scale::kLog && !(at > 0)) continue;
      x.include(at);
      y.include(value);
    }
  }
  if (x.empty() || y.empty()) return nothing(title);
  x.settle();
  y.settle();
  std::string out = begin_plot(title) + axes(x, y, x_axis.label, y_axis.label);
  for (const Series& each : series) {
    std::string path;
    for (const auto& [at, value] : each.points) {
      const double px = placed(x.scale, at);
      const double py = placed(y.scale, value);
      if (!std::isfinite(px) || !std::isfinite(py)) continue;
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? 'M' : 'L', x.pixel(px), y.pixel(py));
    }
    if (path.empty()) continue;
    out += fmt::format("<path class=\"line s{}\" d=\"{}\"><title>{}</title></path>\n",
                       each.colour % 8, path, escaped(each.name));
  }
  return out + "</svg>\n" + legend(series);
}

std::string stacked_plot(std::string_view title, std::string_view x_label, std::string_view y_label,
                         const std::vector<Series>& series) {
  Frame x{.from = kLeft, .to = kWidth - kRight};
  Frame y{.from = kHeight - kBottom, .to = kTop};
  const std::size_t count = series.empty() ? 0 : series.front().points.size();
  if (count == 0) return nothing(title);
  std::vector<double> base(count, 0);
  std::vector<double> sums(count, 0);
  for (const Series& each : series) {
    for (std::size_t i = 0; i < count; ++i) {
      sums[i] += each.points[i].second;
      x.include(each.points[i].first);
      y.include(sums[i]);
    }
  }
  y.include(0);
  x.settle();
  y.settle();
  std::string out = begin_plot(title) + axes(x, y, x_label, y_label);
  for (const Series& each : series) {
    std::string upper;
    std::string lower;
    for (std::size_t i = 0; i < count; ++i) {
      const double px = x.pixel(each.points[i].first);
      lower.insert(0, fmt::format("L{:.1f} {:.1f}", px, y.pixel(base[i])));
      base[i] += each.points[i].second;
      upper += fmt::format("{}{:.1f} {:.1f}", upper.empty() ? 'M' : 'L', px, y.pixel(base[i]));
    }
    out += fmt::format("<path class=\"area a{}\" d=\"{}{}Z\"><title>{}</title></path>\n",
                       each.colour % 8, upper, lower, escaped(each.name));
  }
  return out + "</svg>\n" + legend(series);
}

}  // namespace weir::replay
