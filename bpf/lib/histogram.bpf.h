/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Recording into struct weir_hist. Works in quarter microseconds: one octave is then exactly
 * WEIR_HIST_SUB steps at its bottom, and no bucket needs a special case.
 */
#ifndef WEIR_HISTOGRAM_BPF_H
#define WEIR_HISTOGRAM_BPF_H

#include "lib/compat.bpf.h"

#define WEIR_HIST_STEP_NS (1000u / WEIR_HIST_SUB)

/* Position of the highest set bit; 0 for 0. BPF has no instruction for it. */
WEIR_INLINE weir_u32 weir_log2(weir_u64 value) {
  weir_u32 bit = 0;

  if (value >> 32) {
    bit += 32;
    value >>= 32;
  }
  if (value >> 16) {
    bit += 16;
    value >>= 16;
  }
  if (value >> 8) {
    bit += 8;
    value >>= 8;
  }
  if (value >> 4) {
    bit += 4;
    value >>= 4;
  }
  if (value >> 2) {
    bit += 2;
    value >>= 2;
  }
  if (value >> 1) bit += 1;
  return bit;
}

/* Durations below 1 us share the first bucket, those beyond the last octave the last one. */
WEIR_INLINE weir_u32 weir_hist_index(weir_u64 duration_ns) {
  weir_u64 steps = duration_ns / WEIR_HIST_STEP_NS;
  weir_u32 octave, index;

  if (steps < WEIR_HIST_SUB) return 0;
  octave = weir_log2(steps) - WEIR_HIST_SUB_BITS;
  index = octave * WEIR_HIST_SUB + (weir_u32)((steps >> octave) & (WEIR_HIST_SUB - 1));
  return index < WEIR_HIST_BUCKETS ? index : WEIR_HIST_BUCKETS - 1;
}

WEIR_INLINE void weir_hist_record(struct weir_hist* hist, weir_u64 duration_ns) {
  weir_u32 index = weir_hist_index(duration_ns);

  if (index >= WEIR_HIST_BUCKETS) return; /* never; the verifier wants to see it */
  WEIR_ADD(&hist->bucket[index].count, 1);
  WEIR_ADD(&hist->bucket[index].sum_ns, duration_ns);
}

#endif /* WEIR_HISTOGRAM_BPF_H */
