// SPDX-License-Identifier: Apache-2.0
//
// What became of a request, read from the body of its response or from its events.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weir::replay {

struct Answer {
  enum class Kind {
    kOk,
    kRefused,  ///< 429 or 503: overload, told politely
    kError,    ///< anything else that is no result
  };
  Kind kind = Kind::kOk;
  /// Of a refusal "429 queue_full", status and code of the body; of an error likewise, or one of
  /// connect_refused, connect_failed, reset, closed_early, malformed, timeout, timeout_unsent,
  /// stream_cut, stream_error CODE.
  std::string reason;
  /// Of a refusal or an error: what its body says, printable and cut to 240 bytes; may be empty.
  std::string message;
  std::uint64_t prompt_tokens = 0;  ///< as the answer's usage says; 0: it does not
  std::uint64_t completion_tokens = 0;
  bool degraded = false;  ///< X-Weir-Degraded
};

[[nodiscard]] Answer error_answer(std::string reason);

/// Reads a body that came in one piece.
[[nodiscard]] Answer read_answer(unsigned status, std::string_view body);

/// Reads server-sent events of a streamed completion.
class EventStream {
 public:
  /// Bytes as they come. Tells how many events with text they completed.
  std::uint32_t put(std::string_view bytes);
  /// When the response is over; before: as if it were cut here.
  [[nodiscard]] Answer answer() const;

 private:
  bool take_event(std::string_view data);  // whether it had text

  std::string line_;  // begun
  std::string data_;  // of the event begun
  bool has_data_ = false;
  bool done_ = false;
  std::string error_;
  std::string message_;  // of the error
  std::uint64_t text_events_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t completion_tokens_ = 0;
};

}  // namespace weir::replay
