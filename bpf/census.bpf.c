// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Runs over sockets that already exist, started by user space (agent/kernel/socket_sweeps.h):
 *
 *   weir_settle    each observed socket: what is silent is over; bytes of live connections
 *   weir_recount   each observed socket: which gauges should count it
 *   weir_adopt     each TCP socket of a network namespace: take in connections to backends that
 *                  were there before the agent
 *   weir_end_idle  the same: end idle connections to one backend
 *
 * What if this fails? Nothing that is steered or measured depends on it. Idle connections count as
 * a quarter of a request each, errors of the gauges stay, older connections stay unseen.
 *
 * Why two runs over the same sockets? The first one changes gauges, the second one compares them.
 *
 * How can a socket be taken in while it closes? The TCP iterator holds its lock, and skips those
 * that are closed already. Between the release hook, which runs before close() takes that lock, and
 * the close itself lies a moment in which a socket is taken in that nobody will release; the state
 * callback does, that is switched on with it (Linux 6.12), or else the recount finds it.
 */
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/census.bpf.h"
#include "lib/endpoint.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/socket.bpf.h"
#include "lib/totals.bpf.h"

#define AF_INET 2 /* include/linux/socket.h */
#define SOL_TCP 6 /* include/linux/socket.h */
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008 /* include/uapi/linux/bpf.h; Linux 6.12 */
#define WEIR_CGROUP_DEPTH 32 /* levels of nested cgroups that are looked through */

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_sweep);
} weir_sweep SEC(".maps");

/* Linux 6.5. */
extern int bpf_sock_destroy(struct sock_common* sock) __ksym __weak;

static __always_inline struct weir_sweep* this_sweep(void) {
  __u32 key = 0;

  return bpf_map_lookup_elem(&weir_sweep, &key);
}

/* ---- runs over weir_sk ---- */

/* The bytes of a connection that may be half closed: without the FINs, as at its end. */
static __always_inline void read_totals(const struct tcp_sock* tcp, struct weir_end* so_far) {
  const struct sock* socket = (const struct sock*)tcp;

  so_far->bytes_acked = tcp->bytes_acked;
  so_far->bytes_received = tcp->bytes_received;
  so_far->all_acked = tcp->snd_una == tcp->snd_nxt;
  so_far->state = socket->__sk_common.skc_state;
  so_far->fin_in =
      socket->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1;
}

SEC("iter/bpf_sk_storage_map")
int weir_settle(struct bpf_iter__bpf_sk_storage_map* ctx) {
  struct weir_sk* sk = ctx->value;
  struct sock* socket = ctx->sk;
  struct weir_sweep* sweep = this_sweep();
  struct weir_request_event event;
  struct weir_end so_far = {};
  struct weir_total* total;
  struct tcp_sock* tcp;
  struct weir_be* be;

  if (!sk || !socket || !sweep || sk->flags & WEIR_SK_SERVER) return 0;
  be = weir_be_at(sk->backend);
  total = weir_total_at(sk->backend);
  tcp = bpf_skc_to_tcp_sock(socket);
  if (!be || !total || !tcp) return 0;
  event = weir_census_silence(sk, be, sweep->now_ns);
  weir_count_request(sk, &event);
  /* Before the phase: the memory of a socket may be that of another one, once it is closed. */
  read_totals(tcp, &so_far);
  if (WEIR_READ_ONCE(sk->phase) == WEIR_PHASE_CLOSED) return 0;
  weir_count_bytes(&sk->counted_sent, weir_acked_in_all(&so_far), &total->bytes_sent);
  weir_count_bytes(&sk->counted_received, weir_received_in_all(&so_far), &total->bytes_received);
  return 0;
}

SEC("iter/bpf_sk_storage_map")
int weir_recount(struct bpf_iter__bpf_sk_storage_map* ctx) {
  struct weir_sk* sk = ctx->value;
  struct weir_sweep* sweep = this_sweep();
  struct weir_census* census;
  __u32 backend;

  if (!sk || !ctx->sk || !sweep) return 0;
  /* A run of very many sockets is cut in pieces, and may meet one again. */
  if (sk->census == sweep->run) return 0;
  sk->census = sweep->run;
  backend = sk->backend;
  census = bpf_map_lookup_elem(&weir_census, &backend);
  if (!census) return 0;
  weir_census_count(sk, census);
  sweep->sockets++;
  return 0;
}

/* ---- runs over the TCP sockets of a network namespace ---- */

/* Whether the socket belongs to the cgroup that the programs are attached to, or to one below. */
static __always_inline bool in_scope(const struct tcp_sock* tcp, const struct weir_meta* meta) {
  struct cgroup* cgroup = ((const struct sock*)tcp)->sk_cgrp_data.cgroup;

  for (int level = 0; level < WEIR_CGROUP_DEPTH; level++) {
    struct cgroup_subsys_state* parent;

    if (!cgroup) return false;
    if (cgroup->kn->id == meta->cgroup_id) return true;
    parent = cgroup->self.parent;
    if (!parent) return false;
    cgroup = parent->cgroup;
  }
  return false;
}

