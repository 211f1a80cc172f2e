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
#define WEIR_ABI_VERSION 2

/* Map names: at most 15 characters, or the kernel cuts them. */
#define WEIR_MAP_META "weir_meta"     /* ARRAY[1]  weir_meta: who wrote these maps               */
#define WEIR_MAP_KNOBS "weir_knobs"   /* ARRAY[1]  weir_knobs: settings that may change at any time */
#define WEIR_MAP_SVC "weir_svc"       /* HASH      weir_endpoint -> weir_target: services, backends */
#define WEIR_MAP_POOL "weir_pool"     /* ARRAY     weir_pool: one per service, one per backup pool */
#define WEIR_MAP_PICK "weir_pick"     /* ARRAY     weir_pick_slot: alias tables of all pools     */
#define WEIR_MAP_BE "weir_be"         /* ARRAY     weir_be: one per backend, what a pick reads   */
#define WEIR_MAP_TOTAL "weir_total"   /* ARRAY     weir_total: one per backend, what it counts   */
#define WEIR_MAP_NOTE "weir_note"     /* ARRAY     weir_note: picks on their way to the SYN      */
#define WEIR_MAP_SK "weir_sk"         /* SK_STORAGE weir_sk: one per observed socket             */
#define WEIR_MAP_HIST "weir_hist"     /* PERCPU_ARRAY weir_hist: [backend * WEIR_HIST_KINDS + kind] */
#define WEIR_MAP_STAT "weir_stat"     /* PERCPU_ARRAY u64: [enum weir_stat_id]                   */
#define WEIR_MAP_EVENT "weir_event"   /* RINGBUF   weir_event_*: only while somebody watches     */
#define WEIR_MAP_CENSUS "weir_census" /* ARRAY     weir_census: the last recount of each backend */
#define WEIR_MAP_SWEEP "weir_sweep"   /* ARRAY[1]  weir_sweep: one run over sockets; never pinned */

/*
 * Limits. Maps of backends are made for as many backends as the configuration needs (a power of
 * two, at least WEIR_MIN_BACKENDS); max_entries of weir_be tells. A pool owns two halves of as many
 * slots in weir_pick, so weir_pick has 2 * WEIR_MAX_POOLS times the entries of weir_be.
 */
#define WEIR_MAX_POOLS 64
#define WEIR_MIN_BACKENDS 64
#define WEIR_MAX_BACKENDS 16384
#define WEIR_NOTES 8192 /* a power of two */
#define WEIR_EVENT_BYTES (1u << 20)
#define WEIR_NAME_LEN 32
#define WEIR_BUILD_ID_LEN 40

#define WEIR_NO_BACKEND 0xffffffffu
#define WEIR_NO_POOL 0xffffffffu

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
  weir_u32 takeover_requested;      /* 0: nobody asks; else the ticket of the agent that does */
  char build_id[WEIR_BUILD_ID_LEN]; /* NUL-terminated */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_meta) == 80, "weir_meta");

/* Where request and response bytes are seen. */
enum weir_request_clock {
  WEIR_CLOCK_NONE = 0,       /* nowhere: connections are counted, requests are not */
  WEIR_CLOCK_TRACEPOINT = 1, /* responses by a tracepoint, as they are read */
  WEIR_CLOCK_SKB = 2,        /* responses, too, by cgroup_skb with a TCP sequence check */
};

/* Read by the programs at every use; written by user space at any time, but for the last field. */
struct weir_knobs {
  weir_u32 open_after_failures; /* consecutive failed connects that open a breaker */
  weir_u32 open_ms;             /* first open time; doubles per relapse */
  weir_u32 max_open_ms;         /* longest open time */
  weir_u32 explain_pool;        /* picks of this pool are explained; WEIR_NO_POOL: of every pool */
  weir_u64 watch_until_ns;      /* connection events are written until then; 0: never */
  weir_u64 explain_until_ns;    /* picks are explained until then */
  weir_u64 trace_until_ns;      /* requests are reported one by one until then */
  weir_u32 explain_one_in;      /* of so many picks one is explained, at random; 0 counts as 1 */
  weir_u32 serves_here;         /* 1: a backend on this host has connections that are observed */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_knobs) == 48, "weir_knobs");

