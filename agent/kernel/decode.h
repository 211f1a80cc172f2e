// SPDX-License-Identifier: Apache-2.0
//
// Between the records of include/weir/abi.h and the types of the agent.
//
// Thread-safe: pure functions. The kernel changes counters of a live record at any time; each
// counter is read once, whole.
#pragma once

#include <cstdint>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/kernel/data_plane.h"
#include "weir/abi.h"

namespace weir::kernel {

[[nodiscard]] weir_endpoint encode(const Endpoint& endpoint);
[[nodiscard]] Endpoint decode(const weir_endpoint& endpoint);

[[nodiscard]] std::uint64_t to_kernel_ns(TimePoint time);
[[nodiscard]] TimePoint from_kernel_ns(std::uint64_t ns);

/// Published weight as shown in weir_be: saturates instead of wrapping.
[[nodiscard]] std::uint32_t to_q16(double weight);

/// Requests in the unit of weir_load(), rounded; saturates.
[[nodiscard]] std::uint32_t to_load(double requests);

[[nodiscard]] BreakerReading decode_breaker(std::uint64_t word);

/// Everything but `service` and the histograms, which live in other maps.
[[nodiscard]] BackendReading decode(const weir_be& record, const weir_total& total,
                                    std::uint32_t index);
[[nodiscard]] ServiceReading decode(const weir_pool& record, std::uint32_t index);

}  // namespace weir::kernel
