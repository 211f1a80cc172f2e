// SPDX-License-Identifier: Apache-2.0
//
// Reads HTTP/1.1 responses of one connection, one after the other: bytes in, an Answer out. Wraps
// Boost.Beast's parser, which only this file's .cc includes.
//
// Thread-safety: a reader belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "agent/ctl/replay/answer.h"

namespace weir::replay {

class ResponseReader {
 public:
  /// Of a body that is no stream of events.
  static constexpr std::uint64_t kMaxBodyBytes = 64 * 1024 * 1024;

  ResponseReader();
  ~ResponseReader();
  ResponseReader(const ResponseReader&) = delete;
  ResponseReader& operator=(const ResponseReader&) = delete;

  /// Forgets everything; the next bytes begin a response.
  void begin();

  enum class State { kMore, kDone, kMalformed };
  /// Takes all bytes. Interim responses (1xx) are passed over. kMalformed also when bytes come
  /// behind the end of the response: there was one request.
  State put(std::string_view bytes);
  /// The peer closed: kDone where that ends the response.
  State put_end();

  /// Whether any byte of the response has come, those of interim ones aside.
  [[nodiscard]] bool begun() const;
  /// Events with text that the last put() completed.
  [[nodiscard]] std::uint32_t new_texts() const;
  /// After kDone: whether another request may follow.
  [[nodiscard]] bool keep_alive() const;
  /// After kDone.
  [[nodiscard]] Answer answer() const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace weir::replay
