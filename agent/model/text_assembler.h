// SPDX-License-Identifier: Apache-2.0
//
// Turns the pieces of a token stream into text that may be shown: whole UTF-8 characters only, and
// nothing at or after a stop string, also when character or stop string spans pieces. Text that may
// still become a stop string is held back.
//
// Thread-compatible: one engine thread. Owns its buffers. Cannot fail: bytes that are not UTF-8
// come out as U+FFFD, because neither JSON nor protobuf strings can carry them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace weir::model {

class TextAssembler {
 public:
  /// Empty stop strings are ignored.
  explicit TextAssembler(std::vector<std::string> stops);

  /// Takes the next piece; returns the text that is now certain, possibly empty. After stopped()
  /// it takes nothing more.
  [[nodiscard]] std::string push(std::string_view piece);

  /// The text held back, once no more pieces will come. Empty after stopped().
  [[nodiscard]] std::string finish();

  /// A stop string was found; it and what follows it were dropped.
  [[nodiscard]] bool stopped() const { return stopped_; }

  /// How many bytes of the pieces have been returned, as they were before any replacement.
  [[nodiscard]] std::size_t released_bytes() const { return released_bytes_; }

 private:
  [[nodiscard]] std::size_t held_by_stops() const;
  std::string release(std::size_t bytes);

  std::vector<std::string> stops_;
  std::string pending_;  ///< received, not yet returned
  bool stopped_ = false;
  std::size_t released_bytes_ = 0;
};

/// Bytes at the end of `text` that begin a UTF-8 character whose rest is missing: 0..3.
[[nodiscard]] std::size_t incomplete_utf8_tail(std::string_view text);

/// `text` with every byte that is not part of valid UTF-8 replaced by U+FFFD, one per maximal
/// ill-formed part (Unicode 15, section 3.9).
[[nodiscard]] std::string replace_invalid_utf8(std::string_view text);

}  // namespace weir::model
