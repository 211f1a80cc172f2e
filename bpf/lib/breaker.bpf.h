/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The circuit breaker of a backend, in one 64-bit word (layout in abi.h):
 *
 *   CLOSED ──N failed connects in a row──► OPEN ──time over, next pick──► HALF_OPEN
 *      ▲                                    ▲                                │  │
 *      │                                    └───── one token fails ──────────┘  │
 *      └────────── rounds of 1, 2, 4 and 8 tokens, all of them successful ──────┘
 *
 * A token is the right to try one connect. Only the outcome of such a connect moves a half-open
 * breaker: one that set out earlier tells nothing new. A token whose outcome never comes (its
 * connect failed before the SYN) is replaced after an open time. Each opening of a half-open
 * breaker doubles the time up to a limit; up to a fifth is added at random, so that nodes do not
 * come back in step.
 *
 * All functions may run on any number of CPUs at once, and in user space on the mapped word: a
 * change is one compare and exchange, and whoever loses it looks again.
 */
#ifndef WEIR_BREAKER_BPF_H
#define WEIR_BREAKER_BPF_H

#include "lib/compat.bpf.h"

#define WEIR_BREAKER_ROUNDS 4
#define WEIR_BREAKER_MAX_LEVEL 15u
/* How often a lost compare and exchange is tried again: more than CPUs collide in practice. Failing
 * all of them loses one outcome or refuses one token, no more. */
#define WEIR_BREAKER_TRIES 8

/* The word, taken apart. */
struct weir_breaker {
  weir_u32 state; /* enum weir_breaker_state */
  weir_u32 level;
  weir_u32 round;
  weir_u32 tokens;
  weir_u32 successes;
  weir_u32 pad;
  weir_u64 until_ms;
};

/* What a call did. */
struct weir_breaker_change {
  weir_u32 changed; /* 1: from one state to another */
  weir_u32 from;    /* enum weir_breaker_state */
  weir_u32 to;
  weir_u32 level;
  weir_u32 open_ms; /* of an opening */
};

WEIR_INLINE struct weir_breaker weir_breaker_unpack(weir_u64 word) {
  struct weir_breaker breaker = {
      .state = (weir_u32)word & 3,
      .level = (weir_u32)(word >> WEIR_BREAKER_LEVEL_SHIFT) & 15,
      .round = (weir_u32)(word >> WEIR_BREAKER_ROUND_SHIFT) & 3,
      .tokens = (weir_u32)(word >> WEIR_BREAKER_TOKENS_SHIFT) & 15,
      .successes = (weir_u32)(word >> WEIR_BREAKER_SUCCESSES_SHIFT) & 15,
      .pad = 0,
      .until_ms = word >> WEIR_BREAKER_UNTIL_SHIFT,
  };
  return breaker;
}

WEIR_INLINE weir_u64 weir_breaker_pack(const struct weir_breaker* breaker) {
  return (weir_u64)breaker->state | (weir_u64)breaker->level << WEIR_BREAKER_LEVEL_SHIFT |
         (weir_u64)breaker->round << WEIR_BREAKER_ROUND_SHIFT |
         (weir_u64)breaker->tokens << WEIR_BREAKER_TOKENS_SHIFT |
         (weir_u64)breaker->successes << WEIR_BREAKER_SUCCESSES_SHIFT |
         breaker->until_ms << WEIR_BREAKER_UNTIL_SHIFT;
}

WEIR_INLINE weir_u32 weir_breaker_state_of(weir_u64 word) { return (weir_u32)word & 3; }

/* Whether a pool counts this backend in `members`, and so its breaker in `open`. One without a share
 * may still be connected to directly. */
WEIR_INLINE int weir_is_member(const struct weir_be* be) {
  return WEIR_READ_ONCE(be->state) == WEIR_BE_ACTIVE && WEIR_READ_ONCE(be->weight_q16) != 0;
}

/* Open time at `level`, without the random part. */
WEIR_INLINE weir_u32 weir_breaker_open_ms(const struct weir_knobs* knobs, weir_u32 level) {
  weir_u64 open_ms = (weir_u64)knobs->open_ms << (level & WEIR_BREAKER_MAX_LEVEL);

  return open_ms < knobs->max_open_ms ? (weir_u32)open_ms : knobs->max_open_ms;
}

/* Whether a connect may be sent here now. Changes nothing. */
WEIR_INLINE int weir_breaker_admits(weir_u64 word, weir_u64 now_ms) {
  struct weir_breaker breaker = weir_breaker_unpack(word);

  if (breaker.state == WEIR_BREAKER_CLOSED) return 1;
  if (breaker.state == WEIR_BREAKER_HALF_OPEN && breaker.tokens > 0) return 1;
  return now_ms >= breaker.until_ms;
}

