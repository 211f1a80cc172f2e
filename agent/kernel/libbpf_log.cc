// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/libbpf_log.h"

#include <bpf/libbpf.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <string_view>

namespace weir::kernel {
namespace {

int print(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG || !spdlog::should_log(spdlog::level::debug)) return 0;
  std::array<char, 1024> buffer{};
  std::vsnprintf(buffer.data(), buffer.size(), format, arguments);
  std::string_view line(buffer.data());
  while (!line.empty() && line.back() == '\n') line.remove_suffix(1);
  spdlog::debug("{}", line);
  return 0;
}

}  // namespace

void route_libbpf_log() { libbpf_set_print(print); }

}  // namespace weir::kernel
