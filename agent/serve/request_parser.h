// SPDX-License-Identifier: Apache-2.0
//
// Incremental HTTP/1.x request parser: bytes in, one request out. Boost.Beast finds the parts, and
// only this file's .cc includes it; they are kept here, in memory that the next request uses again.
//
// Thread-safety: a RequestParser belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace weir::serve {

class RequestParser {
 public:
  /// Header with request line, in bytes; beyond it kHeaderTooLarge.
  static constexpr std::uint32_t kMaxHeaderBytes = 16 * 1024;

  enum class Status { kNeedMore, kHeaderDone, kDone, kMalformed, kHeaderTooLarge, kBodyTooLarge };
  struct Progress {
    Status status = Status::kNeedMore;
    std::size_t consumed = 0;  ///< bytes that the caller drops; the others are given again
  };

  explicit RequestParser(std::uint64_t max_body_bytes);
  ~RequestParser();
  RequestParser(const RequestParser&) = delete;
  RequestParser& operator=(const RequestParser&) = delete;

  /// Forgets what it has read: what comes is another request.
  void restart();

  /// Stops once behind the header (kHeaderDone) and at the end of the request (kDone; at once for a
  /// request without body). A declared length above the limit is reported before any body byte.
  Progress put(std::string_view bytes);

  /// Why the request is malformed.
  [[nodiscard]] const std::string& failure() const;

  // Valid from the end of the header; after a failure as far as it was read.
  [[nodiscard]] bool header_done() const;
  [[nodiscard]] bool done() const;
  [[nodiscard]] std::string_view method() const;
  [[nodiscard]] std::string_view target() const;
  /// Value of the first field of that name, case-insensitive; unset when there is none.
  [[nodiscard]] std::optional<std::string_view> field(std::string_view name) const;
  /// How many fields there are of that name.
  [[nodiscard]] std::size_t count(std::string_view name) const;
  [[nodiscard]] bool http_1_0() const;
  [[nodiscard]] bool keep_alive() const;
  /// A Transfer-Encoding other than chunked: where this request ends cannot be told, so nothing
  /// behind it may be read as the next one.
  [[nodiscard]] bool unknown_encoding() const;
  /// Declared length; unset for a chunked body.
  [[nodiscard]] std::optional<std::uint64_t> content_length() const;
  [[nodiscard]] bool chunked() const;
  [[nodiscard]] std::string take_body();

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

/// Standard reason phrase of a status code.
[[nodiscard]] std::string_view reason_phrase(unsigned status);

/// Path of a request target ("/a%20b?c" or "http://host/a"): percent-decoded, query dropped; unset
/// when it is malformed.
[[nodiscard]] std::optional<std::string> path_of(std::string_view target);

}  // namespace weir::serve
