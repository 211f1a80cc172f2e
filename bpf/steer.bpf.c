// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Steering: connect() to the address of a service goes to one of its backends, chosen here, before
 * the first packet. The application keeps seeing the service.
 *
 * What if this fails? Every miss lets the connect() pass unchanged and bumps a named counter in
 * weir_stat; only a service that asks for it (WEIR_POOL_REFUSE_WHEN_EMPTY) is refused, with
 * ECONNREFUSED. With the agent gone, the last published weights stay in force.
 *
 * Why is nothing reserved here? State is allocated, and load counted, when the SYN leaves
 * (observe.bpf.c), still within the same connect(): one that fails before that (no route, no free
 * port) then holds nothing that would have to be given back.
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

enum weir_verdict {
  WEIR_PASS,   /* the connect() goes where the application said */
  WEIR_STEER,  /* it goes to the backend chosen */
  WEIR_REFUSE, /* it fails with ECONNREFUSED */
};

/* ---- the pick ---- */

/* Where to look for a backend, one step after the other, until there is one. */
enum weir_step {
  WEIR_STEP_POOL,   /* the service's own backends; when most of their breakers are open and there is
                       a backup pool, only to try one of these */
  WEIR_STEP_BACKUP, /* the backup pool, if there is one */
  WEIR_STEP_ANY,    /* own backends again: also the one that just failed on this socket, and in
                       panic also those whose breakers are open */
  WEIR_STEPS,
};

struct weir_pick_result {
  struct weir_choice choice;
  __u32 panic;
  __u32 backup;
};

/* `family`: WEIR_PICK_V4, WEIR_PICK_V6, or 0 for a socket that reaches both. */
static __always_inline void pick(struct weir_pool* pool, __u32 pool_index, __u32 family,
                                 __u32 avoid, struct weir_pick_result* result) {
  bool mostly_open = weir_mostly_open(pool);

  for (int step = WEIR_STEP_POOL; step < WEIR_STEPS; step++) {
    struct weir_wish wish = {.pool = pool_index, .flags = family, .avoid = WEIR_NO_BACKEND};
    struct weir_pool* from = pool;

    if (step == WEIR_STEP_POOL) {
      if (mostly_open && pool->backup == WEIR_NO_POOL) continue;
      if (mostly_open) wish.flags |= WEIR_PICK_PROBE;
      wish.avoid = avoid;
    } else if (step == WEIR_STEP_BACKUP) {
      wish.pool = pool->backup;
      if (wish.pool == WEIR_NO_POOL) continue;
      from = weir_pool_at(wish.pool);
      if (!from) continue;
    } else if (mostly_open && !(pool->flags & WEIR_POOL_REFUSE_WHEN_EMPTY)) {
      wish.flags |= WEIR_PICK_PANIC;
    }
    if (!weir_pick_backend(from, &wish, &result->choice)) continue;
    result->panic = !!(wish.flags & WEIR_PICK_PANIC);
    result->backup = step == WEIR_STEP_BACKUP;
    return;
  }
}

/* For a backend whose breaker is not closed: whether this connect is one of those that try it. */
static __always_inline bool take_token(struct weir_be* be, __u32 backend,
                                       const struct weir_knobs* knobs) {
  struct weir_breaker_change change = {};
  bool taken = weir_breaker_take_token(&be->breaker, weir_now_ms(), knobs, &change);

  weir_breaker_changed(be, backend, knobs, &change);
  return taken;
}

/* Picks again, once, when another connect took the last token in between: a third time in a row it
 * will not happen, and if it does, there was nobody. */
static __always_inline struct weir_be* pick_with_token(struct weir_pool* pool, __u32 pool_index,
                                                       __u32 family, __u32 avoid,
                                                       const struct weir_knobs* knobs,
                                                       struct weir_pick_result* result,
                                                       __u32* probe) {
  for (int attempt = 0; attempt < 2; attempt++) {
    struct weir_be* be;

    pick(pool, pool_index, family, avoid, result);
    if (result->choice.backend == WEIR_NO_BACKEND) return 0;
    be = weir_be_at(result->choice.backend);
    if (!be || WEIR_READ_ONCE(be->breaker) == 0) return be;
    *probe = take_token(be, result->choice.backend, knobs);
    if (*probe || result->panic || WEIR_READ_ONCE(be->breaker) == 0) return be;
    result->choice.backend = WEIR_NO_BACKEND;
  }
  return 0;
}

static __always_inline __u32 breaker_of(__u32 backend) {
  struct weir_be* be = backend == WEIR_NO_BACKEND ? 0 : weir_be_at(backend);

  return be ? weir_breaker_state_of(WEIR_READ_ONCE(be->breaker)) : WEIR_BREAKER_CLOSED;
}

