/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A number of things that are there now, counted up and down from every CPU.
 */
#ifndef WEIR_GAUGE_BPF_H
#define WEIR_GAUGE_BPF_H

#include "lib/compat.bpf.h"

WEIR_INLINE void weir_gauge_up(weir_u32* gauge) { WEIR_ADD(gauge, 1); }

/* Returns 1 when the gauge was 0 already, and leaves it there: a wrapped gauge would be read as
 * four thousand million connections. */
WEIR_INLINE weir_u32 weir_gauge_down(weir_u32* gauge) {
  weir_u32 before = __sync_fetch_and_add(gauge, 0xffffffffu);

  if (before != 0) return 0;
  WEIR_ADD(gauge, 1);
  return 1;
}

#endif /* WEIR_GAUGE_BPF_H */
