// SPDX-License-Identifier: Apache-2.0
#include "agent/model/text_assembler.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace weir::model {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What the first byte of a character promises (Unicode 15, table 3-7).
struct Lead {
  std::size_t length = 0;  ///< bytes of the whole character; 0: cannot begin one
  std::uint8_t second_low = 0x80;
  std::uint8_t second_high = 0xBF;
};

Lead lead_of(std::uint8_t byte) {
  if (byte < 0x80) {
    return {1, 0, 0};
  }
  if (byte >= 0xC2 && byte <= 0xDF) {
    return {2, 0x80, 0xBF};
  }
  if (byte >= 0xE0 && byte <= 0xEF) {
    // No overlong forms, no surrogates.
    return {3, static_cast<std::uint8_t>(byte == 0xE0 ? 0xA0 : 0x80),
            static_cast<std::uint8_t>(byte == 0xED ? 0x9F : 0xBF)};
  }
  if (byte >= 0xF0 && byte <= 0xF4) {
    // No overlong forms, nothing above U+10FFFF.
    return {4, static_cast<std::uint8_t>(byte == 0xF0 ? 0x90 : 0x80),
            static_cast<std::uint8_t>(byte == 0xF4 ? 0x8F : 0xBF)};
  }
  return {};
}

struct Scan {
  std::size_t good = 0;    ///< bytes at the start that fit, at least the first if it can lead
  std::size_t length = 0;  ///< bytes the character should have; 0: the first byte cannot lead
};

// Precondition: !text.empty().
Scan scan_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const Lead lead = lead_of(byte(0));
  if (lead.length == 0) {
    return {};
  }
  std::size_t good = 1;
  while (good < lead.length && good < text.size()) {
    const std::uint8_t low = good == 1 ? lead.second_low : 0x80;
    const std::uint8_t high = good == 1 ? lead.second_high : 0xBF;
    if (byte(good) < low || byte(good) > high) {
      break;
    }
    ++good;
  }
  return {good, lead.length};
}

}  // namespace

std::size_t incomplete_utf8_tail(std::string_view text) {
  for (std::size_t bytes = 1; bytes <= std::min<std::size_t>(3, text.size()); ++bytes) {
    const Scan scan = scan_character(text.substr(text.size() - bytes));
    if (scan.length > bytes && scan.good == bytes) {
      return bytes;
    }
    if (scan.length != 0) {
      return 0;  // a character begins here and is complete or broken
    }
  }
  return 0;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Scan scan = scan_character(text);
    if (scan.length != 0 && scan.good == scan.length) {
      out.append(text.substr(0, scan.length));
    } else {
      out.append(kReplacement);
    }
    text.remove_prefix(std::max<std::size_t>(1, scan.good));
  }
  return out;
}

TextAssembler::TextAssembler(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::size_t TextAssembler::held_by_stops() const {
  std::size_t held = 0;
  const std::string_view pending = pending_;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, pending.size()); n > held; --n) {
      if (pending.ends_with(std::string_view(stop).substr(0, n))) {
        held = n;
        break;
      }
    }
  }
  return held;
}

std::string TextAssembler::release(std::size_t bytes) {
  std::string text = replace_invalid_utf8(std::string_view(pending_).substr(0, bytes));
  pending_.erase(0, bytes);
  released_bytes_ += bytes;
  return text;
}

std::string TextAssembler::push(std::string_view piece) {
  if (stopped_) {
    return {};
  }
  pending_.append(piece);
  std::size_t found = std::string::npos;
  for (const std::string& stop : stops_) {
    found = std::min(found, pending_.find(stop));
  }
  if (found != std::string::npos) {
    stopped_ = true;
    std::string text = release(found);
    pending_.clear();
    return text;
  }
  const std::size_t certain = pending_.size() - held_by_stops();
  return release(certain - incomplete_utf8_tail(std::string_view(pending_).substr(0, certain)));
}

std::string TextAssembler::finish() { return release(pending_.size()); }

}  // namespace weir::model
