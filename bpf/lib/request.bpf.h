/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a request stands, seen from its bytes alone:
 *
 *            sent              received             sent
 *   FRESH ──────────► WAITING ───────────► STREAMING ───────► WAITING ...
 *   IDLE ───────────►                          └── silence ──► IDLE
 *     └───────────────────┴────────── closed ──┴────────────► CLOSED
 *
 * and the gauges `fresh`, `waiting` and `streaming` of its backend. Sender, receiver, census and
 * close may run at once on several CPUs, without the socket lock. Each change of phase is therefore
 * one compare and exchange, won by one of them; the gauge of the new phase goes up before it and
 * down again if it was lost, so that whoever leaves a phase always finds itself counted there.
 *
 * What the payload said (lib/sniff.bpf.h) is in the flags. A multiplexed connection goes through the
 * same phases, but has no requests: nobody could say which bytes belong to which.
 */
#ifndef WEIR_REQUEST_BPF_H
#define WEIR_REQUEST_BPF_H

#include "lib/compat.bpf.h"
#include "lib/gauge.bpf.h"

struct weir_request_event {
  weir_u64 ttfb_ns;     /* last request byte to first response byte; valid with first_byte */
  weir_u64 duration_ns; /* first request byte to last response byte; valid with over */
  weir_u32 first_byte;  /* 1: this was the first byte of a response */
  weir_u32 over;        /* 1: the response before this has come to its end */
  weir_u32 underflows;  /* gauges that were found at 0; a bug if not 0 */
  weir_u32 sequence;    /* of the request on its connection, from 1; valid with first_byte */
};

/* Sniffer, sender and close change flags at the same time. Both return the flags before. */
WEIR_INLINE weir_u32 weir_set_flags(struct weir_sk* sk, weir_u32 flags) {
  return __sync_fetch_and_or(&sk->flags, flags);
}
WEIR_INLINE weir_u32 weir_clear_flags(struct weir_sk* sk, weir_u32 flags) {
  return __sync_fetch_and_and(&sk->flags, ~flags);
}

/* The gauge in which a phase is counted; 0: in none. */
WEIR_INLINE weir_u32* weir_phase_gauge(struct weir_be* be, weir_u32 phase) {
  switch (phase) {
    case WEIR_PHASE_FRESH:
      return &be->fresh;
    case WEIR_PHASE_WAITING:
      return &be->waiting;
    case WEIR_PHASE_STREAMING:
      return &be->streaming;
    default:
      return 0;
  }
}

/* From phase `from` to `to`. Returns 0 when the phase was another one by then, or became so. */
WEIR_INLINE int weir_move_phase(struct weir_sk* sk, struct weir_be* be, weir_u32 from, weir_u32 to,
                                struct weir_request_event* event) {
  weir_u32* entered = weir_phase_gauge(be, to);
  weir_u32* left = weir_phase_gauge(be, from);

  if (entered) weir_gauge_up(entered);
  if (WEIR_COMPARE_EXCHANGE(&sk->phase, from, to) != from) {
    if (entered) event->underflows += weir_gauge_down(entered);
    return 0;
  }
  if (left) event->underflows += weir_gauge_down(left);
  return 1;
}

WEIR_INLINE void weir_response_over(const struct weir_sk* sk, struct weir_request_event* event) {
  weir_u64 begin_ns = WEIR_READ_ONCE(sk->begin_ns), last_ns = WEIR_READ_ONCE(sk->last_byte_ns);

  if (WEIR_READ_ONCE(sk->flags) & WEIR_SK_MUX) return;
  event->over = 1;
  event->duration_ns = last_ns > begin_ns ? last_ns - begin_ns : 0;
}

/* TLS, and no application data has left yet. */
WEIR_INLINE int weir_in_handshake(weir_u32 flags) {
  return (flags & (WEIR_SK_TLS | WEIR_SK_SNIFFED)) == WEIR_SK_TLS;
}

/* Request payload left. The clock restarts with every part of a request: a client that takes a
 * second to upload its prompt has not waited a second for the backend. */
WEIR_INLINE struct weir_request_event weir_request_sent(struct weir_sk* sk, struct weir_be* be,
                                                        weir_u64 now_ns) {
  struct weir_request_event event = {0, 0, 0, 0, 0, 0};
  weir_u32 phase = WEIR_READ_ONCE(sk->phase), flags = WEIR_READ_ONCE(sk->flags);

  if (phase == WEIR_PHASE_CLOSED || weir_in_handshake(flags)) return event;
  WEIR_WRITE_ONCE(sk->request_ns, now_ns);
  if (phase == WEIR_PHASE_WAITING) return event;
  if (!weir_move_phase(sk, be, phase, WEIR_PHASE_WAITING, &event)) {
    /* Lost to the census, which at this moment took the silence before it for the end; or else to
     * the close. */
    phase = WEIR_PHASE_IDLE;
    if (!weir_move_phase(sk, be, WEIR_PHASE_IDLE, WEIR_PHASE_WAITING, &event)) return event;
  }
  if (phase == WEIR_PHASE_STREAMING) weir_response_over(sk, &event);
  WEIR_WRITE_ONCE(sk->begin_ns, now_ns);
  if (flags & WEIR_SK_ADOPTED) weir_clear_flags(sk, WEIR_SK_ADOPTED);
  return event;
}

