/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a request stands, seen from its bytes alone:
 *
 *            sent              received             sent
 *   IDLE ───────────► WAITING ───────────► STREAMING ───────► WAITING ...
 *     └───────────────────┴────────── closed ──┴────────────► CLOSED
 *
 * and the gauges `waiting` and `streaming` of its backend. Sender, receiver and close may run at
 * once on three CPUs, without the socket lock. Each change of phase is therefore one compare and
 * exchange, won by one of them; the gauge of the new phase goes up before it and down again if it
 * was lost, so that whoever leaves a phase always finds itself counted there.
 */
#ifndef WEIR_REQUEST_BPF_H
#define WEIR_REQUEST_BPF_H

#include "lib/compat.bpf.h"
#include "lib/gauge.bpf.h"

struct weir_request_event {
  weir_u64 ttfb_ns;    /* last request byte to first response byte; valid with first_byte */
  weir_u32 first_byte; /* 1: this was the first byte of a response */
  weir_u32 underflows; /* gauges that were found at 0; a bug if not 0 */
};

/* Request payload left. The clock restarts with every part of a request: a client that takes a
 * second to upload its prompt has not waited a second for the backend. */
WEIR_INLINE struct weir_request_event weir_request_sent(struct weir_sk* sk, struct weir_be* be,
                                                        weir_u64 now_ns) {
  struct weir_request_event event = {0, 0, 0};
  weir_u32 phase = WEIR_READ_ONCE(sk->phase);

  if (phase == WEIR_PHASE_CLOSED) return event;
  WEIR_WRITE_ONCE(sk->request_ns, now_ns);
  if (phase == WEIR_PHASE_WAITING) return event;

  weir_gauge_up(&be->waiting);
  if (WEIR_COMPARE_EXCHANGE(&sk->phase, phase, (weir_u32)WEIR_PHASE_WAITING) != phase)
    event.underflows = weir_gauge_down(&be->waiting);
  else if (phase == WEIR_PHASE_STREAMING)
    event.underflows = weir_gauge_down(&be->streaming);
  return event;
}

/* Response payload arrived. Bytes before any request (a server that speaks first) are ignored. */
WEIR_INLINE struct weir_request_event weir_response_received(struct weir_sk* sk, struct weir_be* be,
                                                             weir_u64 now_ns) {
  struct weir_request_event event = {0, 0, 0};
  weir_u64 sent_ns;

  if (WEIR_READ_ONCE(sk->phase) != WEIR_PHASE_WAITING) return event;
  sent_ns = WEIR_READ_ONCE(sk->request_ns);

  weir_gauge_up(&be->streaming);
  if (WEIR_COMPARE_EXCHANGE(&sk->phase, (weir_u32)WEIR_PHASE_WAITING,
                            (weir_u32)WEIR_PHASE_STREAMING) != WEIR_PHASE_WAITING) {
    event.underflows = weir_gauge_down(&be->streaming);
    return event;
  }
  event.underflows = weir_gauge_down(&be->waiting);
  WEIR_ADD(&be->requests, 1);
  event.first_byte = 1;
  /* Another thread of the client may have sent in between. */
  event.ttfb_ns = now_ns > sent_ns ? now_ns - sent_ns : 0;
  return event;
}

/* The connection is over, whatever was outstanding. May be called again. */
WEIR_INLINE struct weir_request_event weir_request_closed(struct weir_sk* sk, struct weir_be* be) {
  struct weir_request_event event = {0, 0, 0};
  weir_u32 phase = WEIR_EXCHANGE(&sk->phase, (weir_u32)WEIR_PHASE_CLOSED);

  if (phase == WEIR_PHASE_WAITING)
    event.underflows = weir_gauge_down(&be->waiting);
  else if (phase == WEIR_PHASE_STREAMING)
    event.underflows = weir_gauge_down(&be->streaming);
  return event;
}

/* skb clock: whether a segment brings bytes not seen before; advances `next` past them. Keeps
 * retransmissions, keep-alive and window probes from resetting the request clock. */
WEIR_INLINE int weir_seq_advance(weir_u32* next, weir_u32 seq, weir_u32 payload_bytes) {
  weir_u32 end = seq + payload_bytes;

  if (payload_bytes == 0 || (int)(end - *next) <= 0) return 0;
  *next = end;
  return 1;
}

#endif /* WEIR_REQUEST_BPF_H */
