// SPDX-License-Identifier: Apache-2.0
//
// A record of weir_event, as the kernel wrote it, to an Event.
//
// Thread-safe: a pure function over memory that the kernel may write to.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "agent/kernel/event.h"
#include "weir/abi.h"

namespace weir::kernel {

/// Where the names are: the mapped weir_pool and weir_be. Not owned.
struct EventNames {
  std::span<const weir_pool> pools;
  std::span<const weir_be> backends;
};

/// Unset when the record is shorter than its kind asks for, or of no kind that is known.
[[nodiscard]] std::optional<Event> decode_event(std::span<const std::byte> record,
                                                const EventNames& names);

}  // namespace weir::kernel