/* What an address in weir_svc is. */
enum weir_target_kind {
  WEIR_TARGET_SERVICE = 1, /* index into weir_pool: connects are steered */
  WEIR_TARGET_BACKEND = 2, /* index into weir_be: connects, and accepts there, are observed */
};

struct weir_target {
  weir_u32 kind;  /* enum weir_target_kind */
  weir_u32 index; /* of a backend of several services: the first */
};

enum weir_policy {
  WEIR_POLICY_PREQUAL = 0,         /* of two: hot/cold rule on load and latency */
  WEIR_POLICY_P2C = 1,             /* of two: less load for its weight */
  WEIR_POLICY_WEIGHTED_RANDOM = 2, /* by weight alone */
  WEIR_POLICY_ROUND_ROBIN = 3,     /* by weight, in turn */
  WEIR_POLICY_LEAST_INFLIGHT = 4,  /* least load for its weight, of up to 64 */
};

enum weir_pool_flags {
  WEIR_POOL_REFUSE_WHEN_EMPTY = 1u << 0, /* no backend: ECONNREFUSED; and never panic */
  WEIR_POOL_END_IDLE = 1u << 1,          /* an opening breaker ends idle connections (user space) */
};

/*
 * One service, or the backup pool of one (no address of its own). Load is counted in quarters of a
 * request: see weir_load(). First part written by user space, last cache line by the programs.
 */
struct weir_pool {
  weir_u64 table;     /* low half: first slot in weir_pick; high half: number of slots. One store
                         replaces it: that is the flip */
  weir_u32 flags;     /* enum weir_pool_flags */
  weir_u32 policy;    /* enum weir_policy */
  weir_u32 rif_limit; /* a backend with more load than this is hot; quarters of a request */
  weir_u32 members;   /* active backends: the whole that `open` is a part of */
  weir_u32 backup;    /* index into weir_pool, or WEIR_NO_POOL */
  weir_u32 in_use;    /* 0: this record is free */
  weir_u32 seed;      /* random; where the draws of this pool begin */
  weir_u32 first;     /* backend of the first slot; those of the others usually follow it */
  struct weir_endpoint address;
  char name[WEIR_NAME_LEN]; /* NUL-terminated */
  weir_u8 pad0[36];

  weir_u32 open;        /* members whose breaker is not closed */
  weir_u32 turn;        /* picks begun; round robin and the draws go by it */
  weir_u64 picks;       /* connects steered to a backend of this pool */
  weir_u64 misses;      /* connects for which there was no backend, here or in the backup pool */
  weir_u64 panics;      /* picks that ignored the breakers */
  weir_u64 backups;     /* picks handed to the backup pool */
  weir_u8 pad1[24];
};
WEIR_STATIC_ASSERT(sizeof(struct weir_pool) == 192, "weir_pool");
WEIR_STATIC_ASSERT(__builtin_offsetof(struct weir_pool, open) == 128, "weir_pool: kernel line");

/* One slot of a Walker alias table: stay when the coin is below `threshold`, else take `alias`. */
struct weir_pick_slot {
  weir_u32 threshold; /* probability of staying, times 2^32, clamped to 2^32-1 */
  weir_u16 backend;   /* index into weir_be */
  weir_u16 alias;     /* index into weir_be */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_pick_slot) == 8, "weir_pick_slot");
WEIR_STATIC_ASSERT(WEIR_MAX_BACKENDS <= 65536, "weir_pick_slot: 16-bit indexes");

enum weir_be_state {
  WEIR_BE_FREE = 0,     /* record unused */
  WEIR_BE_ACTIVE = 1,   /* takes new connections, if its breaker lets it */
  WEIR_BE_DRAINING = 2, /* removed from the configuration, still has connections */
};

