// SPDX-License-Identifier: Apache-2.0
#include "agent/base/descriptor_limit.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

namespace weir {

Result<std::uint64_t> raise_descriptor_limit(std::uint64_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return os_error(errno, "getrlimit");
  const rlim_t raised = std::min<rlim_t>(wanted, limit.rlim_max);
  if (raised <= limit.rlim_cur) return std::uint64_t{limit.rlim_cur};
  limit.rlim_cur = raised;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return os_error(errno, "setrlimit");
  return std::uint64_t{raised};
}

}  // namespace weir
