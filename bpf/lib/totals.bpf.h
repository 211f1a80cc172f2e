/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a connection that is over adds to the totals of its backend.
 *
 * TCP counts in its bytes the sequence numbers of SYN and FIN: bytes_acked has the client's SYN from
 * the beginning (which is why weir_sk.counted_sent begins with it), and each side's FIN once it is
 * acknowledged or received. These are taken off here: the sums are payload.
 */
#ifndef WEIR_TOTALS_BPF_H
#define WEIR_TOTALS_BPF_H

#include "lib/census.bpf.h"
#include "lib/compat.bpf.h"

#define WEIR_SYN_BYTES 1
#define WEIR_FIN_BYTES 1

/* enum of include/net/tcp_states.h, as the state callback passes it. */
enum weir_tcp_state {
  WEIR_TCP_FIN_WAIT1 = 4,
  WEIR_TCP_FIN_WAIT2 = 5,
  WEIR_TCP_TIME_WAIT = 6,
  WEIR_TCP_CLOSE_WAIT = 8,
  WEIR_TCP_LAST_ACK = 9,
  WEIR_TCP_CLOSING = 11,
};

/* A connection at its end, as TCP knows it. */
struct weir_end {
  weir_u64 bytes_acked;
  weir_u64 bytes_received;
  weir_u32 state;       /* in which the end found it, enum weir_tcp_state */
  weir_u32 all_acked;   /* 1: nothing that was sent is unacknowledged */
  weir_u32 fin_in;      /* 1: the peer's FIN was received */
  weir_u32 retransmits; /* segments */
  weir_u32 min_rtt_us;  /* 0 or ~0: not known */
  weir_u32 error;       /* errno the socket ended with; 0: none */
};

/* Whether our FIN is part of bytes_acked. From FIN_WAIT1 a connection does not end with its FIN
 * acknowledged: it goes on to FIN_WAIT2. */
WEIR_INLINE int weir_fin_acked(const struct weir_end* end) {
  if (end->state == WEIR_TCP_FIN_WAIT2 || end->state == WEIR_TCP_TIME_WAIT) return 1;
  return (end->state == WEIR_TCP_CLOSING || end->state == WEIR_TCP_LAST_ACK) && end->all_acked;
}

/* Whether the peer's FIN is part of bytes_received. */
WEIR_INLINE int weir_fin_received(const struct weir_end* end) {
  return end->fin_in || end->state == WEIR_TCP_CLOSE_WAIT || end->state == WEIR_TCP_LAST_ACK ||
         end->state == WEIR_TCP_CLOSING;
}

/* Takes SYN and FIN off. In the unit of weir_sk.counted_sent the SYN is still in it. */
WEIR_INLINE weir_u64 weir_acked_in_all(const struct weir_end* end) {
  return end->bytes_acked - (weir_fin_acked(end) ? WEIR_FIN_BYTES : 0);
}
WEIR_INLINE weir_u64 weir_received_in_all(const struct weir_end* end) {
  return end->bytes_received - (weir_fin_received(end) ? WEIR_FIN_BYTES : 0);
}

WEIR_INLINE int weir_is_rtt(weir_u32 rtt_us) { return rtt_us != 0 && rtt_us != 0xffffffffu; }

/* `least` becomes `value` if that is less; 0 in `least` is none yet. A few tries: each one lost
 * means that somebody else put in a value, most likely one as good. */
WEIR_INLINE void weir_lower_to(weir_u32* least, weir_u32 value) {
  for (int attempt = 0; attempt < 4; attempt++) {
    weir_u32 now = WEIR_READ_ONCE(*least);

    if (now != 0 && now <= value) return;
    if (WEIR_COMPARE_EXCHANGE(least, now, value) == now) return;
  }
}

#define WEIR_ECONNABORTED 103 /* include/uapi/asm-generic/errno.h */

/* A connection that somebody here destroyed (`ss -K`, an opening breaker) is not the backend's
 * doing. */
WEIR_INLINE int weir_is_reset(const struct weir_end* end) {
  return end->error != 0 && end->error != WEIR_ECONNABORTED;
}

/* Adds everything, bytes as far as the census has not. The record may belong to another backend by
 * now: a connection outlives its release by the time that TCP takes to close. */
WEIR_INLINE int weir_add_totals(struct weir_sk* sk, struct weir_total* total,
                                const struct weir_end* end) {
  if (WEIR_READ_ONCE(sk->opened_ns) < WEIR_READ_ONCE(total->since_ns)) return 0;
  WEIR_ADD(&total->closes, 1);
  if (weir_is_reset(end)) WEIR_ADD(&total->resets, 1);
  if (end->retransmits) WEIR_ADD(&total->retransmits, end->retransmits);
  if (weir_is_rtt(end->min_rtt_us)) weir_lower_to(&total->min_rtt_us, end->min_rtt_us);
  weir_count_bytes(&sk->counted_sent, weir_acked_in_all(end), &total->bytes_sent);
  weir_count_bytes(&sk->counted_received, weir_received_in_all(end), &total->bytes_received);
  return 1;
}

#endif /* WEIR_TOTALS_BPF_H */
