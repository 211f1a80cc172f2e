// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Listening: each I/O thread of the agent has a listener of its own on the same port, and this
 * program says which of them a new connection goes to: the one with the least to do. When a
 * listener closes, it says where the handshakes and connections go that still wait there.
 *
 * What if this fails? SK_PASS without a choice lets the kernel choose by its hash, as without the
 * program. The program stays with the sockets of the port, whatever becomes of the agent that
 * attached it; a listener that is gone has left weir_listen by itself.
 *
 * Why not in the object of the other programs? They sit on a cgroup and outlive the agent; this one
 * lives and ends with sockets, and is attached by a socket option.
 */
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_helpers.h>

#include "lib/listen.bpf.h"

/* False on kernels that cannot move connections between listeners (before 5.14). */
const volatile bool weir_migrates = true;

struct {
  __uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
  __uint(max_entries, WEIR_MAX_LISTENERS);
  __type(key, __u32);
  __type(value, __u64);
} weir_listen SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, struct weir_depths);
} weir_depth SEC(".maps");

/* A slot found empty is passed over for good, so that this is needed once for each listener of an
 * agent that was killed. */
#define MAX_TRIES 4

/* Whether the packet begins a connection. The others that come by here (an ACK answering a SYN
 * cookie, the remains of a connection that is closed) would count one a second time, or none. */
static __always_inline bool begins_connection(const struct sk_reuseport_md* ctx) {
  const struct tcphdr* tcp = ctx->data;

  if ((const void*)(tcp + 1) > ctx->data_end) return false;
  return tcp->syn && !tcp->ack;
}

/* Not static: the verifier then checks it once, not once per try. */
__noinline __u32 weir_choose(__u32 random) {
  __u32 zero = 0;
  struct weir_depths* depths = bpf_map_lookup_elem(&weir_depth, &zero);

  return depths ? weir_listener_choose(depths, random) : WEIR_NO_LISTENER;
}

SEC("sk_reuseport/migrate")
int weir_select(struct sk_reuseport_md* ctx) {
  __u32 zero = 0;
  struct weir_depths* depths = bpf_map_lookup_elem(&weir_depth, &zero);
  bool moved = weir_migrates && ctx->migrating_sk;
  int try;

  if (!depths) return SK_PASS;
  for (try = 0; try < MAX_TRIES; ++try) {
    __u32 slot = weir_choose(ctx->hash + try);
    struct weir_listener* listener;
    __u32 ticket;
    int error;

    if (slot >= WEIR_MAX_LISTENERS) return SK_PASS;
    listener = &depths->listener[slot & (WEIR_MAX_LISTENERS - 1)];
    ticket = WEIR_READ_ONCE(listener->ticket);
    error = bpf_sk_select_reuseport(ctx, &weir_listen, &slot, 0);
    if (!error) {
      if (moved) WEIR_ADD(&listener->taken_over, 1);
      if (moved || begins_connection(ctx)) WEIR_ADD(&listener->chosen, 1);
      return SK_PASS;
    }
    WEIR_COMPARE_EXCHANGE(&listener->ticket, ticket, 0);
  }
  return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
