/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a run over all observed sockets does with one of them: counts it, takes its silence for the
 * end of its response, adds up its bytes, tells whether it could be ended without harm. Close,
 * sender and receiver may run at the same time.
 */
#ifndef WEIR_CENSUS_BPF_H
#define WEIR_CENSUS_BPF_H

#include "lib/compat.bpf.h"
#include "lib/request.bpf.h"

/* Without a byte for so long, a response is over. Longer than the pauses between the tokens of a
 * stream, shorter than what anybody would call busy. */
#define WEIR_SILENCE_NS 1000000000ull

/* What the TCP socket itself knows of a connection. */
struct weir_tcp {
  weir_u64 bytes_sent; /* acknowledged by the peer */
  weir_u64 bytes_received;
  weir_u32 unread;  /* bytes that wait for the application */
  weir_u32 unacked; /* bytes written and not acknowledged, sent or not */
};

/* Which gauges this socket is in. A server's end of a connection is in none. Phase and ownership
 * are looked at apart, as they are given up apart. */
WEIR_INLINE void weir_census_count(const struct weir_sk* sk, struct weir_census* census) {
  weir_u32 phase;

  if (WEIR_READ_ONCE(sk->flags) & WEIR_SK_SERVER) return;
  phase = WEIR_READ_ONCE(sk->phase);
  if (phase == WEIR_PHASE_FRESH) census->fresh++;
  if (phase == WEIR_PHASE_WAITING) census->waiting++;
  if (phase == WEIR_PHASE_STREAMING) census->streaming++;
  if (WEIR_READ_ONCE(sk->owned)) census->in_flight++;
}

/* Ends what has been silent: a response, and the expectation of a first request. A connection that
 * a pool opened in advance is no load. Time since the SYN stands for time since the handshake: one
 * that took longer than WEIR_SILENCE_NS is counted idle for the moment until its request. */
WEIR_INLINE struct weir_request_event weir_census_silence(struct weir_sk* sk, struct weir_be* be,
                                                          weir_u64 now_ns) {
  struct weir_request_event event = weir_request_silent(sk, be, now_ns, WEIR_SILENCE_NS);

  if (event.over || WEIR_READ_ONCE(sk->phase) != WEIR_PHASE_FRESH) return event;
  if (WEIR_READ_ONCE(sk->connect_ns) != 0) return event; /* not established */
  if (now_ns < WEIR_READ_ONCE(sk->opened_ns) + WEIR_SILENCE_NS) return event;
  weir_move_phase(sk, be, WEIR_PHASE_FRESH, WEIR_PHASE_IDLE, &event);
  return event;
}

/* Adds to `sum` what of a connection's `total` bytes is not in it yet; `counted` is that part, and
 * never falls. The close may add at the same time as the census: who comes second with the smaller
 * number adds nothing, with the greater one the rest. A lost try means that the other one has just
 * been here, which a census is once in its interval. */
WEIR_INLINE void weir_count_bytes(weir_u64* counted, weir_u64 total, weir_u64* sum) {
  for (int attempt = 0; attempt < 4; attempt++) {
    weir_u64 before = WEIR_READ_ONCE(*counted);

    if (before >= total) return;
    if (WEIR_COMPARE_EXCHANGE(counted, before, total) != before) continue;
    WEIR_ADD(sum, total - before);
    return;
  }
}

/* Whether the connection was there before the agent: made neither to a service nor, as far as was
 * seen, to a backend. Other than WEIR_SK_ADOPTED it stays so. */
WEIR_INLINE int weir_was_adopted(const struct weir_sk* sk) {
  return sk->service.port == 0 && !(WEIR_READ_ONCE(sk->flags) & WEIR_SK_DIRECT);
}

/* Whether the connection can be ended and nobody loses a request. Not one on which many requests go
 * on at once: its silence says nothing; nor one that was adopted, as only its beginning would have
 * told whether it is such a one. */
WEIR_INLINE int weir_census_idle(const struct weir_sk* sk, const struct weir_tcp* tcp,
                                 weir_u64 now_ns) {
  weir_u32 phase = WEIR_READ_ONCE(sk->phase);

  if (!WEIR_READ_ONCE(sk->owned)) return 0;
  if (WEIR_READ_ONCE(sk->flags) & (WEIR_SK_SERVER | WEIR_SK_MUX) || weir_was_adopted(sk)) return 0;
  if (tcp->unread || tcp->unacked) return 0;
  if (phase == WEIR_PHASE_STREAMING)
    return now_ns >= WEIR_READ_ONCE(sk->last_byte_ns) + WEIR_SILENCE_NS;
  return phase == WEIR_PHASE_IDLE || phase == WEIR_PHASE_FRESH;
}

#endif /* WEIR_CENSUS_BPF_H */
