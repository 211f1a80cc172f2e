// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Observation of connections to backends, steered or direct, by sockops: outcome and latency of the
 * connect, retransmission timeouts, and at the end what the connection was worth: bytes, round trip,
 * retransmits, error. Also marks the connections that a backend on this host accepts. Requests are
 * in requests.bpf.c.
 *
 * What if this fails? Steering goes on; gauges and histograms stay where they are.
 *
 * When is the end? When TCP closes the full socket, which a client that closes first does long
 * before TIME_WAIT is over: what the peer still sends then is not counted. The load was given back
 * before, at the close() of the application (steer.bpf.c).
 */
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/endpoint.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/request.bpf.h"
#include "lib/socket.bpf.h"
#include "lib/totals.bpf.h"

#define AF_INET 2 /* include/linux/socket.h */

/* ---- the connect ---- */

static __always_inline void watch(struct bpf_sock_ops* ops) {
  /* Into the flags of other programs on this socket, not over them. */
  bpf_sock_ops_cb_flags_set(ops, (int)(ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG |
                                       BPF_SOCK_OPS_RTO_CB_FLAG));
}

static __always_inline void remote_endpoint(const struct bpf_sock_ops* ops,
                                            struct weir_endpoint* remote) {
  __u16 port = (__u16)bpf_ntohl(ops->remote_port);
  /* Read before the branch: the context may only be read at constant offsets, and compilers join
   * the loads of two branches into one through a pointer. */
  __u32 v4 = *(const volatile __u32*)&ops->remote_ip4;
  __u32 v6 = *(const volatile __u32*)&ops->remote_ip6[3];

  if (ops->family == AF_INET)
    weir_set_endpoint(remote, 0, 0, WEIR_MAPPED_PREFIX, v4, port, IPPROTO_TCP);
  else
    weir_set_endpoint(remote, ops->remote_ip6[0], ops->remote_ip6[1], ops->remote_ip6[2], v6, port,
                      IPPROTO_TCP);
}

/* Where a connection goes. */
struct weir_aim {
  struct weir_endpoint service; /* port 0: to the backend directly */
  __u32 backend;
  __u32 pool;
  __u32 probe;
};

/* What connect() decided for this socket, or a connection made to a backend directly. Returns false
 * for one that is none of ours. */
static __always_inline bool read_note(struct bpf_sock_ops* ops, __u64 cookie,
                                      struct weir_aim* aim) {
  struct weir_note* note = weir_note_of(cookie);
  struct weir_endpoint remote;
  struct weir_target* target;
  struct weir_pool* service;
  struct weir_be* be;

  if (note && note->cookie == cookie) {
    note->cookie = 0;
    service = weir_pool_at(note->service);
    if (!service) return false;
    aim->service = service->address;
    aim->backend = note->backend;
    aim->pool = note->pool;
    aim->probe = note->probe;
    return true;
  }
  remote_endpoint(ops, &remote);
  target = bpf_map_lookup_elem(&weir_svc, &remote);
  if (!target || target->kind != WEIR_TARGET_BACKEND) return false;
  be = weir_be_at(target->index);
  if (!be) return false;
  aim->backend = target->index;
  aim->pool = be->pool;
  return true;
}

/* The SYN is about to leave: allocate the state of the socket and reserve its load. Connects that
 * are under way are load, too. */
static __always_inline void connecting(struct bpf_sock_ops* ops, struct bpf_sock* socket) {
  __u64 cookie = bpf_get_socket_cookie(ops);
  struct weir_aim aim = {};
  struct weir_total* total;
  struct weir_be* be;
  struct weir_sk* sk;
  __u64 now_ns;

  if (!read_note(ops, cookie, &aim)) return;
  be = weir_be_at(aim.backend);
  total = weir_total_at(aim.backend);
  if (!be || !total) return;
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!sk) {
    weir_count(WEIR_STAT_NO_STORAGE, 1);
    return;
  }
  /* As early as this, or a refused connect would not be seen. */
  watch(ops);
  now_ns = bpf_ktime_get_ns();
  sk->service = aim.service;
  sk->backend = aim.backend;
  sk->pool = aim.pool;
  sk->flags = aim.probe ? WEIR_SK_PROBE : 0;
  sk->requests = 0;
  sk->interim_bytes = 0;
  sk->unread_ns = 0;
  sk->counted_sent = WEIR_SYN_BYTES;
  sk->counted_received = 0;
  sk->connect_ns = now_ns;
  sk->opened_ns = now_ns;
  weir_gauge_up(&be->in_flight);
  weir_gauge_up(&be->fresh);
  if (aim.service.port) {
    WEIR_ADD(&total->connects, 1);
  } else {
    sk->flags |= WEIR_SK_DIRECT;
    WEIR_ADD(&total->direct, 1);
  }
  WEIR_WRITE_ONCE(sk->phase, WEIR_PHASE_FRESH);
  WEIR_WRITE_ONCE(sk->owned, 1);
}

/* ---- a backend on this host accepts ---- */

static __always_inline void local_endpoint(const struct bpf_sock_ops* ops,
                                           struct weir_endpoint* local) {
  __u16 port = (__u16)ops->local_port;
  /* As in remote_endpoint(). */
  __u32 v4 = *(const volatile __u32*)&ops->local_ip4;
  __u32 v6 = *(const volatile __u32*)&ops->local_ip6[3];

  if (ops->family == AF_INET)
    weir_set_endpoint(local, 0, 0, WEIR_MAPPED_PREFIX, v4, port, IPPROTO_TCP);
  else
    weir_set_endpoint(local, ops->local_ip6[0], ops->local_ip6[1], ops->local_ip6[2], v6, port,
                      IPPROTO_TCP);
}

