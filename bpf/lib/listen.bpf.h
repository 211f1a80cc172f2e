/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which listener gets a new connection: the one of least depth.
 */
#ifndef WEIR_LISTEN_BPF_H
#define WEIR_LISTEN_BPF_H

#include "lib/compat.bpf.h"
#include "weir/listen_abi.h"

#define WEIR_NO_LISTENER WEIR_MAX_LISTENERS

/* What stands before a new connection: those that were sent here and not accepted yet, and the
 * requests that the thread is busy with. */
WEIR_INLINE weir_u64 weir_listener_depth(const struct weir_listener* listener) {
  weir_u64 strays = WEIR_READ_ONCE(listener->strays);
  /* Before `chosen`, which is ahead of it: a connection accepted in between is not missing. */
  weir_u64 accepted = WEIR_READ_ONCE(listener->accepted);
  long long queued = (long long)(WEIR_READ_ONCE(listener->chosen) - accepted - strays);

  return (queued > 0 ? (weir_u64)queued : 0) + WEIR_READ_ONCE(listener->waiting);
}

/* Listeners are compared by one number, so that the loop keeps no state that the verifier would
 * have to follow on every path: 23 bits of depth, then 32 random ones, then 9 of the slot. */
#define WEIR_LISTENER_SLOT_BITS 9
#define WEIR_LISTENER_MAX_DEPTH ((1ULL << 23) - 1)
WEIR_STATIC_ASSERT(1 << WEIR_LISTENER_SLOT_BITS == WEIR_MAX_LISTENERS, "bits of a slot");

/* The random part differs by slot. Exchanging two slots is the same as exchanging two values of
 * `random`: between two equals the odds are even. The factors are those of Knuth and MurmurHash3. */
WEIR_INLINE weir_u64 weir_listener_rank(weir_u64 depth, weir_u32 slot, weir_u32 random) {
  weir_u32 coin = (random ^ (slot * 2654435761u)) * 2246822507u;

  if (depth > WEIR_LISTENER_MAX_DEPTH) depth = WEIR_LISTENER_MAX_DEPTH;
  return depth << (32 + WEIR_LISTENER_SLOT_BITS) | (weir_u64)coin << WEIR_LISTENER_SLOT_BITS | slot;
}

/* The slot of the least depth among the listeners that take connections, WEIR_NO_LISTENER when
 * none does. Of several equals each is as likely as the others, by `random`. */
WEIR_INLINE weir_u32 weir_listener_choose(const struct weir_depths* depths, weir_u32 random) {
  weir_u32 slots = WEIR_READ_ONCE(depths->slots);
  weir_u64 least = ~0ULL;
  weir_u32 slot;

  for (slot = 0; slot < WEIR_MAX_LISTENERS && slot < slots; ++slot) {
    const struct weir_listener* listener = &depths->listener[slot];
    weir_u64 rank;

    if (!WEIR_READ_ONCE(listener->ticket)) continue;
    rank = weir_listener_rank(weir_listener_depth(listener), slot, random);
    if (rank < least) least = rank;
  }
  return least == ~0ULL ? WEIR_NO_LISTENER : (weir_u32)least & (WEIR_MAX_LISTENERS - 1);
}

#endif /* WEIR_LISTEN_BPF_H */
