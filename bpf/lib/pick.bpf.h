/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pick: which backend of a pool takes the next connection. Constant time, no lock, no
 * allocation. Weighted draws come from a Walker alias table (agent/kernel/alias_table.h); the
 * policies choose among what was drawn:
 *
 *   prequal          of two, after NSDI'24: a backend is hot when its load is above the pool's
 *                    rif_limit. One cold: that one. Both cold: the faster. Both hot: the one with
 *                    less load for its weight.
 *   p2c              of two, the one with less load for its weight
 *   weighted_random  one draw
 *   round_robin      the slots of the table in turn, with a coin that walks evenly too
 *   least_inflight   least load for its weight, of up to WEIR_PICK_SCAN slots
 *
 * Whoever includes this provides the tables: in the kernel lib/maps.bpf.h, in a unit test arrays.
 *
 *   const struct weir_pick_slot* weir_slot_at(weir_u32 index);   0: no such slot
 *   struct weir_be* weir_be_at(weir_u32 index);                  0: no such backend
 *   void weir_be_prefetch(weir_u32 index);                       may be one that does not exist
 *   weir_u32 weir_random(void);                                  32 random bits
 *   weir_u64 weir_now_ms(void);                                  CLOCK_MONOTONIC
 */
#ifndef WEIR_PICK_BPF_H
#define WEIR_PICK_BPF_H

#include "lib/alias.bpf.h"
#include "lib/breaker.bpf.h"
#include "lib/endpoint.bpf.h"

/* Slots looked at in search of a backend, at most. */
#define WEIR_PICK_SCAN 64

enum weir_pick_flags {
  WEIR_PICK_V4 = 1u << 0,    /* an IPv4 socket: it reaches no IPv6 backend */
  WEIR_PICK_PANIC = 1u << 1, /* whatever the breakers say */
  WEIR_PICK_PROBE = 1u << 2, /* only backends whose breaker has a token to give */
  WEIR_PICK_V6 = 1u << 3,    /* a socket with IPV6_V6ONLY: it reaches no IPv4 backend */
};

/* What is asked of every candidate. */
struct weir_wish {
  weir_u32 pool;
  weir_u32 flags; /* enum weir_pick_flags */
  weir_u32 avoid; /* the backend that just failed on this socket, or WEIR_NO_BACKEND */
};

struct weir_choice {
  weir_u32 backend; /* WEIR_NO_BACKEND: none */
  weir_u32 rule;    /* enum weir_rule */
  struct weir_candidate first;
  struct weir_candidate second;
};

/* Load in quarters of a request. A connection that has sent nothing yet is a request about to come;
 * one whose response has begun costs the backend less than one in prefill; an idle one nothing. */
WEIR_INLINE weir_u32 weir_load(const struct weir_be* be) {
  return 4 * (WEIR_READ_ONCE(be->fresh) + WEIR_READ_ONCE(be->waiting)) +
         WEIR_READ_ONCE(be->streaming);
}

/* The state is checked although only active backends are in the table: it may be older than the
 * state, and its half may just be written anew. */
WEIR_INLINE int weir_usable(const struct weir_be* be, weir_u32 pool, weir_u32 flags) {
  weir_u64 breaker;

  if (WEIR_READ_ONCE(be->state) != WEIR_BE_ACTIVE || be->pool != pool) return 0;
  if (flags & (WEIR_PICK_V4 | WEIR_PICK_V6) &&
      !(flags & WEIR_PICK_V4) == !!weir_endpoint_is_v4(&be->address))
    return 0;
  breaker = WEIR_READ_ONCE(be->breaker);
  if (breaker == 0) return !(flags & WEIR_PICK_PROBE);
  return (flags & WEIR_PICK_PANIC) || weir_breaker_admits(breaker, weir_now_ms());
}

/* The backend that slot `at` of a table yields, WEIR_NO_BACKEND when there is no such slot. Past
 * the last slot comes the first one again. */
WEIR_INLINE weir_u32 weir_backend_in(weir_u64 table, weir_u32 at, weir_u32 coin) {
  weir_u32 slots = weir_table_slots(table);
  const struct weir_pick_slot* slot;

  if (at >= slots) at -= slots;
  slot = weir_slot_at(weir_table_first(table) + at);
  return slot ? weir_alias_choose(slot, coin) : WEIR_NO_BACKEND;
}

