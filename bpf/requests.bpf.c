// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Observation of requests on connections to backends: start, first response byte, end. A request is
 * seen as its packets leave, by TCP sequence numbers; its response by one of two clocks over one
 * state machine (lib/request.bpf.h), of which user space loads one:
 *
 *   tracepoint  skb_copy_datagram_iovec: what is copied to the application, when it is. Programs
 *               on tracepoints may look at payload in Linux 6.12 and later; before, from 6.3 on,
 *               sock_recv_length tells how much was read, and packets are looked at as they come.
 *               At the server's end of a connection, it also tells how long a request lay unread.
 *               Does not see a client that takes its response without such a copy: by splice(), by
 *               zero-copy receive, by TLS in the kernel. Peeking at a response counts as seeing it.
 *   skb         the packets of the response, by TCP sequence numbers.
 *
 * Why not the tracepoint sock_send_length for the start? The packets have to be looked at anyway,
 * for what only the payload tells (lib/sniff.bpf.h): one program less per request. And the start is
 * known before anything can be received.
 *
 * What if this fails? Steering goes on; requests are not counted. Sockets that are not observed cost
 * one failed storage look-up per packet and read.
 */
#include "vmlinux.h"
/* vmlinux.h stays first */
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "lib/maps.bpf.h"
#include "lib/request.bpf.h"
#include "lib/sniff.bpf.h"
#include "lib/socket.bpf.h"

/* ---- requests ---- */

static __always_inline void sent(struct weir_sk* sk, __u64 now_ns) {
  struct weir_be* be = weir_be_at(sk->backend);
  struct weir_request_event event;

  if (!be) return;
  event = weir_request_sent(sk, be, now_ns);
  weir_count_request(sk, &event);
}

/* Returns whether somebody wants to know of this request, which `event` then describes. */
static __always_inline bool received(struct weir_sk* sk, struct weir_request_event* event) {
  struct weir_be* be = weir_be_at(sk->backend);
  struct weir_knobs* knobs = weir_knobs_now();

  if (!be || !knobs) return false;
  *event = weir_response_received(sk, be, bpf_ktime_get_ns());
  weir_count_request(sk, event);
  weir_count_answer(sk, event);
  if (weir_is_sample(sk->flags, event)) weir_record(sk->backend, WEIR_HIST_TTFB, event->ttfb_ns);
  return event->first_byte && weir_watched(knobs->trace_until_ns);
}

static __always_inline void report(const struct weir_sk* sk,
                                   const struct weir_request_event* request, __u64 cookie) {
  struct weir_event_request* event =
      WEIR_EVENT_RESERVE(struct weir_event_request, WEIR_EVENT_REQUEST, sk->pool, sk->backend, cookie);

  if (!event) return;
  event->ttfb_ns = request->ttfb_ns;
  event->sequence = request->sequence;
  event->flags = sk->flags;
  weir_event_submit(event);
}

/* ---- packets ---- */

struct segment {
  __u32 seq;
  __u32 offset; /* of the payload */
  __u32 payload_bytes;
};

/* Whether there is payload. At these hooks a packet starts with its network header, has all of its
 * headers in one piece, and is not yet cut into (or already put together from) segments of wire
 * size. Extension headers of IPv6: not observed. */
static __always_inline bool parse(struct __sk_buff* skb, struct segment* segment) {
  const __u8* data = (const __u8*)(long)skb->data;
  const __u8* end = (const __u8*)(long)skb->data_end;
  const struct iphdr* v4 = (const struct iphdr*)data;
  const struct ipv6hdr* v6 = (const struct ipv6hdr*)data;
  const struct tcphdr* tcp;
  __u32 offset;

  if (data + sizeof(*v4) > end) return false;
  if (v4->version == 4) {
    if (v4->protocol != IPPROTO_TCP) return false;
    offset = v4->ihl * 4u;
  } else {
    if (data + sizeof(*v6) > end || v6->nexthdr != IPPROTO_TCP) return false;
    offset = sizeof(*v6);
  }
  tcp = (const struct tcphdr*)(data + offset);
  if ((const __u8*)(tcp + 1) > end) return false;
  segment->seq = bpf_ntohl(tcp->seq);
  offset += tcp->doff * 4u;
  segment->offset = offset;
  segment->payload_bytes = skb->len > offset ? skb->len - offset : 0;
  return segment->payload_bytes != 0;
}

