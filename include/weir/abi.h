/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only OR BSD-2-Clause */
/*
 * The contract between the kernel programs (bpf/) and user space (agent/kernel/): every struct in
 * a map, every map name, every limit. Plain C11 that is also C++20. Nothing else is shared.
 *
 * Rules: fixed-width fields, explicit padding, never packed; sizes and offsets asserted below and
 * so checked by both compilers. Changing a layout means a new WEIR_ABI_VERSION.
 *
 * Addresses are always 16 bytes, IPv4 as ::ffff:a.b.c.d, so that IPv4, IPv6 and v4-mapped sockets
 * meet in one table. Ports are in host order, so that `bpftool map dump` reads as written in the
 * configuration. Times are nanoseconds of CLOCK_MONOTONIC (bpf_ktime_get_ns). Counters are u64 and
 * cumulative; readers diff them.
 */
#ifndef WEIR_ABI_H
#define WEIR_ABI_H

#if !defined(__bpf__)
#include <stdint.h>
typedef uint8_t weir_u8;
typedef uint16_t weir_u16;
typedef uint32_t weir_u32;
typedef uint64_t weir_u64;
#else /* types from vmlinux.h */
typedef __u8 weir_u8;
typedef __u16 weir_u16;
typedef __u32 weir_u32;
typedef __u64 weir_u64;
#endif

#ifdef __cplusplus
#define WEIR_STATIC_ASSERT(cond, text) static_assert(cond, text)
#else
#define WEIR_STATIC_ASSERT(cond, text) _Static_assert(cond, text)
#endif

/* Bumped at every change of a struct or of a map; part of the pin path. */
#define WEIR_ABI_VERSION 1

/* Map names: at most 15 characters, or the kernel cuts them. */
#define WEIR_MAP_META "weir_meta" /* ARRAY[1]  weir_meta: who wrote these maps            */
#define WEIR_MAP_SVC "weir_svc"   /* HASH      weir_endpoint -> u32 index into weir_pool  */
#define WEIR_MAP_POOL "weir_pool" /* ARRAY     weir_pool: one per service                 */
#define WEIR_MAP_PICK "weir_pick" /* ARRAY     weir_pick_slot: alias tables of all pools  */
#define WEIR_MAP_BE "weir_be"     /* ARRAY     weir_be: one per backend                   */
#define WEIR_MAP_SK "weir_sk"     /* SK_STORAGE weir_sk: one per steered socket           */
#define WEIR_MAP_HIST "weir_hist" /* PERCPU_ARRAY weir_hist: [backend * WEIR_HIST_KINDS + kind] */
#define WEIR_MAP_STAT "weir_stat" /* PERCPU_ARRAY u64: [enum weir_stat_id]                */

/* Limits. A pool owns two halves of WEIR_POOL_SLOTS slots in weir_pick. */
#define WEIR_MAX_POOLS 64
#define WEIR_MAX_BACKENDS 256
#define WEIR_POOL_SLOTS 64
#define WEIR_NAME_LEN 32
#define WEIR_BUILD_ID_LEN 40

#define WEIR_NO_BACKEND 0xffffffffu

struct weir_endpoint {
  weir_u8 ip[16] __attribute__((aligned(4))); /* network order */
  weir_u16 port;                              /* host order */
  weir_u8 protocol;                           /* IPPROTO_TCP */
  weir_u8 pad;
};
WEIR_STATIC_ASSERT(sizeof(struct weir_endpoint) == 20, "weir_endpoint");

struct weir_meta {
  weir_u32 abi_version;
  weir_u32 agent_pid;      /* as the agent sees itself; for messages, see agent/kernel/pin_dir.h */
  weir_u64 agent_start_ns; /* when that agent attached */
  weir_u64 heartbeat_ns;   /* last control tick; older than a few seconds: dead or hanging */
  weir_u64 cgroup_id;      /* cgroup the programs are attached to */
  weir_u32 request_clock;  /* enum weir_request_clock */
  weir_u32 pad;
  char build_id[WEIR_BUILD_ID_LEN]; /* NUL-terminated */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_meta) == 80, "weir_meta");

/* Where request and response bytes are seen. */
enum weir_request_clock {
  WEIR_CLOCK_NONE = 0,
  WEIR_CLOCK_TRACEPOINT = 1, /* tp_btf sock_send_length / sock_recv_length */
  WEIR_CLOCK_SKB = 2,        /* cgroup_skb with a TCP sequence check */
};

enum weir_pool_flags {
  WEIR_POOL_REFUSE_WHEN_EMPTY = 1u << 0, /* no backend: ECONNREFUSED instead of passing on */
};

/* One service. `table` is replaced by one 64-bit store: that is the flip. */
struct weir_pool {
  weir_u64 table; /* low 32 bits: first slot in weir_pick; high 32 bits: number of slots */
  weir_u32 flags; /* enum weir_pool_flags */
  weir_u32 pad;
  weir_u64 picks;  /* connects steered to a backend */
  weir_u64 misses; /* connects for which the pool had no backend */
  struct weir_endpoint address;
  weir_u32 in_use;          /* 0: this record is free */
  char name[WEIR_NAME_LEN]; /* NUL-terminated */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_pool) == 88, "weir_pool");