/* Not inline: seldom run, and out of the way of the others. */
static __noinline void explain(const struct weir_pick_result* result, __u32 pool_index,
                               __u32 probe, __u64 cookie) {
  const struct weir_choice* choice = &result->choice;
  struct weir_knobs* knobs = weir_knobs_now();
  struct weir_pool* pool = weir_pool_at(pool_index);
  struct weir_event_pick* event;
  struct weir_pool* from;

  if (!knobs || !pool) return;
  if (!weir_watched(knobs->explain_until_ns)) return;
  if (knobs->explain_pool != WEIR_NO_POOL && knobs->explain_pool != pool_index) return;
  if (knobs->explain_one_in > 1 && weir_alias_slot(weir_random(), knobs->explain_one_in)) return;
  from = result->backup ? weir_pool_at(pool->backup) : pool;
  if (!from) return;
  event = WEIR_EVENT_RESERVE(struct weir_event_pick, WEIR_EVENT_PICK, pool_index, choice->backend,
                             cookie);
  if (!event) return;
  event->first = choice->first;
  event->second = choice->second;
  event->first_breaker = breaker_of(choice->first.backend);
  event->second_breaker = breaker_of(choice->second.backend);
  event->policy = from->policy;
  event->rule = choice->rule;
  event->rif_limit = from->rif_limit;
  event->panic = result->panic;
  event->backup = result->backup;
  event->probe = probe;
  weir_event_submit(event);
}

/* ---- one connect() ---- */

static __always_inline enum weir_verdict nobody(struct weir_pool* pool) {
  WEIR_ADD(&pool->misses, 1);
  if (pool->flags & WEIR_POOL_REFUSE_WHEN_EMPTY) {
    weir_count(WEIR_STAT_REFUSED_POOL_EMPTY, 1);
    return WEIR_REFUSE;
  }
  weir_count(WEIR_STAT_PASS_POOL_EMPTY, 1);
  return WEIR_PASS;
}

/* What an earlier connect() on this socket still holds: usually nothing, it ended with its socket
 * state. Returns the backend that it failed at. */
static __always_inline __u32 forget_previous(struct weir_sk* sk, struct weir_note* note,
                                             __u64 cookie) {
  __u32 failed_at = weir_note_failed(note, cookie);

  if (!sk) return failed_at;
  if (weir_release(sk)) weir_count(WEIR_STAT_RECONNECT_RELEASED, 1);
  sk->service.port = 0; /* getpeername is to show the truth unless we steer again */
  return sk->flags & WEIR_SK_FAILED ? sk->backend : failed_at;
}

static __always_inline enum weir_verdict steer(struct bpf_sock_addr* ctx,
                                               const struct weir_endpoint* service, __u32 family,
                                               struct weir_endpoint* target) {
  struct weir_pick_result result = {.choice.backend = WEIR_NO_BACKEND};
  struct weir_sk* sk = bpf_sk_storage_get(&weir_sk, ctx->sk, 0, 0);
  __u64 cookie = bpf_get_socket_cookie(ctx);
  struct weir_note* note = weir_note_of(cookie);
  struct weir_knobs* knobs = weir_knobs_now();
  struct weir_target* found;
  struct weir_pool* pool;
  __u32 probe = 0, avoid;
  struct weir_be* be;

  if (!note || !knobs) return WEIR_PASS;
  avoid = forget_previous(sk, note, cookie);
  found = bpf_map_lookup_elem(&weir_svc, service);
  if (!found || found->kind != WEIR_TARGET_SERVICE) {
    weir_count(WEIR_STAT_PASS_NOT_SERVICE, 1);
    return WEIR_PASS;
  }
  pool = weir_pool_at(found->index);
  if (!pool) return WEIR_PASS;

  be = pick_with_token(pool, found->index, family, avoid, knobs, &result, &probe);
  if (knobs->explain_until_ns) explain(&result, found->index, probe, cookie);
  if (!be) return nobody(pool);

  WEIR_ADD(&pool->picks, 1);
  if (result.panic) WEIR_ADD(&pool->panics, 1);
  if (result.backup) WEIR_ADD(&pool->backups, 1);
  weir_count(WEIR_STAT_STEERED, 1);
  note->service = (__u8)found->index;
  note->pool = (__u8)be->pool;
  note->backend = (__u16)result.choice.backend;
  note->generation = (__u16)be->generation;
  note->probe = (__u8)probe;
  note->cookie = cookie;
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

/* Of a socket that is IPv6 only, connect() to an IPv4 backend would fail, and accuse it. */
static __always_inline __u32 v6_family(struct bpf_sock_addr* ctx) {
  struct bpf_sock* socket = ctx->sk;
  struct tcp_sock* tcp = socket ? bpf_skc_to_tcp_sock(socket) : 0;
  const struct sock* sk = (const struct sock*)tcp;

  return sk && BPF_CORE_READ_BITFIELD(sk, __sk_common.skc_ipv6only) ? WEIR_PICK_V6 : 0;
}

/* ---- hooks ---- */

SEC("cgroup/connect4")
int weir_connect4(struct bpf_sock_addr* ctx) {
  struct weir_endpoint service, target;

  if (!is_tcp(ctx)) return 1;
  weir_set_endpoint(&service, 0, 0, WEIR_MAPPED_PREFIX, ctx->user_ip4, bpf_ntohs(ctx->user_port),
                    IPPROTO_TCP);
  switch (steer(ctx, &service, WEIR_PICK_V4, &target)) {
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
  switch (steer(ctx, &service, v6_family(ctx), &target)) {
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
  struct weir_note* note;
  __u64 cookie;

  /* A client that gives up in SYN_SENT is counted as a failure by the state callback. */
  if (sk) weir_release(sk);
  if (ctx->protocol != IPPROTO_TCP || ctx->state != BPF_TCP_CLOSE) return 1;
  cookie = bpf_get_socket_cookie(ctx);
  note = weir_note_of(cookie);
  if (note) weir_note_failed(note, cookie);
  return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
