/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only OR BSD-2-Clause */
/*
 * The contract of bpf/listen.bpf.c with user space (agent/kernel/listen_steering.h), beside abi.h
 * and under the same rules: fixed-width fields, explicit padding, sizes asserted.
 *
 * Two agents write these records while one hands over to the other, so that their maps are found
 * by the listening address, not by agent.
 */
#ifndef WEIR_LISTEN_ABI_H
#define WEIR_LISTEN_ABI_H

#include "weir/abi.h"

#define WEIR_MAP_LISTEN "weir_listen" /* REUSEPORT_SOCKARRAY: slot -> listening socket */
#define WEIR_MAP_DEPTH "weir_depth"   /* ARRAY[1] weir_depths                          */

/* Two agents of 256 I/O threads. */
#define WEIR_MAX_LISTENERS 512

/* What is known of one listener; the socket is in the same slot of weir_listen. */
struct weir_listener {
  /* Written by the program. */
  weir_u64 chosen;         /* connections sent here, those taken over from others included */
  weir_u64 taken_over;     /* of these: handshakes and queued connections of a closed listener */
  weir_u64 pad_program[6]; /* the other half is another CPU's cache line */

  /* Written by the I/O thread that accepts from the listener. */
  weir_u64 accepted; /* connections taken out of its queue */
  weir_u64 strays;   /* chosen - accepted that no queue holds; wraps when the sign is negative */
  weir_u32 waiting;  /* requests that this thread has begun to read and not answered */
  weir_u32 owner;    /* which agent; the same number for all its listeners */
  /* Not 0: the listener takes connections. Another number each time a slot is taken into use. The
   * program exchanges it for 0 when it finds the slot of weir_listen empty. */
  weir_u32 ticket;
  weir_u32 pad;
  weir_u64 pad_thread[4];
};
WEIR_STATIC_ASSERT(sizeof(struct weir_listener) == 128, "weir_listener");

/* One value, not an array of them: a single lookup reaches every listener. */
struct weir_depths {
  weir_u32 slots; /* slots at and above this one were never used */
  weir_u32 pad[31];
  struct weir_listener listener[WEIR_MAX_LISTENERS];
};
WEIR_STATIC_ASSERT(sizeof(struct weir_depths) == 128 + 128 * WEIR_MAX_LISTENERS, "weir_depths");

#endif /* WEIR_LISTEN_ABI_H */
