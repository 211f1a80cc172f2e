// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Adds to the per-CPU maps what the maps of an earlier agent hold. Run from user space, loaded only
 * for an upgrade (agent/kernel/upgrade.h): user space itself can only overwrite an element of a
 * per-CPU map, and would lose what the other programs count at that moment.
 *
 * What if this fails? The start fails and is repeated; until it succeeds the pins stay as they are.
 */
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_helpers.h>

#include "lib/carry.bpf.h"
#include "lib/maps.bpf.h"

SEC("syscall")
int weir_carry(struct weir_carry* sums) {
  __u32 key = sums->hist_key;
  struct weir_hist* hist = bpf_map_lookup_elem(&weir_hist, &key);

  /* The context may only be read at constant offsets. */
#pragma clang loop unroll(full)
  for (__u32 i = 0; i < WEIR_STAT_COUNT; i++) weir_count(i, sums->stat[i]);
  if (!hist) return 0;
#pragma clang loop unroll(full)
  for (__u32 i = 0; i < WEIR_HIST_BUCKETS; i++) {
    WEIR_ADD(&hist->bucket[i].count, sums->hist.bucket[i].count);
    WEIR_ADD(&hist->bucket[i].sum_ns, sums->hist.bucket[i].sum_ns);
  }
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
