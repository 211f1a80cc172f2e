// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer's way into the configuration reader: `make fuzz-config`. Whatever the text is, the
// answer is a configuration or an error that says where.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "agent/config/config_loader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = weir::config::parse_config(text, "weir.yaml");
  // Each line of an error begins with the file, so that an editor finds the place.
  if (!config.ok() && !config.error().message.starts_with("weir.yaml")) std::abort();
  return 0;
}
