// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace weir::replay {
namespace {

constexpr std::size_t kBarWidth = 24;

/// By time when that is known: a trace's requests come unevenly. By number otherwise.
std::optional<double> share_done(const ProgressReading& reading) {
  if (reading.span && reading.span->count() > 0) {
    return std::min(1.0, std::chrono::duration<double>(reading.elapsed) /
                             std::chrono::duration<double>(*reading.span));
  }
  if (reading.planned && *reading.planned > 0) {
    return std::min(1.0,
                    static_cast<double>(reading.ended) / static_cast<double>(*reading.planned));
  }
  return std::nullopt;
}

}  // namespace

std::string progress_text(const ProgressReading& reading, std::size_t bar_width) {
  std::string text;
  const auto share = share_done(reading);
  if (share && bar_width > 0) {
    const auto full = static_cast<std::size_t>(*share * static_cast<double>(bar_width));
    text += fmt::format("[{}{}] ", std::string(full, '#'), std::string(bar_width - full, '.'));
  }
  if (share) text += fmt::format("{:3.0f} %  ", *share * 100);
  text += fmt::format("{:.1f} s  ", std::chrono::duration<double>(reading.elapsed).count());
  text += reading.planned ? fmt::format("{} of {}", reading.ended, *reading.planned)
                          : fmt::format("{} ended", reading.ended);
  if (reading.figures != nullptr) {
    const Figures& all = *reading.figures;
    text += fmt::format("  ok {}  refused {}  errors {}  dropped {}", all.ok, all.refused,
                        all.errors, all.dropped);
  }
  text += fmt::format("  in flight {}", reading.inflight);
  if (reading.draining && reading.inflight > 0) text += ", all sent";
  return text;
}

ConsoleProgress::~ConsoleProgress() {
  if (drawn_ > 0) std::fputc('\n', stderr);
}

Duration ConsoleProgress::period() const {
  return style_ == Style::kBar ? Duration(std::chrono::milliseconds(200)) : std::chrono::seconds(5);
}

void ConsoleProgress::show(const ProgressReading& reading) {
  if (style_ == Style::kQuiet) return;
  if (style_ == Style::kLines) {
    std::fprintf(stderr, "weir replay: %s\n", progress_text(reading, 0).c_str());
    return;
  }
  const std::string text = progress_text(reading, kBarWidth);
  // Blanks wipe out what a longer line left.
  const std::size_t wipe = drawn_ > text.size() ? drawn_ - text.size() : 0;
  std::fprintf(stderr, "\r%s%s", text.c_str(), std::string(wipe, ' ').c_str());
  std::fflush(stderr);
  drawn_ = text.size();
}

}  // namespace weir::replay
