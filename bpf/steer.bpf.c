// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Steering: connect() to the address of a service goes to one of its backends, chosen here, before
 * the first packet. The application keeps seeing the service.
 *
 * What if this fails? Every miss lets the connect() pass unchanged and bumps a named counter in
 * weir_stat; only a service that asks for it (WEIR_POOL_REFUSE_WHEN_EMPTY) is refused, with
 * ECONNREFUSED. With the agent gone, the last published weights stay in force.
 *
 * Why TCP only? A UDP socket talks to many peers and never closes; it needs other hooks.
 */
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/endpoint.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/pick.bpf.h"
#include "lib/socket.bpf.h"

#define ECONNREFUSED 111

enum weir_verdict {
  WEIR_PASS,   /* the connect() goes where the application said */
  WEIR_STEER,  /* it goes to the backend chosen */
  WEIR_REFUSE, /* it fails with ECONNREFUSED */
};

/* ---- the pick ---- */

/* The state is checked although such backends are not in the table: a table may be older than a
 * breaker trip, and its half may just be written anew. An IPv4 socket reaches no IPv6 backend. */
static __always_inline bool takes_connections(const struct weir_be* be, __u32 pool,
                                              bool v4_socket) {
  return WEIR_READ_ONCE(be->state) == WEIR_BE_ACTIVE && be->pool == pool &&
         (!v4_socket || weir_endpoint_is_v4(&be->address));
}

/* The backend that a slot yields, WEIR_NO_BACKEND when it takes no connections. Not static: the
 * verifier then checks it once, not once per step of the loop below. */
__noinline __u32 weir_try_slot(__u32 slot_index, __u32 coin, __u32 pool, __u32 v4_socket) {
  struct weir_pick_slot* slot = bpf_map_lookup_elem(&weir_pick, &slot_index);
  struct weir_be* be;
  __u32 backend;

  if (!slot) {
    weir_count(WEIR_STAT_BAD_INDEX, 1);
    return WEIR_NO_BACKEND;
  }
  backend = weir_alias_choose(slot, coin);
  be = weir_backend(backend);
  return be && takes_connections(be, pool, v4_socket) ? backend : WEIR_NO_BACKEND;
}

/* Two weighted draws; then, rarely, the next slot in line that will do. */
static __always_inline __u32 pick(const struct weir_pool* pool, __u32 pool_index, bool v4_socket) {
  __u64 table = WEIR_READ_ONCE(pool->table);
  __u32 first = weir_table_first(table);
  __u32 slots = weir_table_slots(table);
  __u32 backend, at = 0;

  if (slots == 0) return WEIR_NO_BACKEND;
  for (int draw = 0; draw < 2; draw++) {
    at = weir_alias_slot(bpf_get_prandom_u32(), slots);
    backend = weir_try_slot(first + at, bpf_get_prandom_u32(), pool_index, v4_socket);
    if (backend != WEIR_NO_BACKEND) return backend;
  }
  for (__u32 step = 0; step < WEIR_POOL_SLOTS; step++) {
    if (step >= slots) break;
    at = at + 1 < slots ? at + 1 : 0;
    backend = weir_try_slot(first + at, 0, pool_index, v4_socket);
    if (backend != WEIR_NO_BACKEND) return backend;
  }
  return WEIR_NO_BACKEND;
}

/* ---- one connect() ---- */

/* What an earlier connect() on this socket still holds. Usually nothing: a failed connect was
 * released with its SYN_SENT -> CLOSE. One that failed before the SYN (no route, no free port) shows
 * only here. */
static __always_inline void forget_previous(struct weir_sk* sk) {
  weir_connect_failed(sk);
  if (weir_release(sk)) weir_count(WEIR_STAT_RECONNECT_RELEASED, 1);
}