/* Without a check that this is a full socket: the look-up makes it. */
static __always_inline struct weir_sk* observed(struct __sk_buff* skb) {
  struct bpf_sock* socket = skb->sk;

  return socket ? bpf_sk_storage_get(&weir_sk, socket, 0, 0) : 0;
}

/* What kind of connection this is, from its first payload; over TLS, from all of them until the
 * handshake is over. Seldom run. */
static __noinline void sniff_request(struct __sk_buff* skb, struct weir_sk* sk,
                                     const struct segment* segment) {
  __u32 length = segment->payload_bytes;
  __u8 bytes[WEIR_SNIFF_BYTES] = {};
  struct weir_request_event event;
  struct weir_total* total;
  struct weir_be* be;

  if (length > sizeof(bytes)) length = sizeof(bytes);
  if (length == 0 || bpf_skb_load_bytes(skb, segment->offset, bytes, length) < 0) return;
  be = weir_be_at(sk->backend);
  total = weir_total_at(sk->backend);
  if (!be || !total) return;
  if (sk->flags & WEIR_SK_TLS) {
    if (weir_tls_data_begins(bytes, length)) weir_set_flags(sk, WEIR_SK_SNIFFED);
  } else if (weir_is_tls_hello(bytes, length)) {
    weir_set_flags(sk, WEIR_SK_TLS);
    event = weir_request_undone(sk, be);
    weir_count_request(sk, &event);
  } else if (weir_is_h2_preface(bytes, length)) {
    weir_set_flags(sk, WEIR_SK_MUX | WEIR_SK_SNIFFED);
    WEIR_ADD(&total->mux, 1);
  } else {
    weir_set_flags(sk, WEIR_SK_SNIFFED);
  }
}

/* Bytes of the response head that begins at `offset`; 0 when its end is not in this packet, or not
 * within the first KiB of it. */
WEIR_SUBPROGRAM int weir_head_bytes(struct __sk_buff* skb, __u32 offset) {
  struct weir_head_chunk chunk = {};

  for (__u32 bytes = 0; bytes < 1024; bytes += WEIR_HEAD_CHUNK) {
    __u32 at = offset + bytes;
    int found;

    if (at >= skb->len) return 0;
    chunk.length = skb->len - at;
    if (chunk.length > WEIR_HEAD_CHUNK) chunk.length = WEIR_HEAD_CHUNK;
    if (chunk.length == 0 || bpf_skb_load_bytes(skb, at, chunk.bytes, chunk.length) < 0) return 0;
    found = weir_head_end(&chunk);
    if (found > 0) return (int)bytes + found;
  }
  return 0;
}

static __always_inline bool is_interim_at(struct __sk_buff* skb, __u32 offset) {
  __u8 status[WEIR_STATUS_BYTES];

  return bpf_skb_load_bytes(skb, offset, status, sizeof(status)) == 0 &&
         weir_is_interim(status, sizeof(status));
}

static __always_inline bool is_interim(struct __sk_buff* skb, const struct segment* segment) {
  return segment->payload_bytes >= WEIR_STATUS_BYTES && is_interim_at(skb, segment->offset);
}

/* So many 1xx responses one packet may bring before the next one is taken for the final one. */
#define WEIR_INTERIM_RESPONSES 3

