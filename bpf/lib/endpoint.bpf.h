/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The canonical 16-byte address: IPv4 as ::ffff:a.b.c.d. Words are in network order, as in the
 * contexts of the socket-address hooks.
 */
#ifndef WEIR_ENDPOINT_BPF_H
#define WEIR_ENDPOINT_BPF_H

#include "lib/compat.bpf.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define WEIR_MAPPED_PREFIX 0xffff0000u /* bytes 00 00 ff ff */
#else
#define WEIR_MAPPED_PREFIX 0x0000ffffu
#endif

WEIR_INLINE weir_u32 weir_ip_word(const struct weir_endpoint* endpoint, weir_u32 i) {
  weir_u32 word;

  __builtin_memcpy(&word, &endpoint->ip[i * 4], sizeof(word));
  return word;
}

WEIR_INLINE void weir_set_endpoint(struct weir_endpoint* endpoint, weir_u32 word0, weir_u32 word1,
                                   weir_u32 word2, weir_u32 word3, weir_u16 port,
                                   weir_u8 protocol) {
  __builtin_memcpy(&endpoint->ip[0], &word0, sizeof(word0));
  __builtin_memcpy(&endpoint->ip[4], &word1, sizeof(word1));
  __builtin_memcpy(&endpoint->ip[8], &word2, sizeof(word2));
  __builtin_memcpy(&endpoint->ip[12], &word3, sizeof(word3));
  endpoint->port = port;
  endpoint->protocol = protocol;
  endpoint->pad = 0; /* part of the hash key */
}

WEIR_INLINE int weir_endpoint_is_v4(const struct weir_endpoint* endpoint) {
  return weir_ip_word(endpoint, 0) == 0 && weir_ip_word(endpoint, 1) == 0 &&
         weir_ip_word(endpoint, 2) == WEIR_MAPPED_PREFIX;
}

#endif /* WEIR_ENDPOINT_BPF_H */
