/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps of include/weir/abi.h. Every object defines all of them, weakly; the static linker keeps
 * one. What user space writes is mmap'd (BPF_F_MMAPABLE), so that each side stores into its own
 * fields of a live record and neither ever overwrites the other's. The sizes of the maps of backends
 * are those of the smallest configuration; user space raises them before it loads the programs.
 */
#ifndef WEIR_MAPS_BPF_H
#define WEIR_MAPS_BPF_H

#include "lib/compat.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_meta);
} weir_meta __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_knobs);
} weir_knobs __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, WEIR_MAX_POOLS + WEIR_MIN_BACKENDS);
  __type(key, struct weir_endpoint);
  __type(value, struct weir_target);
} weir_svc __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WEIR_MAX_POOLS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_pool);
} weir_pool __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WEIR_MAX_POOLS * 2 * WEIR_MIN_BACKENDS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_pick_slot);
} weir_pick __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WEIR_MIN_BACKENDS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_be);
} weir_be __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WEIR_MIN_BACKENDS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_total);
} weir_total __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WEIR_NOTES);
  __type(key, __u32);
  __type(value, struct weir_note);
} weir_note __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct weir_sk);
} weir_sk __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, WEIR_MIN_BACKENDS* WEIR_HIST_KINDS);
  __type(key, __u32);
  __type(value, struct weir_hist);
} weir_hist __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, WEIR_STAT_COUNT);
  __type(key, __u32);
  __type(value, __u64);
} weir_stat __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, WEIR_EVENT_BYTES);
} weir_event __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WEIR_MIN_BACKENDS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_census);
} weir_census __weak SEC(".maps");

/* Atomic although per CPU: these programs can be preempted by each other. */
WEIR_INLINE void weir_count(enum weir_stat_id id, __u64 times) {
  __u32 key = id;
  __u64* value = times ? bpf_map_lookup_elem(&weir_stat, &key) : 0;

  if (value) WEIR_ADD(value, times);
}

WEIR_INLINE struct weir_be* weir_be_at(__u32 index) {
  struct weir_be* be = bpf_map_lookup_elem(&weir_be, &index);

  if (!be) weir_count(WEIR_STAT_BAD_INDEX, 1);
  return be;
}

/* A load whose result nobody waits for: what is used next is then on its way already. */
WEIR_INLINE void weir_be_prefetch(__u32 index) {
  struct weir_be* be = bpf_map_lookup_elem(&weir_be, &index);

  if (be) (void)WEIR_READ_ONCE(be->breaker);
}

WEIR_INLINE struct weir_total* weir_total_at(__u32 index) {
  struct weir_total* total = bpf_map_lookup_elem(&weir_total, &index);

  if (!total) weir_count(WEIR_STAT_BAD_INDEX, 1);
  return total;
}

WEIR_INLINE struct weir_pool* weir_pool_at(__u32 index) {
  struct weir_pool* pool = bpf_map_lookup_elem(&weir_pool, &index);

  if (!pool) weir_count(WEIR_STAT_BAD_INDEX, 1);
  return pool;
}

WEIR_INLINE struct weir_pick_slot* weir_slot_at(__u32 index) {
  struct weir_pick_slot* slot = bpf_map_lookup_elem(&weir_pick, &index);

  if (!slot) weir_count(WEIR_STAT_BAD_INDEX, 1);
  return slot;
}

/* Never 0 in a loaded program: the array has its one element from the beginning. */
WEIR_INLINE struct weir_knobs* weir_knobs_now(void) {
  __u32 key = 0;

  return bpf_map_lookup_elem(&weir_knobs, &key);
}

/* Read first: a store would take the cache line from every other CPU. */
WEIR_INLINE void weir_serves_here(void) {
  struct weir_knobs* knobs = weir_knobs_now();

  if (knobs && !WEIR_READ_ONCE(knobs->serves_here)) WEIR_WRITE_ONCE(knobs->serves_here, 1);
}

WEIR_INLINE __u32 weir_random(void) { return bpf_get_prandom_u32(); }
WEIR_INLINE __u64 weir_now_ms(void) { return bpf_ktime_get_ns() / 1000000; }

#endif /* WEIR_MAPS_BPF_H */