/* How many bytes at the beginning of the payload are 1xx responses, which are counted. */
static __noinline __u32 interim_bytes(struct __sk_buff* skb, struct weir_sk* sk,
                                      const struct segment* segment) {
  struct weir_total* total = weir_total_at(sk->backend);
  __u32 bytes = 0;

  if (!total) return 0;
  for (int response = 0; response < WEIR_INTERIM_RESPONSES; response++) {
    int length;

    if (!is_interim_at(skb, segment->offset + bytes)) break;
    WEIR_ADD(&total->interim, 1);
    length = weir_head_bytes(skb, segment->offset + bytes);
    /* Goes on in the next packet, as far as one can tell. */
    if (length <= 0) return segment->payload_bytes;
    bytes += (__u32)length;
  }
  return bytes;
}

/* Payload that leaves the client for the first time. */
static __always_inline bool is_request(struct __sk_buff* skb, struct weir_sk* sk) {
  struct segment segment;

  if (sk->flags & WEIR_SK_SERVER || !parse(skb, &segment) ||
      !weir_seq_advance(&sk->next_tx_seq, segment.seq, segment.payload_bytes))
    return false;
  if (!(sk->flags & WEIR_SK_SNIFFED)) sniff_request(skb, sk, &segment);
  return true;
}

/* ---- request clock: tracepoint, as requests leave ---- */

/* When this packet was handed to TCP, more or less. TCP has just looked at the clock; to look again
 * would cost as much as all the rest. */
static __always_inline __u64 sent_ns(struct __sk_buff* skb) {
  struct bpf_sock* socket = skb->sk;
  struct tcp_sock* tcp;

  if (!bpf_core_field_exists(struct tcp_sock, tcp_clock_cache) || !socket)
    return bpf_ktime_get_ns();
  tcp = bpf_skc_to_tcp_sock(socket);
  return tcp ? tcp->tcp_clock_cache : bpf_ktime_get_ns();
}

SEC("cgroup_skb/egress")
int weir_tp_out(struct __sk_buff* skb) {
  struct weir_sk* sk = observed(skb);

  if (sk && is_request(skb, sk)) sent(sk, sent_ns(skb));
  return 1;
}

/* ---- request clock: tracepoint, payload as it is copied ---- */

/* For programs on tracepoints: Linux 6.12. */
extern int bpf_dynptr_from_skb(struct __sk_buff* skb, __u64 flags,
                               struct bpf_dynptr* packet) __ksym __weak;
extern void* bpf_rdonly_cast(const void* object, __u32 type) __ksym __weak;

/* `object` as the struct that it is the beginning of. */
#define WEIR_CAST(type, object) \
  ((const struct type*)bpf_rdonly_cast(object, bpf_core_type_id_kernel(struct type)))

/* Payload on its way from the receive queue to the application. */
struct copied {
  __u32 seq;
  __u32 offset; /* in its packet, which begins with payload here */
  __u32 packet_bytes;
};

static __always_inline bool is_interim_copied(const struct bpf_dynptr* packet, __u32 offset) {
  __u8 status[WEIR_STATUS_BYTES];

  return bpf_dynptr_read(status, sizeof(status), packet, offset, 0) == 0 &&
         weir_is_interim(status, sizeof(status));
}

/* As weir_head_bytes(). */
static __always_inline __u32 head_bytes_copied(const struct bpf_dynptr* packet, __u32 offset,
                                               __u32 packet_bytes) {
  struct weir_head_chunk chunk = {};

  for (__u32 bytes = 0; bytes < 1024; bytes += WEIR_HEAD_CHUNK) {
    __u32 at = offset + bytes;
    int found;

    if (at >= packet_bytes) return 0;
    chunk.length = packet_bytes - at;
    if (chunk.length > WEIR_HEAD_CHUNK) chunk.length = WEIR_HEAD_CHUNK;
    if (bpf_dynptr_read(chunk.bytes, chunk.length, packet, at, 0) < 0) return 0;
    found = weir_head_end(&chunk);
    if (found > 0) return bytes + (__u32)found;
  }
  return 0;
}

