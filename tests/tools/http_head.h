// SPDX-License-Identifier: Apache-2.0
//
// The little of HTTP/1.1 that the load tools need: where a message's head ends, how long its body
// is, and whether the connection stays open. Bodies in chunks are reported, not decoded.
//
// Thread-safe: a function without state.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include "agent/base/result.h"

namespace weir::tools {

/// Views point into the bytes that were parsed.
struct HttpHead {
  /// Request: method, target, version. Response: version, status, reason.
  std::array<std::string_view, 3> start_line;
  /// Bytes up to and including the empty line.
  std::size_t head_bytes = 0;
  std::size_t content_length = 0;
  bool connection_close = false;
  bool chunked = false;
};

/// The head at the start of `bytes`; nullopt while it is incomplete, an error when it is malformed
/// or longer than 64 KiB.
Result<std::optional<HttpHead>> parse_http_head(std::string_view bytes);

}  // namespace weir::tools
