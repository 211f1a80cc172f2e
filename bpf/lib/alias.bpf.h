/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Weighted random choice in O(1): Walker's alias method. User space builds the table
 * (agent/kernel/alias_table.h), the pick reads it.
 */
#ifndef WEIR_ALIAS_BPF_H
#define WEIR_ALIAS_BPF_H

#include "lib/compat.bpf.h"

/* weir_pool.table: where the table begins in weir_pick, and how many slots it has. */
WEIR_INLINE weir_u32 weir_table_first(weir_u64 table) { return (weir_u32)table; }
WEIR_INLINE weir_u32 weir_table_slots(weir_u64 table) { return (weir_u32)(table >> 32); }

/* A slot in [0, slots) from 32 random bits. A multiplication instead of a remainder: no division,
 * and a bias below slots / 2^32. */
WEIR_INLINE weir_u32 weir_alias_slot(weir_u32 random, weir_u32 slots) {
  return (weir_u32)(((weir_u64)random * slots) >> 32);
}

/* The backend that `slot` yields for 32 other random bits. */
WEIR_INLINE weir_u32 weir_alias_choose(const struct weir_pick_slot* slot, weir_u32 coin) {
  return coin < slot->threshold ? slot->backend : slot->alias;
}

#endif /* WEIR_ALIAS_BPF_H */
