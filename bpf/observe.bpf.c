// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Observation of steered sockets: outcome and latency of the connect, start and first response byte
 * of each request. Two request clocks over one state machine (lib/request.bpf.h); user space loads
 * one of them:
 *
 *   tracepoints  sock_send_length, sock_recv_length: what the application sent and read. Cheaper
 *                and closer, but BTF tracepoints of Linux 6.3 and later.
 *   skb          payload of the packets at the cgroup, with a check of TCP sequence numbers.
 *
 * What if this fails? Steering goes on; gauges and histograms stay where they are. Sockets that are
 * not steered cost one failed storage look-up.
 */
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "lib/endpoint.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/request.bpf.h"
#include "lib/socket.bpf.h"

#define AF_INET 2 /* include/linux/socket.h */

/* ---- connections ---- */

static __always_inline void watch_states(struct bpf_sock_ops* ops) {
  /* Into the flags of other programs on this socket, not over them. */
  bpf_sock_ops_cb_flags_set(ops, (int)(ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG));
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

/* What connect() decided for this socket, or a connection made to a backend directly. Returns false
 * for one that is none of ours. */
static __always_inline bool read_note(struct bpf_sock_ops* ops, __u64 cookie,
                                      struct weir_note* decided) {
  struct weir_note* note = weir_note_of(cookie);
  struct weir_endpoint remote;
  struct weir_target* target;
  struct weir_be* be;

  if (note && note->cookie == cookie) {
    *decided = *note;
    note->cookie = 0;
    return true;
  }
  remote_endpoint(ops, &remote);
  target = bpf_map_lookup_elem(&weir_svc, &remote);
  if (!target || target->kind != WEIR_TARGET_BACKEND) return false;
  be = weir_be_at(target->index);
  if (!be) return false;
  decided->backend = target->index;
  decided->pool = be->pool;
  return true;
}

/* The SYN is about to leave: allocate the state of the socket and reserve its load. Connects that
 * are under way are load, too. */
static __always_inline void connecting(struct bpf_sock_ops* ops, struct bpf_sock* socket) {
  __u64 cookie = bpf_get_socket_cookie(ops);
  struct weir_note note = {};
  struct weir_be* be;
  struct weir_sk* sk;
  __u64 now_ns;

  if (!read_note(ops, cookie, &note)) return;
  be = weir_be_at(note.backend);
  if (!be) return;
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!sk) {
    weir_count(WEIR_STAT_NO_STORAGE, 1);
    return;
  }
  /* As early as this, or a refused connect would not be seen. */
  watch_states(ops);
  now_ns = bpf_ktime_get_ns();
  sk->service = note.service;
  sk->backend = note.backend;
  sk->pool = note.pool;
  sk->flags = note.probe ? WEIR_SK_PROBE : 0;
  sk->requests = 0;
  sk->unread_ns = 0;
  sk->counted_sent = 0;
  sk->counted_received = 0;
  sk->connect_ns = now_ns;
  sk->opened_ns = now_ns;
  weir_gauge_up(&be->in_flight);
  weir_gauge_up(&be->fresh);
  if (note.service.port) {
    WEIR_ADD(&be->connects, 1);
  } else {
    sk->flags |= WEIR_SK_DIRECT;
    WEIR_ADD(&be->direct, 1);
  }
  WEIR_WRITE_ONCE(sk->phase, WEIR_PHASE_FRESH);
  WEIR_WRITE_ONCE(sk->owned, 1);
}

SEC("sockops")
int weir_sockops(struct bpf_sock_ops* ops) {
  struct bpf_sock* socket;
  struct weir_sk* sk;
  __u32 op = ops->op;

  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
      op != BPF_SOCK_OPS_STATE_CB)
    return 1;
  if (op == BPF_SOCK_OPS_STATE_CB && ops->args[1] != BPF_TCP_CLOSE) return 1;
  socket = ops->sk;
  if (!socket) return 1;
  if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
    connecting(ops, socket);
    return 1;
  }
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, 0);
  if (!sk) return 1;
  if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
    sk->next_tx_seq = ops->snd_nxt;
    sk->next_rx_seq = ops->rcv_nxt;
    weir_connect_succeeded(sk);
    return 1;
  }
  if (ops->args[0] == BPF_TCP_SYN_SENT) weir_connect_failed(sk, 0, bpf_get_socket_cookie(ops));
  weir_release(sk);
  return 1;
}

