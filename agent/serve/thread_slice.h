// SPDX-License-Identifier: Apache-2.0
//
// How long a thread computes before the scheduler looks whether another one should. Linux's EEVDF
// (kernel/sched/fair.c) lets the thread go first whose slice ends first: one that asks for a short
// slice gets the CPU sooner when it wakes, and not more of it. Needs no privilege, unlike `nice`.
//
// Slices are inherited, and I/O threads start others: workers, and the engine of a model that its
// first request loads. Those begin with the default: beside engines of slices as short as its own
// an I/O thread would come no sooner, and they would be interrupted more often.
//
// Thread-safe: free functions, about the calling thread.
#pragma once

#include <chrono>
#include <cstdint>

#include "agent/base/result.h"

namespace weir::serve {

/// Twice what Linux grants at least, and enough for some requests; the default is 1.4 ms on 2 CPUs
/// and 2.8 on 8. With engines on all of 2 CPUs and 8 streams (135 M parameters, 5 x 5 s of 100
/// probes/s each, taking turns with the default), 99 of 100 answers came within, with one instance
/// of 2 threads and with two of 1: /healthz 2.1 and 1.8 ms instead of 3.7 and 3.9, refusals 1.0 and
/// 2.7 instead of 3.6 and 3.5. What it costs in tokens per second is less than rounds of the same
/// kind differ with one instance, and not known with two: they were 6 % lower, in a few rounds.
inline constexpr std::chrono::nanoseconds kShortSlice{200'000};

/// struct sched_attr of the kernel (include/uapi/linux/sched/types.h), as far as its first version
/// goes: the C library has none, and the kernel's header does not go with it.
struct SchedAttributes {
  std::uint32_t size = sizeof(SchedAttributes);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime_ns = 0;  ///< under the fair scheduler: the slice
  std::uint64_t deadline_ns = 0;
  std::uint64_t period_ns = 0;
};

Result<SchedAttributes> sched_attributes();

/// Policy and niceness stay; threads that this one starts begin with the default slice, and no
/// better niceness than 0. kUnsupported: the kernel is older than 6.12, or the thread is not
/// under the fair scheduler; errors of the system otherwise, as where a sandbox forbids the call.
Status ask_for_slice(std::chrono::nanoseconds slice);

}  // namespace weir::serve