/* The same, WEIR_NO_BACKEND also when the backend will not do. */
WEIR_SUBPROGRAM weir_u32 weir_try_slot(weir_u64 table, weir_u32 at, weir_u32 coin,
                                       const struct weir_wish* wish) {
  const struct weir_be* be;
  weir_u32 backend;

  if (!wish) return WEIR_NO_BACKEND;
  backend = weir_backend_in(table, at, coin);
  if (backend == WEIR_NO_BACKEND || backend == wish->avoid) return WEIR_NO_BACKEND;
  be = weir_be_at(backend);
  return be && weir_usable(be, wish->pool, wish->flags) ? backend : WEIR_NO_BACKEND;
}

/* Every bit of the result depends on every bit of `value` (the finalizer of splitmix64). */
WEIR_INLINE weir_u64 weir_stir(weir_u64 value) {
  value *= 0x9e3779b97f4a7c15ull;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ value >> 27) * 0x94d049bb133111ebull;
  return value ^ value >> 31;
}

/* Random bits for one pick: those that splitmix64 makes of a counter. The pool's seed keeps nodes
 * from drawing in step; nothing here has to be hard to guess. (A call for random bits costs as much
 * as the draws themselves.) */
WEIR_INLINE weir_u64 weir_draw_bits(struct weir_pool* pool) {
  weir_u32 turn = (weir_u32)__sync_fetch_and_add(&pool->turn, 1);

  return weir_stir((weir_u64)pool->seed << 32 | turn);
}

/* One weighted draw from 32 random bits. */
WEIR_INLINE weir_u32 weir_draw(weir_u64 table, const struct weir_wish* wish, weir_u32 random,
                               weir_u32* at) {
  *at = weir_alias_slot(random, weir_table_slots(table));
  /* The slot is made of the high bits; for the coin all of them are stirred. */
  return weir_try_slot(table, *at, (weir_u32)weir_stir(random), wish);
}

/* How far from the first slot the one is that is looked at in step `step`. In a large pool golden
 * sections spread them over all of it: backends that fail together, or are of one family, stand
 * together in the table. */
WEIR_SUBPROGRAM weir_u32 weir_scan_offset(weir_u32 step, weir_u32 slots) {
  return slots < 2 * WEIR_PICK_SCAN ? step : weir_alias_slot(step * 0x9e3779b9u, slots);
}

/* The next slot on the way from `at` that will do. A slot's own backend, not its alias: each backend
 * is one slot's own. */
WEIR_INLINE weir_u32 weir_scan(weir_u64 table, const struct weir_wish* wish, weir_u32 at) {
  weir_u32 slots = weir_table_slots(table);

  for (weir_u32 step = 1; step <= WEIR_PICK_SCAN; step++) {
    weir_u32 backend;

    if (step > slots) break;
    backend = weir_try_slot(table, at + weir_scan_offset(step, slots), 0, wish);
    if (backend != WEIR_NO_BACKEND) return backend;
  }
  return WEIR_NO_BACKEND;
}

/* Field by field: clang 14 copies a constant struct without the stores that stand before it. */
WEIR_INLINE void weir_no_candidate(struct weir_candidate* candidate) {
  candidate->backend = WEIR_NO_BACKEND;
  candidate->load = 0;
  candidate->latency_us = 0;
  candidate->weight_q16 = 0;
}

WEIR_INLINE void weir_read_candidate(weir_u32 backend, const struct weir_be* be,
                                     struct weir_candidate* candidate) {
  candidate->backend = backend;
  candidate->load = weir_load(be);
  candidate->latency_us = WEIR_READ_ONCE(be->latency_us);
  candidate->weight_q16 = WEIR_READ_ONCE(be->weight_q16);
}

WEIR_INLINE struct weir_candidate weir_look_at(weir_u32 backend) {
  struct weir_candidate candidate = {WEIR_NO_BACKEND, 0, 0, 0};
  const struct weir_be* be = backend == WEIR_NO_BACKEND ? 0 : weir_be_at(backend);

  if (be) weir_read_candidate(backend, be, &candidate);
  return candidate;
}

/* Whether `b` has less load for its weight than `a`, each with `more` on top. Cross-multiplied: no
 * division. */
WEIR_INLINE int weir_less_loaded(const struct weir_candidate* a, const struct weir_candidate* b,
                                 weir_u32 more) {
  return (weir_u64)(b->load + more) * a->weight_q16 < (weir_u64)(a->load + more) * b->weight_q16;
}