/* As interim_bytes(). */
static __noinline __u32 interim_bytes_copied(struct sk_buff* skb, struct weir_sk* sk,
                                             const struct copied* copied) {
  struct weir_total* total = weir_total_at(sk->backend);
  __u32 offset = copied->offset, end = copied->packet_bytes;
  struct bpf_dynptr packet;

  if (!total || bpf_dynptr_from_skb((struct __sk_buff*)skb, 0, &packet) < 0) return 0;
  for (int response = 0; response < WEIR_INTERIM_RESPONSES; response++) {
    __u32 length;

    if (!is_interim_copied(&packet, offset)) break;
    WEIR_ADD(&total->interim, 1);
    length = head_bytes_copied(&packet, offset, end);
    if (length == 0) return end - copied->offset;
    offset += length;
  }
  return offset - copied->offset;
}

/* Whether all that is copied, `bytes` from the queue's head on, are 1xx responses. */
static __always_inline bool is_interim_read(struct sk_buff* skb, struct weir_sk* sk,
                                            const struct tcp_sock* tcp, __u32 bytes) {
  struct copied copied = {.seq = tcp->copied_seq, .packet_bytes = skb->len};
  struct bpf_dynptr packet;
  __u32 known = weir_interim_from(sk, copied.seq);

  if (known) return bytes <= known;
  copied.offset = copied.seq - WEIR_CAST(tcp_skb_cb, skb->cb)->seq;
  if (bpf_dynptr_from_skb((struct __sk_buff*)skb, 0, &packet) < 0 ||
      !is_interim_copied(&packet, copied.offset))
    return false;
  known = interim_bytes_copied(skb, sk, &copied);
  weir_interim_seen(sk, copied.seq, known);
  return bytes <= known;
}

/* Server: what came is being read. Measured once in a tick at most: of a connection that is served
 * faster than that, nothing is to be learned that would be worth the time. When the last of it
 * came, is when TCP looked at the clock last. */
static __always_inline void request_copied(struct weir_sk* sk, const struct tcp_sock* tcp) {
  __u64 tick = bpf_jiffies64(), came_ns, now_ns;
  __u32 arrived_seq = tcp->rcv_nxt;

  if (tick == sk->unread_tick || arrived_seq == sk->next_rx_seq) return;
  sk->unread_tick = tick;
  sk->next_rx_seq = arrived_seq;
  came_ns = tcp->tcp_clock_cache;
  now_ns = bpf_ktime_get_ns();
  weir_record(sk->backend, WEIR_HIST_UNREAD, now_ns > came_ns ? now_ns - came_ns : 0);
}

/* Runs for every packet that any socket is read from, the owner of which it names. An application
 * that peeks at its payload has seen it. */
SEC("tp_btf/skb_copy_datagram_iovec")
int BPF_PROG(weir_tp_copy, struct sk_buff* skb, int bytes) {
  struct sock* socket = skb->sk;
  struct weir_request_event event;
  const struct tcp_sock* tcp;
  struct weir_sk* sk;

  if (!socket || bytes <= 0) return 0;
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, 0);
  if (!sk) return 0;
  tcp = WEIR_CAST(tcp_sock, socket);
  if (sk->flags & WEIR_SK_SERVER) {
    request_copied(sk, tcp);
    return 0;
  }
  if (WEIR_READ_ONCE(sk->phase) == WEIR_PHASE_WAITING &&
      is_interim_read(skb, sk, tcp, (__u32)bytes))
    return 0;
  /* Helpers take no socket from here; the cookie was made when its state was. */
  if (received(sk, &event))
    report(sk, &event, (__u64)WEIR_CAST(sock, socket)->__sk_common.skc_cookie.counter);
  return 0;
}

/* ---- request clock: tracepoint, before Linux 6.12 ---- */

/* Not retransmitted: neither taken in already, nor to be kept for later. */
static __always_inline bool is_next(struct __sk_buff* skb, const struct segment* segment) {
  struct bpf_sock* socket = skb->sk;
  struct bpf_tcp_sock* tcp = socket ? bpf_tcp_sock(socket) : 0;

  return tcp && segment->seq == tcp->rcv_nxt;
}

