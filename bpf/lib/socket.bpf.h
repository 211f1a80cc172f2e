/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of an observed socket, as every hook sees it: a connect is under way, it succeeds or
 * fails, the socket gives back what it holds. Each function may be called by several hooks for the
 * same socket; only the first one counts.
 */
#ifndef WEIR_SOCKET_BPF_H
#define WEIR_SOCKET_BPF_H

#include "lib/breaker.bpf.h"
#include "lib/event.bpf.h"
#include "lib/gauge.bpf.h"
#include "lib/histogram.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/request.bpf.h"

#define ECONNREFUSED 111
#define ETIMEDOUT 110

WEIR_INLINE void weir_record(__u32 backend, enum weir_hist_kind kind, __u64 duration_ns) {
  __u32 key = backend * WEIR_HIST_KINDS + kind;
  struct weir_hist* hist = bpf_map_lookup_elem(&weir_hist, &key);

  if (hist) weir_hist_record(hist, duration_ns);
}

/* What every change of a breaker brings with it. */
WEIR_INLINE void weir_breaker_changed(struct weir_be* be, __u32 backend,
                                      const struct weir_knobs* knobs,
                                      const struct weir_breaker_change* change) {
  struct weir_event_breaker* event;
  struct weir_total* total;
  struct weir_pool* pool;

  if (!change->changed) return;
  total = weir_total_at(backend);
  pool = weir_is_member(be) ? weir_pool_at(be->pool) : 0;
  if (pool && change->from == WEIR_BREAKER_CLOSED) weir_gauge_up(&pool->open);
  if (pool && change->to == WEIR_BREAKER_CLOSED)
    weir_count(WEIR_STAT_UNDERFLOW_PREVENTED, weir_gauge_down(&pool->open));
  if (total && change->to == WEIR_BREAKER_OPEN) WEIR_ADD(&total->breaker_opens, 1);
  if (!weir_watched(knobs->watch_until_ns)) return;
  event = WEIR_EVENT_RESERVE(struct weir_event_breaker, WEIR_EVENT_BREAKER, be->pool, backend, 0);
  if (!event) return;
  event->from = change->from;
  event->to = change->to;
  event->level = change->level;
  event->open_ms = change->open_ms;
  weir_event_submit(event);
}

/* Whether the outcome of this connect was still open; closes it and tells when it began. */
WEIR_INLINE __u64 weir_take_connect_ns(struct weir_sk* sk) {
  return WEIR_EXCHANGE(&sk->connect_ns, 0);
}

WEIR_INLINE void weir_connect_succeeded(struct weir_sk* sk) {
  struct weir_breaker_change change = {};
  struct weir_total* total = weir_total_at(sk->backend);
  struct weir_be* be = weir_be_at(sk->backend);
  struct weir_knobs* knobs = weir_knobs_now();
  __u64 since_ns = weir_take_connect_ns(sk);

  if (!be || !total || !knobs || !since_ns) return;
  WEIR_ADD(&total->established, 1);
  /* Read first: almost always 0, and a store would take the cache line from the other CPUs. */
  if (WEIR_READ_ONCE(total->consecutive_failures)) WEIR_WRITE_ONCE(total->consecutive_failures, 0);
  weir_record(sk->backend, WEIR_HIST_CONNECT, bpf_ktime_get_ns() - since_ns);
  if (!(sk->flags & WEIR_SK_PROBE)) return;
  weir_breaker_success(&be->breaker, 1, &change);
  weir_breaker_changed(be, sk->backend, knobs, &change);
}