/* Takes a token of a breaker that is not closed. Returns 1 when there was one; `change` tells
 * whether that made it half-open. */
WEIR_INLINE int weir_breaker_take_token(weir_u64* word, weir_u64 now_ms,
                                        const struct weir_knobs* knobs,
                                        struct weir_breaker_change* change) {
  for (int i = 0; i < WEIR_BREAKER_TRIES; i++) {
    weir_u64 before = WEIR_READ_ONCE(*word);
    struct weir_breaker breaker = weir_breaker_unpack(before);
    weir_u32 from = breaker.state;

    if (from == WEIR_BREAKER_CLOSED || !weir_breaker_admits(before, now_ms)) return 0;
    if (from == WEIR_BREAKER_OPEN) {
      breaker.state = WEIR_BREAKER_HALF_OPEN;
      breaker.round = 0;
      breaker.tokens = 1;
      breaker.successes = 0;
    } else if (breaker.tokens == 0) {
      breaker.tokens = 1; /* in place of one whose outcome never came */
    }
    breaker.tokens--;
    breaker.until_ms = now_ms + weir_breaker_open_ms(knobs, breaker.level);
    if (WEIR_COMPARE_EXCHANGE(word, before, weir_breaker_pack(&breaker)) != before) continue;
    change->changed = from != WEIR_BREAKER_HALF_OPEN;
    change->from = from;
    change->to = WEIR_BREAKER_HALF_OPEN;
    change->level = breaker.level;
    return 1;
  }
  return 0;
}

/* A connect succeeded; `probe`: it held a token. */
WEIR_INLINE void weir_breaker_success(weir_u64* word, weir_u32 probe,
                                      struct weir_breaker_change* change) {
  for (int i = 0; i < WEIR_BREAKER_TRIES; i++) {
    weir_u64 before = WEIR_READ_ONCE(*word);
    struct weir_breaker breaker = weir_breaker_unpack(before);

    if (breaker.state != WEIR_BREAKER_HALF_OPEN || !probe) return;
    breaker.successes++;
    if (breaker.successes >= 1u << breaker.round) {
      breaker.successes = 0;
      breaker.round++;
      breaker.tokens = 1u << breaker.round;
    }
    if (breaker.round >= WEIR_BREAKER_ROUNDS) breaker = weir_breaker_unpack(0);
    if (WEIR_COMPARE_EXCHANGE(word, before, weir_breaker_pack(&breaker)) != before) continue;
    change->changed = breaker.state == WEIR_BREAKER_CLOSED;
    change->from = WEIR_BREAKER_HALF_OPEN;
    change->to = breaker.state;
    return;
  }
}

/* Opens a breaker that is in state `from`, for a time of `level`. Returns 1 when it was. `random`:
 * 32 random bits, for the jitter. */
WEIR_INLINE int weir_breaker_open(weir_u64* word, weir_u64 before, weir_u32 level, weir_u64 now_ms,
                                  weir_u32 random, const struct weir_knobs* knobs,
                                  struct weir_breaker_change* change) {
  weir_u32 open_ms = weir_breaker_open_ms(knobs, level);
  struct weir_breaker breaker = weir_breaker_unpack(0);

  breaker.state = WEIR_BREAKER_OPEN;
  breaker.level = level;
  open_ms += (weir_u32)((weir_u64)(open_ms / 5) * random >> 32);
  breaker.until_ms = now_ms + open_ms;
  if (WEIR_COMPARE_EXCHANGE(word, before, weir_breaker_pack(&breaker)) != before) return 0;
  change->changed = 1;
  change->from = weir_breaker_state_of(before);
  change->to = WEIR_BREAKER_OPEN;
  change->level = level;
  change->open_ms = open_ms;
  return 1;
}

/* A connect failed; `consecutive`: failures in a row, this one included. */
WEIR_INLINE void weir_breaker_failure(weir_u64* word, weir_u32 probe, weir_u32 consecutive,
                                      weir_u64 now_ms, weir_u32 random,
                                      const struct weir_knobs* knobs,
                                      struct weir_breaker_change* change) {
  for (int i = 0; i < WEIR_BREAKER_TRIES; i++) {
    weir_u64 before = WEIR_READ_ONCE(*word);
    struct weir_breaker breaker = weir_breaker_unpack(before);
    weir_u32 level = 0;

    if (breaker.state == WEIR_BREAKER_CLOSED) {
      if (consecutive < knobs->open_after_failures) return;
    } else {
      if (breaker.state != WEIR_BREAKER_HALF_OPEN || !probe) return;
      level = breaker.level < WEIR_BREAKER_MAX_LEVEL ? breaker.level + 1 : WEIR_BREAKER_MAX_LEVEL;
    }
    if (weir_breaker_open(word, before, level, now_ms, random, knobs, change)) return;
  }
}

#endif /* WEIR_BREAKER_BPF_H */
