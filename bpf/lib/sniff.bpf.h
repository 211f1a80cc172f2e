/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the first bytes of a payload say. No more is looked at than is needed to tell one request
 * from the next:
 *
 *   HTTP/2   requests on one connection overlap and cannot be told apart by their bytes
 *   TLS      what comes before application data is no request
 *   1xx      an interim response is not the first byte of the answer
 *
 * HTTP/2 inside TLS cannot be seen: it counts as if it were HTTP/1. All functions work on a few
 * bytes copied from the packet; what does not fit in there is not looked at.
 */
#ifndef WEIR_SNIFF_BPF_H
#define WEIR_SNIFF_BPF_H

#include "lib/compat.bpf.h"

/* RFC 9113, section 3.4. */
#define WEIR_H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define WEIR_H2_PREFACE_BYTES 24

/* So much of a client's payload is enough to see past a last handshake message. */
#define WEIR_SNIFF_BYTES 96

WEIR_INLINE int weir_is_h2_preface(const weir_u8* bytes, weir_u32 length) {
  weir_u64 wanted[WEIR_H2_PREFACE_BYTES / 8], words[WEIR_H2_PREFACE_BYTES / 8];

  if (length < WEIR_H2_PREFACE_BYTES) return 0;
  __builtin_memcpy(wanted, WEIR_H2_PREFACE, sizeof(wanted)); /* constants, no load */
  __builtin_memcpy(words, bytes, sizeof(words));
  return words[0] == wanted[0] && words[1] == wanted[1] && words[2] == wanted[2];
}

/* TLS records, RFC 8446, section 5.1: type, version (major always 3), length, content. */
#define WEIR_TLS_HEADER_BYTES 5
#define WEIR_TLS_CHANGE_CIPHER_SPEC 0x14
#define WEIR_TLS_HANDSHAKE 0x16
#define WEIR_TLS_APPLICATION_DATA 0x17
#define WEIR_TLS_CLIENT_HELLO 1

WEIR_INLINE int weir_is_tls_hello(const weir_u8* bytes, weir_u32 length) {
  return length > WEIR_TLS_HEADER_BYTES && bytes[0] == WEIR_TLS_HANDSHAKE && bytes[1] == 3 &&
         bytes[WEIR_TLS_HEADER_BYTES] == WEIR_TLS_CLIENT_HELLO;
}

/* An encrypted Finished message of TLS 1.3: header 4, hash 32 or 48, content type 1, tag 16. */
WEIR_INLINE int weir_is_tls_finished(weir_u32 content_bytes) {
  return content_bytes == 53 || content_bytes == 69;
}

/*
 * Whether application data begins in this piece of what a client sends. TLS 1.3 sends the end of
 * the handshake as application data, too; right after a change-cipher-spec record (which clients
 * send for the sake of middleboxes), that is what it is. A client that leaves that record out is
 * taken to begin its request a moment too early.
 */
WEIR_INLINE int weir_tls_data_begins(const weir_u8* bytes, weir_u32 length) {
  weir_u32 at = 0, before = 0, content_bytes;

  /* The longest sequence of note: change-cipher-spec, Finished, data. */
  for (int record = 0; record < 3; record++) {
    weir_u8 type;

    if (at + WEIR_TLS_HEADER_BYTES > length || at + WEIR_TLS_HEADER_BYTES > WEIR_SNIFF_BYTES)
      return 0;
    type = bytes[at];
    content_bytes = (weir_u32)bytes[at + 3] << 8 | bytes[at + 4];
    if (type == WEIR_TLS_APPLICATION_DATA) {
      if (before != WEIR_TLS_CHANGE_CIPHER_SPEC) return 1;
      if (!weir_is_tls_finished(content_bytes)) return 0; /* a client's certificate, say */
    }
    before = type;
    at += WEIR_TLS_HEADER_BYTES + content_bytes;
  }
  return 0;
}

/* "HTTP/1.x 1yz": the status line of an interim response (RFC 9110, section 15.2). Not 101, with
 * which the server leaves HTTP: nothing else follows that answers the request. */
#define WEIR_STATUS_BYTES 12

WEIR_INLINE int weir_is_digit(weir_u8 c) { return c >= '0' && c <= '9'; }

WEIR_INLINE int weir_is_interim(const weir_u8* bytes, weir_u32 length) {
  if (length < WEIR_STATUS_BYTES) return 0;
  /* What differs from other responses comes first. */
  if (bytes[9] != '1' || bytes[0] != 'H' || bytes[1] != 'T' || bytes[2] != 'T' ||
      bytes[3] != 'P' || bytes[4] != '/' || bytes[5] != '1' || bytes[6] != '.' || bytes[8] != ' ')
    return 0;
  if (!weir_is_digit(bytes[7]) || !weir_is_digit(bytes[10]) || !weir_is_digit(bytes[11])) return 0;
  return bytes[10] != '0' || bytes[11] != '1';
}

/* The search for the empty line at the end of a response head, piece by piece. */
#define WEIR_HEAD_CHUNK 64

struct weir_head_chunk {
  weir_u8 bytes[WEIR_HEAD_CHUNK];
  weir_u32 length;
  weir_u32 window; /* the last four bytes seen; 0 at the beginning */
};

/* How many bytes of this piece belong to the head when it ends here, 0 when it goes on. */
WEIR_SUBPROGRAM int weir_head_end(struct weir_head_chunk* chunk) {
  if (!chunk) return 0;
  for (weir_u32 i = 0; i < WEIR_HEAD_CHUNK; i++) {
    if (i >= chunk->length) break;
    chunk->window = chunk->window << 8 | chunk->bytes[i];
    if (chunk->window == 0x0d0a0d0au) return (int)i + 1;
  }
  return 0;
}

#endif /* WEIR_SNIFF_BPF_H */