enum weir_breaker_state {
  WEIR_BREAKER_CLOSED = 0,    /* takes connections */
  WEIR_BREAKER_OPEN = 1,      /* takes none until its time is over */
  WEIR_BREAKER_HALF_OPEN = 2, /* takes as many as it has tokens */
};

/*
 * The breaker of a backend in one word, changed by compare and exchange from both sides; all of
 * bpf/lib/breaker.bpf.h. 0 is a closed breaker that has never opened.
 */
#define WEIR_BREAKER_STATE_BITS 2      /* enum weir_breaker_state */
#define WEIR_BREAKER_LEVEL_SHIFT 2     /* 4 bits: openings since it was last closed, less one */
#define WEIR_BREAKER_ROUND_SHIFT 6     /* 2 bits: half-open round; it hands out 1 << round tokens */
#define WEIR_BREAKER_TOKENS_SHIFT 8    /* 4 bits: half-open, tokens not taken yet */
#define WEIR_BREAKER_SUCCESSES_SHIFT 12 /* 4 bits: half-open, successes in this round */
#define WEIR_BREAKER_UNTIL_SHIFT 16    /* 48 bits: end of the open time, of the wait for a token's
                                          outcome when half-open; ms of CLOCK_MONOTONIC */

/*
 * One backend: the cache line that a pick reads, and nothing else, so that those of ten thousand
 * backends stay in a cache of a megabyte. User space writes the fields marked (u), the programs all
 * others.
 */
struct weir_be {
  weir_u64 breaker;             /* WEIR_BREAKER_* */
  weir_u32 in_flight;           /* connections reserved and not yet released */
  weir_u32 fresh;               /* of these, without a request so far, the SYN included */
  weir_u32 waiting;             /* requests sent, no response byte yet */
  weir_u32 streaming;           /* response begun, no further request sent, not idle or closed */
  weir_u32 generation;          /* (u) one more each time the record is given to a backend */
  weir_u32 state;               /* (u) enum weir_be_state */
  weir_u32 pool;                /* (u) index into weir_pool */
  weir_u32 weight_q16;          /* (u) published weight times 65536 */
  weir_u32 latency_us;          /* (u) published time to first byte; 0: not known */
  struct weir_endpoint address; /* (u) */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_be) == 64, "weir_be: one cache line");

/*
 * What the backend with the same index in weir_be counts. The first cache line is for the beginning
 * of connections and for requests, the rest for failures and for the end of connections. Written by
 * the programs, but for the fields marked (u).
 */
struct weir_total {
  weir_u64 since_ns;             /* (u) when this record was taken into use */
  weir_u32 is_local;             /* (u) 1: served by this agent */
  weir_u32 min_rtt_us;           /* least round trip of any connection; 0: not known */
  weir_u64 connects;             /* connects steered here, counted as the SYN leaves */
  weir_u64 established;          /* connections, steered or direct, that were established */
  weir_u64 requests;             /* requests whose first response byte was seen */
  weir_u32 consecutive_failures; /* failed connects since the last successful one */
  weir_u32 pad0[5];

  weir_u64 connect_failures; /* connections that were never established, whatever the reason */
  weir_u64 refused;          /* of these, refused */
  weir_u64 timed_out;        /* of these, without an answer */
  weir_u64 resets;           /* established connections that ended with an error */
  weir_u64 direct;           /* connections made to this address itself, not to a service */
  weir_u64 adopted;          /* connections that were there before the agent */
  weir_u64 mux;              /* connections that speak HTTP/2 */
  weir_u64 closes;           /* connections over, whose totals are in the sums below */

  weir_u64 bytes_sent;      /* acknowledged by the backend; of live connections up to the census */
  weir_u64 bytes_received;  /* likewise */
  weir_u64 retransmits;     /* segments, of connections that are over */
  weir_u64 rtos;            /* retransmission timeouts */
  weir_u64 interim;         /* 1xx responses */
  weir_u64 breaker_opens;   /* times the breaker opened */
  weir_u64 last_failure_ns; /* time of the last failed connect */
  weir_u64 idle_ended;      /* idle connections ended because the breaker opened */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_total) == 192, "weir_total");