/* Two different candidates: 1 when the second one is to be taken. */
WEIR_INLINE int weir_prefer_second(weir_u32 policy, weir_u32 rif_limit,
                                   const struct weir_candidate* first,
                                   const struct weir_candidate* second, weir_u32* rule) {
  int first_hot = first->load > rif_limit, second_hot = second->load > rif_limit;

  if (policy == WEIR_POLICY_PREQUAL) {
    if (first_hot != second_hot) {
      *rule = WEIR_RULE_COLD;
      return first_hot;
    }
    /* A backend that nobody has measured yet is compared by load: it would else get all or
     * nothing. */
    if (!first_hot && first->latency_us && second->latency_us &&
        first->latency_us != second->latency_us) {
      *rule = WEIR_RULE_LATENCY;
      return second->latency_us < first->latency_us;
    }
  }
  /* As they are: the draws follow the weights already, and of two idle ones the first drawn is as
   * good as the other. */
  *rule = WEIR_RULE_LOAD;
  return weir_less_loaded(first, second, 0);
}

/* For a second draw that yielded what the first one did: one more. */
WEIR_SUBPROGRAM weir_u32 weir_draw_again(weir_u64 table, weir_u64 random,
                                         const struct weir_wish* wish) {
  weir_u32 ignored;

  return wish ? weir_draw(table, wish, (weir_u32)weir_stir(random), &ignored) : WEIR_NO_BACKEND;
}

/* The record of a backend that was drawn, 0 when it will not do. */
WEIR_INLINE const struct weir_be* weir_usable_at(weir_u32 backend, const struct weir_wish* wish) {
  const struct weir_be* be;

  if (backend == WEIR_NO_BACKEND || backend == wish->avoid) return 0;
  be = weir_be_at(backend);
  return be && weir_usable(be, wish->pool, wish->flags) ? be : 0;
}

/* The better one of two draws; a second draw of the same backend is drawn again once.
 *
 * In a large pool the cost of this is the wait for memory: two slots, and the two backends that
 * they yield. All four are asked for at once: most slots yield their own backend, and these are in
 * the table in the order of weir_be, unless the configuration has changed since. Measured with
 * 10,000 backends: 325 ns for the whole hook instead of 437. */
WEIR_INLINE void weir_choose_of_two(struct weir_pool* pool, weir_u64 table,
                                    const struct weir_wish* wish, struct weir_choice* choice,
                                    weir_u32* at) {
  weir_u64 random = weir_draw_bits(pool);
  weir_u32 slots = weir_table_slots(table), high = (weir_u32)(random >> 32), low = (weir_u32)random;
  const struct weir_be *first_be, *second_be;
  weir_u32 first, second, expected = WEIR_READ_ONCE(pool->first);

  *at = weir_alias_slot(high, slots);
  weir_be_prefetch(expected + *at);
  weir_be_prefetch(expected + weir_alias_slot(low, slots));
  /* The slot is made of the high bits; for the coin all of them are stirred. */
  first = weir_backend_in(table, *at, (weir_u32)weir_stir(high));
  second = weir_backend_in(table, weir_alias_slot(low, slots), (weir_u32)weir_stir(low));
  first_be = weir_usable_at(first, wish);
  second_be = second == first ? first_be : weir_usable_at(second, wish);
  if ((second == first || (!first_be && !second_be)) && slots > 1) {
    second = weir_draw_again(table, random, wish);
    second_be = second == WEIR_NO_BACKEND ? 0 : weir_be_at(second);
  }
  if (!first_be) {
    first = second;
    first_be = second_be;
    second_be = 0;
  }
  if (!first_be) return;
  choice->backend = first;
  choice->rule = WEIR_RULE_ONLY;
  weir_read_candidate(first, first_be, &choice->first);
  if (!second_be) return;
  if (second == first) {
    choice->rule = WEIR_RULE_SAME;
    choice->second = choice->first;
    return;
  }
  weir_read_candidate(second, second_be, &choice->second);
  if (weir_prefer_second(WEIR_READ_ONCE(pool->policy), WEIR_READ_ONCE(pool->rif_limit),
                         &choice->first, &choice->second, &choice->rule))
    choice->backend = second;
}

/* Slot by turn; the coin takes the golden ratio's steps through its range from lap to lap, so that
 * thresholds, too, are met evenly and not by chance. */
WEIR_INLINE void weir_choose_in_turn(struct weir_pool* pool, weir_u64 table,
                                     const struct weir_wish* wish, struct weir_choice* choice,
                                     weir_u32* at) {
  weir_u32 turn = (weir_u32)__sync_fetch_and_add(&pool->turn, 1);
  weir_u32 slots = weir_table_slots(table);

  *at = turn % slots;
  choice->backend = weir_try_slot(table, *at, turn / slots * 0x9e3779b9u, wish);
  choice->rule = WEIR_RULE_TURN;
  choice->first = weir_look_at(choice->backend);
}