static __always_inline enum weir_verdict steer(struct bpf_sock_addr* ctx,
                                               const struct weir_endpoint* service, bool v4_socket,
                                               struct weir_endpoint* target) {
  struct weir_sk* sk = bpf_sk_storage_get(&weir_sk, ctx->sk, 0, 0);
  struct weir_pool* pool;
  struct weir_be* be;
  __u32* pool_index;
  __u32 backend;

  if (sk) {
    forget_previous(sk);
    sk->service.port = 0; /* getpeername is to show the truth unless we steer again */
  }
  pool_index = bpf_map_lookup_elem(&weir_svc, service);
  if (!pool_index) {
    weir_count(WEIR_STAT_PASS_NOT_SERVICE, 1);
    return WEIR_PASS;
  }
  pool = bpf_map_lookup_elem(&weir_pool, pool_index);
  if (!pool) {
    weir_count(WEIR_STAT_BAD_INDEX, 1);
    return WEIR_PASS;
  }
  backend = pick(pool, *pool_index, v4_socket);
  be = backend == WEIR_NO_BACKEND ? 0 : weir_backend(backend);
  if (!be) {
    WEIR_ADD(&pool->misses, 1);
    if (pool->flags & WEIR_POOL_REFUSE_WHEN_EMPTY) {
      weir_count(WEIR_STAT_REFUSED_POOL_EMPTY, 1);
      return WEIR_REFUSE;
    }
    weir_count(WEIR_STAT_PASS_POOL_EMPTY, 1);
    return WEIR_PASS;
  }
  if (!sk) sk = bpf_sk_storage_get(&weir_sk, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!sk) {
    weir_count(WEIR_STAT_PASS_NO_STORAGE, 1);
    return WEIR_PASS;
  }

  /* Reserve now, before the SYN: connects that are under way are load, too. */
  weir_gauge_up(&be->in_flight);
  WEIR_ADD(&be->connects, 1);
  WEIR_ADD(&pool->picks, 1);
  weir_count(WEIR_STAT_STEERED, 1);
  sk->service = *service;
  sk->backend = backend;
  sk->connect_ns = bpf_ktime_get_ns();
  WEIR_WRITE_ONCE(sk->phase, WEIR_PHASE_IDLE);
  WEIR_WRITE_ONCE(sk->owned, 1);
  *target = be->address;
  return WEIR_STEER;
}

/* Returns what the hook returns. Before Linux 5.18 a hook cannot choose the errno: EPERM then. */
static __always_inline int refuse(void) {
  if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_set_retval))
    bpf_set_retval(-ECONNREFUSED);
  return 0;
}

static __always_inline bool is_tcp(const struct bpf_sock_addr* ctx) {
  return ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
}

/* ---- hooks ---- */

SEC("cgroup/connect4")
int weir_connect4(struct bpf_sock_addr* ctx) {
  struct weir_endpoint service, target;

  if (!is_tcp(ctx)) return 1;
  weir_set_endpoint(&service, 0, 0, WEIR_MAPPED_PREFIX, ctx->user_ip4, bpf_ntohs(ctx->user_port),
                    IPPROTO_TCP);
  switch (steer(ctx, &service, true, &target)) {
    case WEIR_REFUSE:
      return refuse();
    case WEIR_STEER:
      ctx->user_ip4 = weir_ip_word(&target, 3);
      ctx->user_port = bpf_htons(target.port);
      return 1;
    default:
      return 1;
  }
}

SEC("cgroup/connect6")
int weir_connect6(struct bpf_sock_addr* ctx) {
  struct weir_endpoint service, target;

  if (!is_tcp(ctx)) return 1;
  weir_set_endpoint(&service, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
                    ctx->user_ip6[3], bpf_ntohs(ctx->user_port), IPPROTO_TCP);
  switch (steer(ctx, &service, false, &target)) {
    case WEIR_REFUSE:
      return refuse();
    case WEIR_STEER:
      ctx->user_ip6[0] = weir_ip_word(&target, 0);
      ctx->user_ip6[1] = weir_ip_word(&target, 1);
      ctx->user_ip6[2] = weir_ip_word(&target, 2);
      ctx->user_ip6[3] = weir_ip_word(&target, 3);
      ctx->user_port = bpf_htons(target.port);
      return 1;
    default:
      return 1;
  }
}

/* getpeername() also runs inside accept(): what counts is whether this socket was steered, never
 * whether its address looks like a backend's. */
SEC("cgroup/getpeername4")
int weir_peername4(struct bpf_sock_addr* ctx) {
  struct weir_sk* sk = bpf_sk_storage_get(&weir_sk, ctx->sk, 0, 0);

  if (sk && sk->service.port) {
    ctx->user_ip4 = weir_ip_word(&sk->service, 3);
    ctx->user_port = bpf_htons(sk->service.port);
  }
  return 1;
}

SEC("cgroup/getpeername6")
int weir_peername6(struct bpf_sock_addr* ctx) {
  struct weir_sk* sk = bpf_sk_storage_get(&weir_sk, ctx->sk, 0, 0);

  if (sk && sk->service.port) {
    ctx->user_ip6[0] = weir_ip_word(&sk->service, 0);
    ctx->user_ip6[1] = weir_ip_word(&sk->service, 1);
    ctx->user_ip6[2] = weir_ip_word(&sk->service, 2);
    ctx->user_ip6[3] = weir_ip_word(&sk->service, 3);
    ctx->user_port = bpf_htons(sk->service.port);
  }
  return 1;
}

/* Runs in close(), before TCP's own states: the normal end of a connection. */
SEC("cgroup/sock_release")
int weir_sk_release(struct bpf_sock* ctx) {
  struct weir_sk* sk = bpf_sk_storage_get(&weir_sk, ctx, 0, 0);

  if (!sk) return 1;
  /* Closed without ever having sent a SYN (no route, no free port). A client that gives up in
   * SYN_SENT is counted by the state callback. */
  if (ctx->state == BPF_TCP_CLOSE) weir_connect_failed(sk);
  weir_release(sk);
  return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
