// SPDX-License-Identifier: Apache-2.0
#include "agent/model/printable.h"

#include "agent/model/text_assembler.h"

namespace weir::model {

std::string printable(std::string_view text, std::size_t most_bytes) {
  const bool cut = text.size() > most_bytes;
  if (cut) {
    // Not within a character: back to its first byte, three continuation bytes at most.
    for (int i = 0; i < 3 && most_bytes > 0; ++i) {
      if ((static_cast<unsigned char>(text[most_bytes]) & 0xC0U) != 0x80U) break;
      --most_bytes;
    }
    text = text.substr(0, most_bytes);
  }
  std::string result;
  for (const char c : replace_invalid_utf8(text)) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      result += "\xEF\xBF\xBD";
    } else {
      result += c;
    }
  }
  return cut ? result + "..." : result;
}

}  // namespace weir::model
