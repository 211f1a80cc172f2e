// SPDX-License-Identifier: Apache-2.0
//
// Lines of a file, plain or gzip (told by its first bytes), or of a text.
//
// Thread-safety: a source belongs to one thread. Failures are kIo or kInvalidArgument, with the
// file's name.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "agent/base/result.h"

namespace weir::replay {

class LineSource {
 public:
  /// A line of a trace has some hundred bytes; with 512-token blocks a million-token prompt, 14 KB.
  static constexpr std::size_t kMaxLineBytes = 1024 * 1024;

  virtual ~LineSource() = default;
  /// The next line without its end ("\n" or "\r\n"), valid until the next call; unset behind the
  /// last one.
  [[nodiscard]] virtual Result<std::optional<std::string_view>> next() = 0;
};

/// `path` "-" is the standard input.
[[nodiscard]] Result<std::unique_ptr<LineSource>> open_lines(const std::string& path);

/// `text` must outlive the source.
[[nodiscard]] std::unique_ptr<LineSource> lines_of(std::string_view text);

}  // namespace weir::replay
