// SPDX-License-Identifier: Apache-2.0
//
// Writes JSON straight into a string, in the order of the calls: for answers, of which there are
// too many for a document that is built first and written then.
//
// Thread-compatible: one thread at a time. The string must outlive the writer. The calls must make
// one value: nothing checks that what is begun is ended, and that keys stand in objects.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace weir::serve {

class JsonWriter {
 public:
  /// Appends to `out`.
  explicit JsonWriter(std::string& out) : out_(out) {}

  void begin_object() { open('{'); }
  void end_object() { close('}'); }
  void begin_array() { open('['); }
  void end_array() { close(']'); }

  /// A literal that needs no escaping; its value follows.
  JsonWriter& key(std::string_view name);

  /// The same for any UTF-8.
  JsonWriter& text_key(std::string_view name);

  /// `text` is UTF-8.
  void string(std::string_view text);
  template <std::integral Integer>
  void integer(Integer value) {
    separate();
    out_ += std::to_string(value);
  }
  /// In milliseconds: to the microsecond, below 1 ms to the nanosecond. Negative ones are 0.
  void milliseconds(std::chrono::nanoseconds value);
  /// As short as it can be and mean the same float again. Precondition: finite.
  void number(float value);
  void null();

 private:
  /// Before every value and every key.
  void separate() {
    if (comma_) out_ += ',';
    comma_ = true;
  }
  void open(char bracket) {
    separate();
    out_ += bracket;
    comma_ = false;
  }
  void close(char bracket) {
    out_ += bracket;
    comma_ = true;
  }

  std::string& out_;
  bool comma_ = false;  ///< something stands before in the same object or array
};

}  // namespace weir::serve
