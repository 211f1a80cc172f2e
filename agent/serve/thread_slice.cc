// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/thread_slice.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace weir::serve {
namespace {

constexpr int kThisThread = 0;
constexpr std::uint64_t kResetOnFork = 1;  // SCHED_FLAG_RESET_ON_FORK

}  // namespace

Result<SchedAttributes> sched_attributes() {
  SchedAttributes found;
  if (::syscall(SYS_sched_getattr, kThisThread, &found, sizeof found, 0U) != 0) {
    return os_error(errno, "sched_getattr");
  }
  return found;
}

Status ask_for_slice(std::chrono::nanoseconds slice) {
  auto attr = sched_attributes();
  if (!attr) return std::move(attr).error();
  if (attr->policy != SCHED_OTHER && attr->policy != SCHED_BATCH) {
    return make_error(Code::kUnsupported, "the thread is not under the fair scheduler");
  }
  attr->size = sizeof *attr;
  attr->flags |= kResetOnFork;
  attr->runtime_ns = static_cast<std::uint64_t>(slice.count());
  if (::syscall(SYS_sched_setattr, kThisThread, &*attr, 0U) != 0) {
    return os_error(errno, "sched_setattr");
  }
  // Older kernels take it and forget it.
  auto now = sched_attributes();
  if (!now) return std::move(now).error();
  if (now->runtime_ns != attr->runtime_ns) {
    return make_error(Code::kUnsupported, "the kernel knows no slices of threads: Linux 6.12 does");
  }
  return {};
}

}  // namespace weir::serve