WEIR_STATIC_ASSERT(__builtin_offsetof(struct weir_total, connect_failures) == 64,
                   "weir_total: line of the beginning");

/*
 * A pick, left by connect() for the SYN of the same socket: state is only allocated, and load only
 * reserved, for a connect that gets as far as that. Slot: the socket cookie, modulo WEIR_NOTES.
 * Should two sockets meet in one slot within those microseconds, the first connection counts as one
 * made directly to the backend.
 */
struct weir_note {
  weir_u64 cookie;
  weir_u16 backend;    /* index into weir_be */
  weir_u16 generation; /* of that record, the low half: a socket may be closed long after its connect
                          failed, and the record be another backend's by then */
  weir_u8 service;     /* index into weir_pool: what the application connected to */
  weir_u8 pool;        /* index into weir_pool: the same, or its backup pool */
  weir_u8 probe;       /* 1: holds a token of a half-open breaker */
  weir_u8 pad;
};
WEIR_STATIC_ASSERT(sizeof(struct weir_note) == 16, "weir_note");
WEIR_STATIC_ASSERT(WEIR_MAX_POOLS <= 256, "weir_note: 8-bit indexes");

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
  WEIR_HIST_CONNECT = 0,  /* SYN to ESTABLISHED */
  WEIR_HIST_TTFB = 1,     /* last request byte sent to first response byte */
  WEIR_HIST_DURATION = 2, /* first request byte sent to last response byte */
  WEIR_HIST_RTT = 3,      /* least round trip of a connection, at its end */
  WEIR_HIST_UNREAD = 4,   /* server side: request arrived to request read */
  WEIR_HIST_KINDS = 5,
};

struct weir_hist_bucket {
  weir_u64 count;
  weir_u64 sum_ns;
};

struct weir_hist {
  struct weir_hist_bucket bucket[WEIR_HIST_BUCKETS];
};
WEIR_STATIC_ASSERT(sizeof(struct weir_hist) == 16 * WEIR_HIST_BUCKETS, "weir_hist");

/* Where the request of a connection stands; see bpf/lib/request.bpf.h. */
enum weir_phase {
  WEIR_PHASE_IDLE = 0,      /* response over, as far as silence tells */
  WEIR_PHASE_FRESH = 1,     /* no request so far */
  WEIR_PHASE_WAITING = 2,   /* request bytes sent, no response byte */
  WEIR_PHASE_STREAMING = 3, /* response bytes seen */
  WEIR_PHASE_CLOSED = 4,    /* connection over; final until the next connect() on the socket */
};

enum weir_sk_flags {
  WEIR_SK_PROBE = 1u << 0,    /* took a token of a half-open breaker */
  WEIR_SK_DIRECT = 1u << 1,   /* connected to the backend's own address */
  WEIR_SK_ADOPTED = 1u << 2,  /* was there before the agent; nothing measured until its next request */
  WEIR_SK_SERVER = 1u << 3,   /* accepted by a backend on this host */
  WEIR_SK_SNIFFED = 1u << 4,  /* first request payload was looked at */
  WEIR_SK_TLS = 1u << 5,      /* it began with a TLS handshake */
  WEIR_SK_MUX = 1u << 6,      /* it began with the HTTP/2 preface: requests cannot be told apart */
  WEIR_SK_TOTALLED = 1u << 7, /* its totals are in weir_total */
  WEIR_SK_FAILED = 1u << 8,   /* its connect failed: the next one on this socket goes elsewhere */
};

