/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Writing to weir_event. A record is only made while somebody watches (weir_knobs), and wakes
 * nobody: the watcher looks at the buffer by itself every few milliseconds. (Records that wake and
 * records that do not must not be mixed: the reader would then sleep beside a full buffer.)
 */
#ifndef WEIR_EVENT_BPF_H
#define WEIR_EVENT_BPF_H

#include "lib/maps.bpf.h"

/* Whether a watch that lasts until `until_ns` is on. Reads the clock only when there is one. */
WEIR_INLINE bool weir_watched(__u64 until_ns) {
  return until_ns != 0 && bpf_ktime_get_ns() < until_ns;
}

/* Room for a record, its head filled in; 0 when the buffer is full. A macro: the size of a
 * reservation is to be a constant. */
#define WEIR_EVENT_RESERVE(type, event_kind, event_pool, event_backend, event_cookie)       \
  ({                                                                                        \
    type* event_ = bpf_ringbuf_reserve(&weir_event, sizeof(type), 0);                       \
    if (event_) {                                                                           \
      __builtin_memset(event_, 0, sizeof(type));                                            \
      event_->head.kind = (event_kind);                                                     \
      event_->head.pool = (event_pool);                                                     \
      event_->head.backend = (event_backend);                                               \
      event_->head.time_ns = bpf_ktime_get_ns();                                            \
      event_->head.cookie = (event_cookie);                                                 \
    } else {                                                                                \
      weir_count(WEIR_STAT_EVENT_LOST, 1);                                                  \
    }                                                                                       \
    event_;                                                                                 \
  })

WEIR_INLINE void weir_event_submit(void* event) { bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP); }

#endif /* WEIR_EVENT_BPF_H */