/* One slot of a Walker alias table: stay when the coin is below `threshold`, else take `alias`. */
struct weir_pick_slot {
  weir_u32 threshold; /* probability of staying, times 2^32, clamped to 2^32-1 */
  weir_u32 backend;   /* index into weir_be */
  weir_u32 alias;     /* index into weir_be */
  weir_u32 pad;
};
WEIR_STATIC_ASSERT(sizeof(struct weir_pick_slot) == 16, "weir_pick_slot");

enum weir_be_state {
  WEIR_BE_FREE = 0,     /* record unused */
  WEIR_BE_ACTIVE = 1,   /* takes new connections */
  WEIR_BE_OPEN = 2,     /* breaker open: takes none */
  WEIR_BE_DRAINING = 3, /* removed from the configuration, still has connections */
};

/* One backend. First cache line written by user space, second by the kernel programs. */
struct weir_be {
  struct weir_endpoint address;
  weir_u32 pool;       /* index into weir_pool */
  weir_u32 state;      /* enum weir_be_state */
  weir_u32 weight_q16; /* published weight times 65536; information only, picks use weir_pick */
  weir_u32 is_local;   /* 1: served by this agent */
  weir_u32 pad0;
  weir_u64 since_ns; /* when this record was taken into use */
  weir_u64 pad1[2];

  weir_u32 in_flight;            /* connections reserved and not yet released */
  weir_u32 waiting;              /* requests sent, no response byte yet */
  weir_u32 streaming;            /* response begun, no further request sent, not closed */
  weir_u32 consecutive_failures; /* failed connects since the last successful one */
  weir_u64 connects;             /* picks: connects steered here */
  weir_u64 established;          /* of these, completed handshakes */
  weir_u64 connect_failures;     /* of these, never established, whatever the reason */
  weir_u64 requests;             /* requests whose first response byte was seen */
  weir_u64 last_failure_ns;      /* time of the last failed connect */
  weir_u64 pad2;
};
WEIR_STATIC_ASSERT(sizeof(struct weir_be) == 128, "weir_be");
WEIR_STATIC_ASSERT(__builtin_offsetof(struct weir_be, in_flight) == 64, "weir_be: kernel line");

/*
 * Log-linear histogram of durations: octaves of microseconds, WEIR_HIST_SUB linear sub-buckets in
 * each. A bucket keeps the sum of its samples beside their count, so a quantile is the mean of the
 * bucket it falls into: exact for a steady backend, never off by more than one sub-bucket (25 %).
 */
#define WEIR_HIST_SUB_BITS 2
#define WEIR_HIST_SUB (1u << WEIR_HIST_SUB_BITS)
#define WEIR_HIST_OCTAVES 27 /* 1 us .. 134 s; longer durations land in the last bucket */
#define WEIR_HIST_BUCKETS (WEIR_HIST_OCTAVES * WEIR_HIST_SUB)

enum weir_hist_kind {
  WEIR_HIST_CONNECT = 0, /* connect() to ESTABLISHED */
  WEIR_HIST_TTFB = 1,    /* last request byte sent to first response byte */
  WEIR_HIST_KINDS = 2,
};

struct weir_hist_bucket {
  weir_u64 count;
  weir_u64 sum_ns;
};

struct weir_hist {
  struct weir_hist_bucket bucket[WEIR_HIST_BUCKETS];
};
WEIR_STATIC_ASSERT(sizeof(struct weir_hist) == 16 * WEIR_HIST_BUCKETS, "weir_hist");

/* Per-socket state of a steered connection. */
enum weir_phase {
  WEIR_PHASE_IDLE = 0,      /* no request outstanding */
  WEIR_PHASE_WAITING = 1,   /* request bytes sent, no response byte */
  WEIR_PHASE_STREAMING = 2, /* response bytes seen */
  WEIR_PHASE_CLOSED = 3,    /* connection over; final until the next connect() on the socket */
};

struct weir_sk {
  struct weir_endpoint service; /* what the application connected to; getpeername shows it */
  weir_u32 backend;             /* index into weir_be */
  weir_u32 owned;               /* 1: holds one unit of in_flight; exchanged to 0 exactly once */
  weir_u32 phase;               /* enum weir_phase */
  weir_u64 connect_ns;          /* when connect() was called; 0 once its outcome is counted */
  weir_u64 request_ns;          /* when the last request byte was sent */
  weir_u32 next_tx_seq;         /* skb clock: first sequence number not yet sent */
  weir_u32 next_rx_seq;         /* skb clock: first sequence number not yet received */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_sk) == 56, "weir_sk");

/* Index into weir_stat. Names shown to people are made from these: weir_stat_names[]. */
enum weir_stat_id {
  WEIR_STAT_PASS_NOT_SERVICE = 0, /* TCP connect to an address that is no service: untouched */
  WEIR_STAT_STEERED,              /* connects sent to a backend */
  WEIR_STAT_PASS_POOL_EMPTY,      /* service without backend, passed on unchanged */
  WEIR_STAT_REFUSED_POOL_EMPTY,   /* service without backend, ECONNREFUSED */
  WEIR_STAT_PASS_NO_STORAGE,      /* no memory for socket state, passed on unchanged */
  WEIR_STAT_RECONNECT_RELEASED,   /* second connect() on a socket released the first */
  WEIR_STAT_RELEASED,             /* in-flight units given back */
  WEIR_STAT_UNDERFLOW_PREVENTED,  /* a gauge would have gone below zero: a bug if not 0 */
  WEIR_STAT_BAD_INDEX,            /* a table pointed outside a map: a bug if not 0 */
  WEIR_STAT_COUNT,
};

#endif /* WEIR_ABI_H */
