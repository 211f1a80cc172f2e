/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of a steered socket, as every hook sees it: a connect is under way, it succeeds or
 * fails, the socket gives back what it holds. Each function may be called by several hooks for the
 * same socket; only the first one counts.
 */
#ifndef WEIR_SOCKET_BPF_H
#define WEIR_SOCKET_BPF_H

#include "lib/gauge.bpf.h"
#include "lib/histogram.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/request.bpf.h"

WEIR_INLINE void weir_record(__u32 backend, enum weir_hist_kind kind, __u64 duration_ns) {
  __u32 key = backend * WEIR_HIST_KINDS + kind;
  struct weir_hist* hist = bpf_map_lookup_elem(&weir_hist, &key);

  if (hist) weir_hist_record(hist, duration_ns);
}

/* Whether the outcome of this connect was still open; closes it and tells when it began. */
WEIR_INLINE __u64 weir_take_connect_ns(struct weir_sk* sk) {
  return WEIR_EXCHANGE(&sk->connect_ns, 0);
}

WEIR_INLINE void weir_connect_succeeded(struct weir_sk* sk) {
  struct weir_be* be = weir_backend(sk->backend);
  __u64 since_ns = weir_take_connect_ns(sk);

  if (!be || !since_ns) return;
  WEIR_ADD(&be->established, 1);
  /* Read first: almost always 0, and a store would take the cache line from the other CPUs. */
  if (WEIR_READ_ONCE(be->consecutive_failures)) WEIR_WRITE_ONCE(be->consecutive_failures, 0);
  weir_record(sk->backend, WEIR_HIST_CONNECT, bpf_ktime_get_ns() - since_ns);
}

/* Counts against the backend whatever kept the connection from being established: also no route, no
 * free local port (a matter of this one destination: another backend has its own range), and a
 * client that gave up waiting. To the next connect() it is all the same: better elsewhere. A client
 * whose own mistake fails everywhere soon fails on most of the pool, which is then in panic and
 * keeps all its backends. */
WEIR_INLINE void weir_connect_failed(struct weir_sk* sk) {
  struct weir_be* be = weir_backend(sk->backend);

  if (!be || !weir_take_connect_ns(sk)) return;
  WEIR_ADD(&be->connect_failures, 1);
  WEIR_ADD(&be->consecutive_failures, 1);
  WEIR_WRITE_ONCE(be->last_failure_ns, bpf_ktime_get_ns());
}

/* Gives back the unit of in_flight and what a request in progress holds. Returns 1 if this call
 * was the one that did. */
WEIR_INLINE int weir_release(struct weir_sk* sk) {
  struct weir_be* be = weir_backend(sk->backend);
  struct weir_request_event event;

  if (!be) return 0;
  /* Gauges before in_flight: at in_flight 0 nothing of the record is in use any more. */
  event = weir_request_closed(sk, be);
  weir_count(WEIR_STAT_UNDERFLOW_PREVENTED, event.underflows);
  if (!WEIR_EXCHANGE(&sk->owned, 0)) return 0;
  weir_count(WEIR_STAT_UNDERFLOW_PREVENTED, weir_gauge_down(&be->in_flight));
  weir_count(WEIR_STAT_RELEASED, 1);
  return 1;
}

#endif /* WEIR_SOCKET_BPF_H */