/* Per-socket state of an observed connection. */
struct weir_sk {
  struct weir_endpoint service; /* what the application connected to, shown by getpeername; port 0:
                                   the backend itself */
  weir_u32 backend;             /* index into weir_be */
  weir_u32 pool;                /* index into weir_pool */
  weir_u32 owned;               /* 1: holds one unit of in_flight; exchanged to 0 exactly once */
  weir_u32 phase;               /* enum weir_phase */
  weir_u32 flags;               /* enum weir_sk_flags */
  weir_u32 requests;            /* responses begun on this connection */
  weir_u32 next_tx_seq;         /* first sequence number not yet sent */
  weir_u32 next_rx_seq;         /* skb clock: first sequence number not yet received; tracepoint
                                   clock: the one behind the last 1xx response, at a server behind
                                   what had come at the last measured read */
  weir_u32 interim_bytes;       /* before Linux 6.12: of what is unread, the first so many bytes are
                                   1xx responses */
  weir_u64 connect_ns;          /* when the SYN left; 0 once its outcome is counted */
  weir_u64 opened_ns;           /* the same, kept */
  weir_u64 begin_ns;            /* when the first byte of the request was sent */
  weir_u64 request_ns;          /* when the last byte of the request was sent */
  weir_u64 first_byte_ns;       /* when the first byte of the response came */
  weir_u64 last_byte_ns;        /* when the last byte of the response came, so far */
  weir_u64 unread_ns;           /* server side before Linux 6.12: when bytes came that wait to be
                                   read; 0: none */
  weir_u64 unread_tick;         /* server side: when that was measured last; jiffies */
  weir_u64 counted_sent;        /* part of bytes_sent that is in weir_total already */
  weir_u64 counted_received;    /* part of bytes_received that is in weir_total already */
  weir_u64 census;              /* recount that saw this socket last */
};
WEIR_STATIC_ASSERT(sizeof(struct weir_sk) == 144, "weir_sk");

/* What a recount of all sockets found for one backend. */
struct weir_census {
  weir_u32 in_flight;
  weir_u32 fresh;
  weir_u32 waiting;
  weir_u32 streaming;
};
WEIR_STATIC_ASSERT(sizeof(struct weir_census) == 16, "weir_census");

/*
 * One run of an iterator program over sockets: first what user space asks for, then what the run
 * did. The agent that runs them owns this map and starts one run at a time.
 */
struct weir_sweep {
  weir_u64 run;     /* number of this run, never 0; a socket is counted once in it */
  weir_u64 now_ns;  /* time at which silence is measured */
  weir_u32 backend; /* whose idle connections are ended */
  weir_u32 pad0;
  weir_u64 pad1[5];

  weir_u64 sockets; /* sockets that were counted or considered */
  weir_u64 adopted; /* connections taken in, clients' and servers' */
  weir_u64 ended;   /* idle connections ended */
  weir_u64 failed;  /* of those to be adopted or ended, refused by the kernel */
  weir_u64 unwatched; /* adopted, but without the callback that tells of their close */
  weir_u64 pad2[3];
};
WEIR_STATIC_ASSERT(sizeof(struct weir_sweep) == 128, "weir_sweep");
WEIR_STATIC_ASSERT(__builtin_offsetof(struct weir_sweep, sockets) == 64, "weir_sweep: kernel line");

/* ---- records of weir_event; each begins with a weir_event_head ---- */

enum weir_event_kind {
  WEIR_EVENT_CLOSE = 1,   /* weir_event_close */
  WEIR_EVENT_FAILURE = 2, /* weir_event_failure */
  WEIR_EVENT_BREAKER = 3, /* weir_event_breaker */
  WEIR_EVENT_PICK = 4,    /* weir_event_pick */
  WEIR_EVENT_REQUEST = 5, /* weir_event_request */
};

struct weir_event_head {
  weir_u32 kind;    /* enum weir_event_kind */
  weir_u32 pool;    /* index into weir_pool */
  weir_u32 backend; /* index into weir_be, or WEIR_NO_BACKEND */
  weir_u32 pad;
  weir_u64 time_ns;
  weir_u64 cookie; /* of the socket, as SO_COOKIE shows it; 0 for a breaker */
};