/* One failed connect to a backend. `probe`: it held a token of its breaker. */
WEIR_INLINE void weir_count_failure(__u32 backend, __u32 pool, __u32 probe, __u32 error,
                                    __u64 cookie) {
  struct weir_breaker_change change = {};
  struct weir_total* total = weir_total_at(backend);
  struct weir_be* be = weir_be_at(backend);
  struct weir_knobs* knobs = weir_knobs_now();
  struct weir_event_failure* event;
  __u32 consecutive;
  __u64 now_ns;

  if (!be || !total || !knobs) return;
  now_ns = bpf_ktime_get_ns();
  WEIR_ADD(&total->connect_failures, 1);
  if (error == ECONNREFUSED) WEIR_ADD(&total->refused, 1);
  if (error == ETIMEDOUT) WEIR_ADD(&total->timed_out, 1);
  consecutive = __sync_fetch_and_add(&total->consecutive_failures, 1) + 1;
  WEIR_WRITE_ONCE(total->last_failure_ns, now_ns);
  weir_breaker_failure(&be->breaker, probe, consecutive, now_ns / 1000000, weir_random(), knobs,
                       &change);
  weir_breaker_changed(be, backend, knobs, &change);
  if (!weir_watched(knobs->watch_until_ns)) return;
  event = WEIR_EVENT_RESERVE(struct weir_event_failure, WEIR_EVENT_FAILURE, pool, backend, cookie);
  if (!event) return;
  event->error = error;
  event->consecutive = consecutive;
  weir_event_submit(event);
}

/* A SYN was sent and the connection never established, whatever the reason: also a client that gave
 * up waiting. To the next connect() it is all the same: better elsewhere. */
WEIR_INLINE void weir_connect_failed(struct weir_sk* sk, __u32 error, __u64 cookie) {
  if (!weir_take_connect_ns(sk)) return;
  weir_set_flags(sk, WEIR_SK_FAILED);
  weir_count_failure(sk->backend, sk->pool, !!(sk->flags & WEIR_SK_PROBE), error, cookie);
}

WEIR_INLINE struct weir_note* weir_note_of(__u64 cookie) {
  __u32 slot = (__u32)cookie & (WEIR_NOTES - 1);

  return bpf_map_lookup_elem(&weir_note, &slot);
}

/* A pick whose connect() never came as far as its SYN: no route, no free local port (a matter of
 * this one destination: another backend has its own range). Shows when the socket is closed or
 * connects again. A client whose own mistake fails everywhere soon fails on most of the pool, which
 * is then in panic and keeps all its backends. A backend that has left in the meantime is not accused,
 * and neither is the one that has its record now. Returns the backend, or WEIR_NO_BACKEND. */
WEIR_INLINE __u32 weir_note_failed(struct weir_note* note, __u64 cookie) {
  struct weir_be* be;

  if (note->cookie != cookie) return WEIR_NO_BACKEND;
  note->cookie = 0;
  be = weir_be_at(note->backend);
  if (!be || note->generation != (__u16)WEIR_READ_ONCE(be->generation)) return WEIR_NO_BACKEND;
  weir_count_failure(note->backend, note->pool, note->probe, 0, cookie);
  return note->backend;
}

WEIR_INLINE void weir_count_request(const struct weir_sk* sk,
                                    const struct weir_request_event* event) {
  weir_count(WEIR_STAT_UNDERFLOW_PREVENTED, event->underflows);
  if (event->over) weir_record(sk->backend, WEIR_HIST_DURATION, event->duration_ns);
}

/* Answered requests are counted apart from the gauges: see struct weir_total. */
WEIR_INLINE void weir_count_answer(const struct weir_sk* sk,
                                   const struct weir_request_event* event) {
  struct weir_total* total = event->first_byte ? weir_total_at(sk->backend) : 0;

  if (total) WEIR_ADD(&total->requests, 1);
}

/* Gives back the unit of in_flight and what a request in progress holds. Returns 1 if this call
 * was the one that did. */
WEIR_INLINE int weir_release(struct weir_sk* sk) {
  struct weir_be* be = weir_be_at(sk->backend);
  struct weir_request_event event;

  if (!be) return 0;
  /* Gauges before in_flight: at in_flight 0 nothing of the record is in use any more. */
  event = weir_request_closed(sk, be);
  weir_count_request(sk, &event);
  if (!WEIR_EXCHANGE(&sk->owned, 0)) return 0;
  weir_count(WEIR_STAT_UNDERFLOW_PREVENTED, weir_gauge_down(&be->in_flight));
  weir_count(WEIR_STAT_RELEASED, 1);
  return 1;
}

#endif /* WEIR_SOCKET_BPF_H */