/* What was taken for a request turns out to be a handshake. */
WEIR_INLINE struct weir_request_event weir_request_undone(struct weir_sk* sk, struct weir_be* be) {
  struct weir_request_event event = {0, 0, 0, 0, 0, 0};

  weir_move_phase(sk, be, WEIR_PHASE_WAITING, WEIR_PHASE_FRESH, &event);
  return event;
}

/* Response payload arrived. Bytes before any request (a server that speaks first) are ignored. */
WEIR_INLINE struct weir_request_event weir_response_received(struct weir_sk* sk, struct weir_be* be,
                                                             weir_u64 now_ns) {
  struct weir_request_event event = {0, 0, 0, 0, 0, 0};
  weir_u32 phase = WEIR_READ_ONCE(sk->phase);
  weir_u64 sent_ns;

  if (phase != WEIR_PHASE_WAITING && phase != WEIR_PHASE_STREAMING) return event;
  WEIR_WRITE_ONCE(sk->last_byte_ns, now_ns);
  if (phase == WEIR_PHASE_STREAMING) return event;
  sent_ns = WEIR_READ_ONCE(sk->request_ns);
  if (!weir_move_phase(sk, be, WEIR_PHASE_WAITING, WEIR_PHASE_STREAMING, &event)) return event;
  WEIR_WRITE_ONCE(sk->first_byte_ns, now_ns);
  if (WEIR_READ_ONCE(sk->flags) & WEIR_SK_MUX) return event;
  event.sequence = __sync_fetch_and_add(&sk->requests, 1) + 1;
  event.first_byte = 1;
  /* Another thread of the client may have sent in between. */
  event.ttfb_ns = now_ns > sent_ns ? now_ns - sent_ns : 0;
  return event;
}

/* No byte came for `silence_ns`: the response is taken to be over. */
WEIR_INLINE struct weir_request_event weir_request_silent(struct weir_sk* sk, struct weir_be* be,
                                                          weir_u64 now_ns, weir_u64 silence_ns) {
  struct weir_request_event event = {0, 0, 0, 0, 0, 0};

  if (WEIR_READ_ONCE(sk->phase) != WEIR_PHASE_STREAMING) return event;
  if (now_ns < WEIR_READ_ONCE(sk->last_byte_ns) + silence_ns) return event;
  if (weir_move_phase(sk, be, WEIR_PHASE_STREAMING, WEIR_PHASE_IDLE, &event))
    weir_response_over(sk, &event);
  return event;
}

/* The connection is over, whatever was outstanding. May be called again. */
WEIR_INLINE struct weir_request_event weir_request_closed(struct weir_sk* sk, struct weir_be* be) {
  struct weir_request_event event = {0, 0, 0, 0, 0, 0};
  weir_u32 phase = WEIR_EXCHANGE(&sk->phase, (weir_u32)WEIR_PHASE_CLOSED);
  weir_u32* left = weir_phase_gauge(be, phase);

  if (left) event.underflows = weir_gauge_down(left);
  if (phase == WEIR_PHASE_STREAMING) weir_response_over(sk, &event);
  return event;
}

/* Whether the wait for this first byte was the backend's time. Over TLS 1.3 the server sends session
 * tickets before its first response. */
WEIR_INLINE int weir_is_sample(weir_u32 flags, const struct weir_request_event* event) {
  return event->first_byte && !(flags & WEIR_SK_TLS && event->sequence == 1);
}

/* Tracepoint clock: a segment brought `bytes` of 1xx responses. */
WEIR_INLINE void weir_interim_arrived(struct weir_sk* sk, weir_u32 bytes) {
  WEIR_ADD(&sk->interim_bytes, bytes);
}

/* Tracepoint clock: the application read `bytes`. Returns whether all of them were 1xx responses.
 * Another thread that reads at the same moment may win: its bytes are the ones, then. */
WEIR_INLINE int weir_interim_read(struct weir_sk* sk, weir_u32 bytes) {
  weir_u32 interim = WEIR_READ_ONCE(sk->interim_bytes);

  if (interim == 0) return 0;
  return WEIR_COMPARE_EXCHANGE(&sk->interim_bytes, interim,
                               interim > bytes ? interim - bytes : 0) == interim &&
         bytes <= interim;
}

/* 1xx responses reach no further than this beyond what was read: a packet is shorter. */
#define WEIR_INTERIM_REACH (1u << 20)

/* Tracepoint clock, payload as it is copied: the `bytes` from `seq` on are 1xx responses. */
WEIR_INLINE void weir_interim_seen(struct weir_sk* sk, weir_u32 seq, weir_u32 bytes) {
  sk->next_rx_seq = seq + bytes;
}

/* How many bytes from `seq` on are known to be. Asked again of the same bytes (MSG_PEEK) it says the
 * same. */
WEIR_INLINE weir_u32 weir_interim_from(const struct weir_sk* sk, weir_u32 seq) {
  weir_u32 bytes = sk->next_rx_seq - seq;

  return bytes <= WEIR_INTERIM_REACH ? bytes : 0;
}

/* Whether a segment brings bytes not seen before; advances `next` past them. Keeps
 * retransmissions, keep-alive and window probes from resetting the request clock. */
WEIR_INLINE int weir_seq_advance(weir_u32* next, weir_u32 seq, weir_u32 payload_bytes) {
  weir_u32 end = seq + payload_bytes;

  if (payload_bytes == 0 || (int)(end - *next) <= 0) return 0;
  *next = end;
  return 1;
}

#endif /* WEIR_REQUEST_BPF_H */