/* Server: a request arrives. Measured once in a tick at most: of a connection that is served faster
 * than that, nothing is to be learned that would be worth the time. */
static __always_inline void request_arrived(struct __sk_buff* skb, struct weir_sk* sk,
                                            const struct segment* segment) {
  __u64 tick = bpf_jiffies64();

  if (tick == sk->unread_tick || sk->unread_ns || !is_next(skb, segment)) return;
  sk->unread_tick = tick;
  WEIR_WRITE_ONCE(sk->unread_ns, bpf_ktime_get_ns());
}

/* Server: what came is being read. */
static __always_inline void request_read(struct weir_sk* sk) {
  __u64 came_ns = WEIR_READ_ONCE(sk->unread_ns), now_ns;

  if (came_ns == 0) return;
  WEIR_WRITE_ONCE(sk->unread_ns, 0);
  now_ns = bpf_ktime_get_ns();
  weir_record(sk->backend, WEIR_HIST_UNREAD, now_ns > came_ns ? now_ns - came_ns : 0);
}

/* The payload first: this runs on the CPU that sent the packet, and the state of the socket lies in
 * the cache of the one that waits for it. */
SEC("cgroup_skb/ingress")
int weir_tp_in(struct __sk_buff* skb) {
  struct weir_knobs* knobs = weir_knobs_now();
  struct segment segment;
  struct weir_sk* sk;
  bool interim;

  if (!knobs || !parse(skb, &segment)) return 1;
  interim = is_interim(skb, &segment);
  if (!interim && !knobs->serves_here) return 1;
  sk = observed(skb);
  if (!sk) return 1;
  if (sk->flags & WEIR_SK_SERVER)
    request_arrived(skb, sk, &segment);
  else if (interim && WEIR_READ_ONCE(sk->phase) == WEIR_PHASE_WAITING && is_next(skb, &segment))
    weir_interim_arrived(sk, interim_bytes(skb, sk, &segment));
  return 1;
}

/* include/linux/socket.h; neither call takes payload off the stream. */
#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000

SEC("tp_btf/sock_recv_length")
int BPF_PROG(weir_tp_recv, struct sock* socket, int ret, int flags) {
  struct weir_request_event event;
  struct weir_sk* sk;

  if (ret <= 0 || (flags & (MSG_PEEK | MSG_ERRQUEUE))) return 0;
  sk = bpf_sk_storage_get(&weir_sk, socket, 0, 0);
  if (!sk) return 0;
  if (sk->flags & WEIR_SK_SERVER) {
    request_read(sk);
    return 0;
  }
  if (weir_interim_read(sk, (__u32)ret)) return 0;
  if (received(sk, &event)) report(sk, &event, bpf_get_socket_cookie(socket));
  return 0;
}

/* ---- request clock: packets ---- */

SEC("cgroup_skb/egress")
int weir_skb_out(struct __sk_buff* skb) {
  struct weir_sk* sk = observed(skb);

  if (sk && is_request(skb, sk)) sent(sk, bpf_ktime_get_ns());
  return 1;
}

SEC("cgroup_skb/ingress")
int weir_skb_in(struct __sk_buff* skb) {
  struct weir_sk* sk = observed(skb);
  struct weir_request_event event;
  struct segment segment;

  if (!sk || sk->flags & WEIR_SK_SERVER || !parse(skb, &segment) ||
      !weir_seq_advance(&sk->next_rx_seq, segment.seq, segment.payload_bytes))
    return 1;
  if (WEIR_READ_ONCE(sk->phase) == WEIR_PHASE_WAITING && is_interim(skb, &segment) &&
      interim_bytes(skb, sk, &segment) >= segment.payload_bytes)
    return 1;
  if (received(sk, &event)) report(sk, &event, bpf_get_socket_cookie(skb));
  return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