/* An established connection is over. */
struct weir_event_close {
  struct weir_event_head head;
  weir_u64 open_ns; /* SYN to end */
  weir_u64 bytes_sent;
  weir_u64 bytes_received;
  weir_u32 requests;
  weir_u32 retransmits;
  weir_u32 min_rtt_us;
  weir_u32 error; /* errno the socket ended with; 0: in good order */
  weir_u32 flags; /* enum weir_sk_flags */
  weir_u32 pad;
};

/* A connect failed. */
struct weir_event_failure {
  struct weir_event_head head;
  weir_u32 error; /* errno */
  weir_u32 consecutive;
};

/* A breaker changed its state. */
struct weir_event_breaker {
  struct weir_event_head head;
  weir_u32 from; /* enum weir_breaker_state */
  weir_u32 to;
  weir_u32 level;
  weir_u32 open_ms; /* for how long, when it opened */
};

/* What decided a pick. */
enum weir_rule {
  WEIR_RULE_NONE = 0,    /* no backend could be taken */
  WEIR_RULE_ONLY,        /* one candidate: the policy draws one, or the other was unusable */
  WEIR_RULE_SAME,        /* both draws gave the same backend */
  WEIR_RULE_COLD,        /* one was cold, the other hot: the cold one */
  WEIR_RULE_LATENCY,     /* both cold: the faster one */
  WEIR_RULE_LOAD,        /* less load for its weight */
  WEIR_RULE_TURN,        /* round robin */
  WEIR_RULE_LEAST,       /* least load for its weight of all that were looked at */
  WEIR_RULE_SCAN,        /* no draw was usable: the next slot in line that is */
  WEIR_RULE_COUNT,
};

/* A candidate as the pick saw it. */
struct weir_candidate {
  weir_u32 backend;    /* index into weir_be, or WEIR_NO_BACKEND */
  weir_u32 load;       /* quarters of a request, see weir_load() */
  weir_u32 latency_us; /* 0: not known */
  weir_u32 weight_q16;
};

/* The head's backend is the one that was picked, WEIR_NO_BACKEND when there was none. */
struct weir_event_pick {
  struct weir_event_head head;
  struct weir_candidate first;
  struct weir_candidate second;
  weir_u32 first_breaker;  /* enum weir_breaker_state */
  weir_u32 second_breaker; /* enum weir_breaker_state */
  weir_u32 policy;         /* enum weir_policy */
  weir_u32 rule;           /* enum weir_rule */
  weir_u32 rif_limit;
  weir_u32 panic;  /* 1: breakers were ignored */
  weir_u32 backup; /* 1: picked from the backup pool; the head's pool is the service's */
  weir_u32 probe;  /* 1: took a token of a half-open breaker */
};

/* A request whose first response byte came. */
struct weir_event_request {
  struct weir_event_head head;
  weir_u64 ttfb_ns;
  weir_u32 sequence; /* 1: the first request of its connection */
  weir_u32 flags;    /* enum weir_sk_flags */
};

/* Index into weir_stat. Names shown to people are made from these: weir_stat_names[]. */
enum weir_stat_id {
  WEIR_STAT_PASS_NOT_SERVICE = 0, /* TCP connect to an address that is no service: untouched */
  WEIR_STAT_STEERED,              /* connects sent to a backend */
  WEIR_STAT_PASS_POOL_EMPTY,      /* service without backend, passed on unchanged */
  WEIR_STAT_REFUSED_POOL_EMPTY,   /* service without backend, ECONNREFUSED */
  WEIR_STAT_NO_STORAGE,           /* no memory for socket state: steered, but not observed */
  WEIR_STAT_RECONNECT_RELEASED,   /* second connect() on a socket released the first */
  WEIR_STAT_RELEASED,             /* in-flight units given back */
  WEIR_STAT_UNDERFLOW_PREVENTED,  /* a gauge would have gone below zero: a bug if not 0 */
  WEIR_STAT_BAD_INDEX,            /* a table pointed outside a map: a bug if not 0 */
  WEIR_STAT_EVENT_LOST,           /* ring buffer full: the watcher is too slow */
  WEIR_STAT_COUNT,
};

#endif /* WEIR_ABI_H */