/* Only the tracepoints can tell when a request is read; without them, nothing is to be kept. Holds
 * no load and is in no phase: the client's end of the connection is what counts. */
static __always_inline void accepted(struct bpf_sock_ops* ops, struct bpf_sock* socket) {
  struct weir_sk state = {.flags = WEIR_SK_SERVER | WEIR_SK_SNIFFED};
  struct weir_endpoint local;
  struct weir_target* target;
  struct weir_meta* meta;
  struct weir_be* be;
  __u32 key = 0;

  meta = bpf_map_lookup_elem(&weir_meta, &key);
  if (!meta || meta->request_clock != WEIR_CLOCK_TRACEPOINT) return;
  local_endpoint(ops, &local);
  target = bpf_map_lookup_elem(&weir_svc, &local);
  if (!target || target->kind != WEIR_TARGET_BACKEND) return;
  be = weir_be_at(target->index);
  if (!be) return;
  state.backend = target->index;
  state.pool = be->pool;
  if (bpf_sk_storage_get(&weir_sk, socket, &state, BPF_SK_STORAGE_GET_F_CREATE))
    weir_serves_here();
  else
    weir_count(WEIR_STAT_NO_STORAGE, 1);
}

/* ---- the end ---- */

/* What the context does not tell. TCP sets the error before it closes the socket. */
static __always_inline void read_socket(struct bpf_sock* socket, struct weir_end* end) {
  struct tcp_sock* tcp = bpf_skc_to_tcp_sock(socket);

  if (!tcp) return;
  end->error = (__u32)((const struct sock*)tcp)->sk_err;
  end->fin_in = ((const struct sock*)tcp)->__sk_common.skc_flags >>
                    bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1;
}

static __always_inline void report_close(const struct weir_sk* sk, const struct weir_end* end,
                                         __u64 cookie) {
  struct weir_event_close* event = WEIR_EVENT_RESERVE(struct weir_event_close, WEIR_EVENT_CLOSE,
                                                      sk->pool, sk->backend, cookie);

  if (!event) return;
  event->open_ns = event->head.time_ns - sk->opened_ns;
  event->bytes_sent = weir_acked_in_all(end) - WEIR_SYN_BYTES;
  event->bytes_received = weir_received_in_all(end);
  event->requests = sk->requests;
  event->retransmits = end->retransmits;
  event->min_rtt_us = weir_is_rtt(end->min_rtt_us) ? end->min_rtt_us : 0;
  event->error = end->error;
  event->flags = sk->flags;
  weir_event_submit(event);
}

static __always_inline void closed(struct bpf_sock_ops* ops, struct weir_sk* sk,
                                   struct weir_end* end) {
  struct weir_total* total = weir_total_at(sk->backend);
  struct weir_knobs* knobs = weir_knobs_now();

  if (!total || !knobs) return;
  if (weir_set_flags(sk, WEIR_SK_TOTALLED) & WEIR_SK_TOTALLED) return;
  end->bytes_acked = ops->bytes_acked;
  end->bytes_received = ops->bytes_received;
  end->all_acked = ops->snd_una == ops->snd_nxt;
  end->retransmits = ops->total_retrans;
  end->min_rtt_us = ops->rtt_min;
  if (!weir_add_totals(sk, total, end)) return;
  if (weir_is_rtt(end->min_rtt_us))
    weir_record(sk->backend, WEIR_HIST_RTT, end->min_rtt_us * 1000ull);
  if (weir_watched(knobs->watch_until_ns)) report_close(sk, end, bpf_get_socket_cookie(ops));
}

/* ---- hook ---- */

SEC("sockops")
int weir_sockops(struct bpf_sock_ops* ops) {
  struct weir_end end = {};
  struct bpf_sock* socket;
  struct weir_total* total;
  struct weir_sk* sk;
  __u32 op = ops->op;

  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
      op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_RTO_CB &&
      op != BPF_SOCK_OPS_STATE_CB)
    return 1;
  if (op == BPF_SOCK_OPS_STATE_CB && ops->args[1] != BPF_TCP_CLOSE) return 1;
  socket = ops->sk;
  if (!socket) return 1;
  if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
    connecting(ops, socket);
    return 1;
  }
  if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
    accepted(ops, socket);
    return 1;
  }
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, 0);
  if (!sk || sk->flags & WEIR_SK_SERVER) return 1;
  if (op == BPF_SOCK_OPS_RTO_CB) {
    total = weir_total_at(sk->backend);
    if (total) WEIR_ADD(&total->rtos, 1);
    return 1;
  }
  if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
    sk->next_tx_seq = ops->snd_nxt;
    sk->next_rx_seq = ops->rcv_nxt;
    weir_connect_succeeded(sk);
    return 1;
  }
  end.state = ops->args[0];
  read_socket(socket, &end);
  if (end.state == BPF_TCP_SYN_SENT) {
    weir_connect_failed(sk, end.error, bpf_get_socket_cookie(ops));
    weir_release(sk);
  } else {
    /* In this order: what the census sees of a connection that is not closed is less than this. */
    weir_release(sk);
    closed(ops, sk, &end);
  }
  return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