/* ---- requests ---- */

static __always_inline void sent(struct weir_sk* sk) {
  struct weir_be* be = weir_be_at(sk->backend);
  struct weir_request_event event;

  if (!be) return;
  event = weir_request_sent(sk, be, bpf_ktime_get_ns());
  weir_count_request(sk, &event);
}

static __always_inline void received(struct weir_sk* sk) {
  struct weir_be* be = weir_be_at(sk->backend);
  struct weir_request_event event;

  if (!be) return;
  event = weir_response_received(sk, be, bpf_ktime_get_ns());
  weir_count_request(sk, &event);
  if (event.first_byte) weir_record(sk->backend, WEIR_HIST_TTFB, event.ttfb_ns);
}

/* ---- request clock: tracepoints ---- */



/* include/linux/socket.h; neither call takes payload off the stream. */
#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000

SEC("tp_btf/sock_send_length")
int BPF_PROG(weir_tp_send, struct sock* socket, int ret, int flags) {
  struct weir_sk* sk;

  if (ret <= 0) return 0;
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, 0);
  if (sk) sent(sk);
  return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(weir_tp_recv, struct sock* socket, int ret, int flags) {
  struct weir_sk* sk;

  if (ret <= 0 || (flags & (MSG_PEEK | MSG_ERRQUEUE))) return 0;
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, 0);
  if (sk) received(sk);
  return 0;
}

/* ---- request clock: packets ---- */

struct segment {
  __u32 seq;
  __u32 payload_bytes;
};

/* At these hooks a packet starts with its network header and is not yet cut into (or already put
 * together from) segments of wire size. Extension headers of IPv6: not counted as payload. */
static __always_inline bool parse(struct __sk_buff* skb, struct segment* segment) {
  __u32 header_bytes;
  struct tcphdr tcp;
  __u8 version;

  if (bpf_skb_load_bytes(skb, 0, &version, sizeof(version)) < 0) return false;
  if (version >> 4 == 4) {
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) < 0 || ip.protocol != IPPROTO_TCP) return false;
    header_bytes = ip.ihl * 4;
  } else {
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) < 0 || ip.nexthdr != IPPROTO_TCP) return false;
    header_bytes = sizeof(ip);
  }
  if (bpf_skb_load_bytes(skb, header_bytes, &tcp, sizeof(tcp)) < 0) return false;
  header_bytes += tcp.doff * 4;
  segment->seq = bpf_ntohl(tcp.seq);
  segment->payload_bytes = skb->len > header_bytes ? skb->len - header_bytes : 0;
  return segment->payload_bytes != 0;
}

static __always_inline struct weir_sk* steered_socket(struct __sk_buff* skb) {
  struct bpf_sock* socket = skb->sk;

  if (!socket) return 0;
  socket = bpf_sk_fullsock(socket);
  return socket ? bpf_sk_storage_get(&weir_sk, socket, 0, 0) : 0;
}

SEC("cgroup_skb/egress")
int weir_skb_out(struct __sk_buff* skb) {
  struct weir_sk* sk = steered_socket(skb);
  struct segment segment;

  if (sk && parse(skb, &segment) &&
      weir_seq_advance(&sk->next_tx_seq, segment.seq, segment.payload_bytes))
    sent(sk);
  return 1;
}

SEC("cgroup_skb/ingress")
int weir_skb_in(struct __sk_buff* skb) {
  struct weir_sk* sk = steered_socket(skb);
  struct segment segment;

  if (sk && parse(skb, &segment) &&
      weir_seq_advance(&sk->next_rx_seq, segment.seq, segment.payload_bytes))
    received(sk);
  return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
