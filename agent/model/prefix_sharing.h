// SPDX-License-Identifier: Apache-2.0
//
// Prompts that begin like what another sequence has, or has left, are not computed again: cells are
// shared or copied (kv_store.h). A prompt that begins like one that is being computed waits for
// that one, its leader.
//
// Thread-compatible: the engine thread.
#pragma once

#include <cstddef>
#include <span>

#include "agent/model/engine_reading.h"
#include "agent/model/kv_store.h"
#include "agent/model/sequence.h"

namespace weir::model {

/// Cells that a sequence should find free beside what it has when it comes (back): with fewer it
/// would be parked again within as many steps. Also the fewest tokens that are worth waiting for.
inline constexpr std::size_t kHeadroom = 32;

/// So many tokens of the sequence are there, which it need not compute.
void count_shared(Sequence& sequence, std::size_t there, EngineReading& counts);

/// Takes over for `slot`, which is not free, what others have of its prompt; true: somebody is
/// computing more of it just now, so that it should wait.
bool share_prefix(std::span<const Slot> slots, std::size_t slot, KvStore& kv,
                  EngineReading& counts);

}  // namespace weir::model