static __always_inline void endpoint_of(const struct sock_common* common, bool remote,
                                        struct weir_endpoint* endpoint) {
  __u16 port = remote ? bpf_ntohs(common->skc_dport) : common->skc_num;

  if (common->skc_family == AF_INET) {
    __u32 ip = remote ? common->skc_daddr : common->skc_rcv_saddr;

    weir_set_endpoint(endpoint, 0, 0, WEIR_MAPPED_PREFIX, ip, port, IPPROTO_TCP);
  } else if (remote) {
    weir_set_endpoint(endpoint, common->skc_v6_daddr.in6_u.u6_addr32[0],
                      common->skc_v6_daddr.in6_u.u6_addr32[1],
                      common->skc_v6_daddr.in6_u.u6_addr32[2],
                      common->skc_v6_daddr.in6_u.u6_addr32[3], port, IPPROTO_TCP);
  } else {
    weir_set_endpoint(endpoint, common->skc_v6_rcv_saddr.in6_u.u6_addr32[0],
                      common->skc_v6_rcv_saddr.in6_u.u6_addr32[1],
                      common->skc_v6_rcv_saddr.in6_u.u6_addr32[2],
                      common->skc_v6_rcv_saddr.in6_u.u6_addr32[3], port, IPPROTO_TCP);
  }
}

/* The backend with this address, WEIR_NO_BACKEND when it is nobody's. */
static __always_inline __u32 backend_at(const struct sock_common* common, bool remote) {
  struct weir_endpoint endpoint;
  struct weir_target* target;

  endpoint_of(common, remote, &endpoint);
  target = bpf_map_lookup_elem(&weir_svc, &endpoint);
  return target && target->kind == WEIR_TARGET_BACKEND ? target->index : WEIR_NO_BACKEND;
}

/* Has the kernel tell of timeouts, and when the connection is over. */
static __always_inline bool watch(struct tcp_sock* tcp) {
  int flags = tcp->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;

  return bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags)) == 0;
}

SEC("iter/tcp")
int weir_adopt(struct bpf_iter__tcp* ctx) {
  struct sock_common* common = ctx->sk_common;
  struct weir_sweep* sweep = this_sweep();
  struct weir_meta* meta;
  struct weir_sk state = {}, *sk;
  struct weir_total* total;
  struct tcp_sock* tcp;
  struct weir_be* be;
  bool server = false;
  __u32 key = 0;
  __u8 tcp_state;

  meta = bpf_map_lookup_elem(&weir_meta, &key);
  if (!common || !sweep || !meta) return 0;
  tcp = bpf_skc_to_tcp_sock(common);
  if (!tcp) return 0;
  tcp_state = common->skc_state;
  if (tcp_state != BPF_TCP_ESTABLISHED && tcp_state != BPF_TCP_SYN_SENT) return 0;
  sweep->sockets++;
  /* First, because it is so of most sockets and quickly said. */
  if (bpf_sk_storage_get(&weir_sk, tcp, 0, 0)) return 0;
  state.backend = backend_at(common, true);
  /* Of a server's end only the time until a request is read is of interest: tracepoints tell it. */
  if (state.backend == WEIR_NO_BACKEND && meta->request_clock == WEIR_CLOCK_TRACEPOINT) {
    state.backend = backend_at(common, false);
    server = true;
  }
  if (state.backend == WEIR_NO_BACKEND || !in_scope(tcp, meta)) return 0;
  be = weir_be_at(state.backend);
  total = weir_total_at(state.backend);
  if (!be || !total) return 0;

  state.pool = be->pool;
  /* Not to be sniffed: what it sends next is not how it began. */
  state.flags = WEIR_SK_ADOPTED | WEIR_SK_SNIFFED | (server ? WEIR_SK_SERVER : 0);
  /* The other programs see it at once: closed to them, until it is counted. */
  state.phase = server ? WEIR_PHASE_IDLE : WEIR_PHASE_CLOSED;
  state.opened_ns = sweep->now_ns;
  state.next_tx_seq = tcp->snd_nxt;
  state.next_rx_seq = tcp->rcv_nxt;
  state.counted_sent = tcp->bytes_acked ? tcp->bytes_acked : WEIR_SYN_BYTES;
  state.counted_received = tcp->bytes_received;
  sk = bpf_sk_storage_get(&weir_sk, tcp, &state, BPF_SK_STORAGE_GET_F_CREATE);
  if (!sk) {
    sweep->failed++;
    weir_count(WEIR_STAT_NO_STORAGE, 1);
    return 0;
  }
  if (!server) {
    bpf_get_socket_cookie(tcp); /* makes it, for those who can only read it */
    if (!watch(tcp)) sweep->unwatched++;
    weir_gauge_up(&be->in_flight);
    WEIR_ADD(&total->adopted, 1);
    WEIR_WRITE_ONCE(sk->owned, 1);
    WEIR_WRITE_ONCE(sk->phase, WEIR_PHASE_IDLE);
  }
  sweep->adopted++;
  return 0;
}

SEC("iter/tcp")
int weir_end_idle(struct bpf_iter__tcp* ctx) {
  struct sock_common* common = ctx->sk_common;
  struct weir_sweep* sweep = this_sweep();
  struct weir_total* total;
  struct tcp_sock* tcp;
  struct weir_tcp now;
  struct weir_sk* sk;

  if (!common || !sweep) return 0;
  tcp = bpf_skc_to_tcp_sock(common);
  if (!tcp || common->skc_state != BPF_TCP_ESTABLISHED) return 0;
  sk = bpf_sk_storage_get(&weir_sk, tcp, 0, 0);
  if (!sk || sk->backend != sweep->backend) return 0;
  sweep->sockets++;
  now.unread = tcp->rcv_nxt - tcp->copied_seq;
  now.unacked = tcp->write_seq - tcp->snd_una;
  total = weir_total_at(sk->backend);
  if (!total || !weir_census_idle(sk, &now, sweep->now_ns)) return 0;
  if (bpf_sock_destroy(common) != 0) {
    sweep->failed++;
    return 0;
  }
  WEIR_ADD(&total->idle_ended, 1);
  sweep->ended++;
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
