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

#include "lib/maps.bpf.h"
#include "lib/request.bpf.h"
#include "lib/socket.bpf.h"

/* ---- connections ---- */

static __always_inline void watch_states(struct bpf_sock_ops* ops) {
  /* Into the flags of other programs on this socket, not over them. */
  bpf_sock_ops_cb_flags_set(ops, (int)(ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG));
}

SEC("sockops")
int weir_sockops(struct bpf_sock_ops* ops) {
  struct bpf_sock* socket;
  struct weir_sk* sk;
  __u32 op = ops->op;

  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
      op != BPF_SOCK_OPS_STATE_CB)
    return 1;
  socket = ops->sk;
  if (!socket) return 1;
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, 0);
  if (!sk) return 1;

  switch (op) {
    case BPF_SOCK_OPS_TCP_CONNECT_CB:
      /* As early as this, or a refused connect would not be seen. */
      watch_states(ops);
      break;
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
      sk->next_tx_seq = ops->snd_nxt;
      sk->next_rx_seq = ops->rcv_nxt;
      weir_connect_succeeded(sk);
      break;
    case BPF_SOCK_OPS_STATE_CB:
      if (ops->args[1] != BPF_TCP_CLOSE) break;
      if (ops->args[0] == BPF_TCP_SYN_SENT) weir_connect_failed(sk);
      weir_release(sk);
      break;
  }
  return 1;
}

/* ---- requests ---- */

static __always_inline void sent(struct weir_sk* sk) {
  struct weir_be* be = weir_backend(sk->backend);
  struct weir_request_event event;

  if (!be) return;
  event = weir_request_sent(sk, be, bpf_ktime_get_ns());
  weir_count(WEIR_STAT_UNDERFLOW_PREVENTED, event.underflows);
}

static __always_inline void received(struct weir_sk* sk) {
  struct weir_be* be = weir_backend(sk->backend);
  struct weir_request_event event;

  if (!be) return;
  event = weir_response_received(sk, be, bpf_ktime_get_ns());
  weir_count(WEIR_STAT_UNDERFLOW_PREVENTED, event.underflows);
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
