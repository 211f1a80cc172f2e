/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which listener gets a new connection: the one of least depth.
 */
#ifndef WEIR_LISTEN_BPF_H
#define WEIR_LISTEN_BPF_H

#include "lib/compat.bpf.h"
#include "weir/listen_abi.h"

#define WEIR_NO_LISTENER WEIR_MAX_LISTENERS

/* Arithmetic instead of branches: the verifier walks every path through a loop of 512 rounds, and
 * two ways through each round are too many. The empty statement hides from the compiler that
 * `value` is a sign, or it would put the branch back. */
WEIR_INLINE long long weir_sign_mask(long long value) {
  value >>= 63;
  asm("" : "+r"(value));
  return value;
}

WEIR_INLINE weir_u64 weir_lesser(weir_u64 a, weir_u64 b) { /* both below 2^63 */
  long long difference = (long long)(b - a);

  return a + (weir_u64)(difference & weir_sign_mask(difference));
}

/* What stands before a new connection: those that were sent here and not accepted yet, and the
 * requests that the thread is busy with. */
WEIR_INLINE weir_u64 weir_listener_depth(const struct weir_listener* listener) {
  weir_u64 strays = WEIR_READ_ONCE(listener->strays);
  /* Before `chosen`, which is ahead of it: a connection accepted in between is not missing. */
  weir_u64 accepted = WEIR_READ_ONCE(listener->accepted);
  long long queued = (long long)(WEIR_READ_ONCE(listener->chosen) - accepted - strays);

  return (weir_u64)(queued & ~weir_sign_mask(queued)) + WEIR_READ_ONCE(listener->waiting);
}

/* Listeners are compared by one number: 22 bits of depth, 32 random ones, 9 of the slot. */
#define WEIR_LISTENER_SLOT_BITS 9
#define WEIR_LISTENER_MAX_DEPTH ((1ULL << 22) - 1)
#define WEIR_LISTENER_WORST_RANK ((1ULL << 63) - 1)
WEIR_STATIC_ASSERT(1 << WEIR_LISTENER_SLOT_BITS == WEIR_MAX_LISTENERS, "bits of a slot");

/* The random part differs by slot. Exchanging two slots is the same as exchanging two values of
 * `random`: between two equals the odds are even. The factors are those of Knuth and MurmurHash3.
 * A listener that takes no connections (`ticket` 0) has the worst rank. */
WEIR_INLINE weir_u64 weir_listener_rank(weir_u64 depth, weir_u32 ticket, weir_u32 slot,
                                        weir_u32 random) {
  weir_u32 coin = (random ^ (slot * 2654435761u)) * 2246822507u;
  weir_u64 rank = weir_lesser(depth, WEIR_LISTENER_MAX_DEPTH) << (32 + WEIR_LISTENER_SLOT_BITS) |
                  (weir_u64)coin << WEIR_LISTENER_SLOT_BITS | slot;
  long long closed = weir_sign_mask((long long)ticket - 1);

  return rank | ((weir_u64)closed & WEIR_LISTENER_WORST_RANK);
}

/* The slot of the least depth among the listeners that take connections, WEIR_NO_LISTENER when
 * none does. Of several equals each is as likely as the others, by `random`. */
WEIR_INLINE weir_u32 weir_listener_choose(const struct weir_depths* depths, weir_u32 random) {
  weir_u32 slots = WEIR_READ_ONCE(depths->slots);
  weir_u64 least = WEIR_LISTENER_WORST_RANK;
  weir_u32 slot;

  for (slot = 0; slot < WEIR_MAX_LISTENERS && slot < slots; ++slot) {
    const struct weir_listener* listener = &depths->listener[slot];

    least = weir_lesser(least, weir_listener_rank(weir_listener_depth(listener),
                                                  WEIR_READ_ONCE(listener->ticket), slot, random));
  }
  if (least == WEIR_LISTENER_WORST_RANK) return WEIR_NO_LISTENER;
  return (weir_u32)least & (WEIR_MAX_LISTENERS - 1);
}

#endif /* WEIR_LISTEN_BPF_H */
