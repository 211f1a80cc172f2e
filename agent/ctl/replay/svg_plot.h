// SPDX-License-Identifier: Apache-2.0
//
// Plots as SVG elements that stand inside an HTML page and need nothing from outside. Colours come
// from the page's style: classes "s0".."s7" of lines and areas, "grid", "axis".
//
// Thread-safe: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weir::replay {

enum class Scale {
  kLinear,
  kLog,    ///< values of 0 and less are left out
  kNines,  ///< of shares 0..1: 0 %, 90 %, 99 %, ... at equal distances
};

struct Axis {
  std::string label;
  Scale scale = Scale::kLinear;
};

struct Series {
  std::string name;
  std::size_t colour = 0;                         ///< 0..7
  std::vector<std::pair<double, double>> points;  ///< x ascending
};

/// One line for each series; series without points are left out. A text when none has any.
[[nodiscard]] std::string line_plot(std::string_view title, const Axis& x, const Axis& y,
                                    const std::vector<Series>& series);

/// Areas on top of one another, the first at the bottom. All series have the same x; axes are
/// linear.
[[nodiscard]] std::string stacked_plot(std::string_view title, std::string_view x_label,
                                       std::string_view y_label, const std::vector<Series>& series);

/// For text in HTML and SVG.
[[nodiscard]] std::string escaped(std::string_view text);

}  // namespace weir::replay
