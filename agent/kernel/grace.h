// SPDX-License-Identifier: Apache-2.0
//
// Waiting until programs that were replaced have run for the last time.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "agent/base/result.h"

namespace weir::kernel {

/// Returns after every run of a BPF program that had begun before this call has ended. A program
/// that was replaced in its link before the call, or whose link is gone, never runs again.
///
/// It replaces the element of a map of maps: the kernel waits for running programs before that
/// system call returns, so that user space may tell no program still uses the old element
/// (maybe_wait_bpf_programs() in kernel/bpf/syscall.c, Linux 4.20). A sleep would be a guess;
/// membarrier() promises an order of memory accesses, not an end of programs, and does nothing at
/// all on one CPU. Not for programs that may sleep: none of ours does.
Status wait_for_running_programs();

/// Waits until the kernel knows none of these programs any more. The link of a tracepoint cannot be
/// taken off: it goes when its last descriptor and pin do, and the kernel lets go of the program
/// after it. Returns false when some still exist after two seconds: somebody else holds them.
[[nodiscard]] bool wait_until_gone(const std::vector<std::uint32_t>& program_ids);

}  // namespace weir::kernel
