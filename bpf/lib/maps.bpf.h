/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps of include/weir/abi.h. Every object defines all of them, weakly; the static linker keeps
 * one. What user space writes is mmap'd (BPF_F_MMAPABLE), so that each side stores into its own
 * fields of a live record and neither ever overwrites the other's.
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
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, WEIR_MAX_POOLS);
  __type(key, struct weir_endpoint);
  __type(value, __u32);
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
  __uint(max_entries, WEIR_MAX_POOLS * 2 * WEIR_POOL_SLOTS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_pick_slot);
} weir_pick __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, WEIR_MAX_BACKENDS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_be);
} weir_be __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct weir_sk);
} weir_sk __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, WEIR_MAX_BACKENDS* WEIR_HIST_KINDS);
  __type(key, __u32);
  __type(value, struct weir_hist);
} weir_hist __weak SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, WEIR_STAT_COUNT);
  __type(key, __u32);
  __type(value, __u64);
} weir_stat __weak SEC(".maps");

/* Atomic although per CPU: these programs can be preempted by each other. */
WEIR_INLINE void weir_count(enum weir_stat_id id, __u64 times) {
  __u32 key = id;
  __u64* value = times ? bpf_map_lookup_elem(&weir_stat, &key) : 0;

  if (value) WEIR_ADD(value, times);
}

WEIR_INLINE struct weir_be* weir_backend(__u32 index) {
  struct weir_be* be = bpf_map_lookup_elem(&weir_be, &index);

  if (!be) weir_count(WEIR_STAT_BAD_INDEX, 1);
  return be;
}

#endif /* WEIR_MAPS_BPF_H */