/* Looks at one more slot for the least loaded backend; the best so far is choice->first, the one
 * it beat choice->second. */
WEIR_SUBPROGRAM int weir_least_step(weir_u64 table, weir_u32 at, const struct weir_wish* wish,
                                    struct weir_choice* choice) {
  struct weir_candidate candidate;

  if (!wish || !choice) return 0;
  candidate = weir_look_at(weir_try_slot(table, at, 0, wish));
  if (candidate.backend == WEIR_NO_BACKEND) return 0;
  /* With the request to come on top: nothing was drawn by weight here, and of two idle ones the
   * heavier is to get it. */
  if (choice->first.backend != WEIR_NO_BACKEND && !weir_less_loaded(&choice->first, &candidate, 4))
    return 0;
  choice->second = choice->first;
  choice->first = candidate;
  return 1;
}

/* In a pool of more than WEIR_PICK_SCAN backends: of so many, from a slot drawn at random. */
WEIR_INLINE void weir_choose_least(struct weir_pool* pool, weir_u64 table,
                                   const struct weir_wish* wish, struct weir_choice* choice,
                                   weir_u32* at) {
  weir_u32 slots = weir_table_slots(table);

  *at = weir_alias_slot((weir_u32)weir_draw_bits(pool), slots);
  for (weir_u32 step = 0; step < WEIR_PICK_SCAN; step++) {
    if (step >= slots) break;
    weir_least_step(table, *at + weir_scan_offset(step, slots), wish, choice);
  }
  choice->backend = choice->first.backend;
  choice->rule = WEIR_RULE_LEAST;
}

WEIR_INLINE void weir_choose_by_policy(struct weir_pool* pool, weir_u64 table,
                                       const struct weir_wish* wish, struct weir_choice* choice,
                                       weir_u32* at) {
  switch (WEIR_READ_ONCE(pool->policy)) {
    case WEIR_POLICY_ROUND_ROBIN:
      weir_choose_in_turn(pool, table, wish, choice, at);
      break;
    case WEIR_POLICY_LEAST_INFLIGHT:
      weir_choose_least(pool, table, wish, choice, at);
      break;
    case WEIR_POLICY_WEIGHTED_RANDOM:
      choice->backend = weir_draw(table, wish, (weir_u32)weir_draw_bits(pool), at);
      choice->rule = WEIR_RULE_ONLY;
      choice->first = weir_look_at(choice->backend);
      break;
    default:
      weir_choose_of_two(pool, table, wish, choice, at);
  }
}

/* The backend that `wish` gets of `pool`, in choice->backend. Returns 0 when there is none. */
WEIR_SUBPROGRAM int weir_pick_backend(struct weir_pool* pool, const struct weir_wish* wish,
                                      struct weir_choice* choice) {
  weir_u32 at = 0;
  weir_u64 table;

  if (!pool || !wish || !choice) return 0;
  choice->backend = WEIR_NO_BACKEND;
  choice->rule = WEIR_RULE_NONE;
  weir_no_candidate(&choice->first);
  weir_no_candidate(&choice->second);
  table = WEIR_READ_ONCE(pool->table);
  if (weir_table_slots(table) == 0) return 0;

  /* To try a backend again is nobody's turn, and no policy's choice: whichever comes next. */
  if (wish->flags & WEIR_PICK_PROBE)
    at = weir_alias_slot(weir_random(), weir_table_slots(table));
  else
    weir_choose_by_policy(pool, table, wish, choice, &at);
  if (choice->backend != WEIR_NO_BACKEND) return 1;
  choice->backend = weir_scan(table, wish, at);
  choice->first = weir_look_at(choice->backend);
  choice->rule = choice->backend == WEIR_NO_BACKEND ? WEIR_RULE_NONE : WEIR_RULE_SCAN;
  return choice->backend != WEIR_NO_BACKEND;
}

/* Fewer than half of the pool's backends can be used: more likely the signal is wrong, or the rest
 * about to be overrun, than that they are all dead. */
WEIR_INLINE int weir_mostly_open(const struct weir_pool* pool) {
  weir_u32 open = WEIR_READ_ONCE(pool->open), members = WEIR_READ_ONCE(pool->members);

  return open != 0 && 2 * (weir_u64)open > members;
}

#endif /* WEIR_PICK_BPF_H */
