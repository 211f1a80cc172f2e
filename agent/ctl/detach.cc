// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/detach.h"

#include <fmt/format.h>

#include "agent/kernel/data_plane.h"

namespace weir::ctl {

Result<std::string> detach_command(const std::string& pin_root) {
  auto removed = kernel::detach_pinned(pin_root);
  if (!removed && removed.error().code != Code::kNotFound) return std::move(removed).error();
  const std::size_t links = removed ? *removed : 0;
  if (links == 0) return fmt::format("no links were pinned below {}\n", pin_root);
  return fmt::format("removed {} links and the maps below {}\n", links, pin_root);
}

}  // namespace weir::ctl
