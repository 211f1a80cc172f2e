/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What weir_carry (carry.bpf.c) is to add to the per-CPU maps, on whatever CPU it runs.
 */
#ifndef WEIR_CARRY_BPF_H
#define WEIR_CARRY_BPF_H

#include "lib/compat.bpf.h"

struct weir_carry {
  weir_u32 hist_key; /* of weir_hist; outside of it: no histogram */
  weir_u32 pad;
  weir_u64 stat[WEIR_STAT_COUNT];
  struct weir_hist hist;
};

#endif /* WEIR_CARRY_BPF_H */
