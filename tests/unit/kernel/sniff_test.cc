// SPDX-License-Identifier: Apache-2.0
#include "bpf/lib/sniff.bpf.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <string_view>

namespace weir::kernel {
namespace {

/// A payload as the programs see it: cut off, behind it zeros.
struct Payload {
  explicit Payload(std::string_view text)
      : length(static_cast<weir_u32>(std::min(text.size(), bytes.size()))) {
    std::memcpy(bytes.data(), text.data(), length);
  }
  std::array<weir_u8, WEIR_SNIFF_BYTES> bytes{};
  weir_u32 length;
};

bool is_h2(std::string_view text) {
  const Payload payload(text);
  return weir_is_h2_preface(payload.bytes.data(), payload.length) != 0;
}

bool is_hello(std::string_view text) {
  const Payload payload(text);
  return weir_is_tls_hello(payload.bytes.data(), payload.length) != 0;
}

bool data_begins(const std::string& text) {
  const Payload payload(text);
  return weir_tls_data_begins(payload.bytes.data(), payload.length) != 0;
}

bool is_interim(std::string_view text) {
  const Payload payload(text);
  return weir_is_interim(payload.bytes.data(), payload.length) != 0;
}

/// A TLS record with `content_bytes` of anything in it.
std::string record(int type, std::size_t content_bytes) {
  std::string text{static_cast<char>(type), 3, 3, static_cast<char>(content_bytes >> 8),
                   static_cast<char>(content_bytes & 0xff)};
  return text + std::string(content_bytes, '\xa5');
}

const std::string kChangeCipherSpec = record(WEIR_TLS_CHANGE_CIPHER_SPEC, 1);

TEST(Sniff, Http2IsKnownByItsWholePreface) {
  const std::string preface = WEIR_H2_PREFACE;
  ASSERT_EQ(preface.size(), std::size_t{WEIR_H2_PREFACE_BYTES});
  EXPECT_TRUE(is_h2(preface));
  EXPECT_TRUE(is_h2(preface + std::string("\0\0\x12\x04", 4)));
  for (std::size_t i = 0; i < preface.size(); ++i) {
    std::string other = preface;
    other[i] ^= 1;
    EXPECT_FALSE(is_h2(other)) << "byte " << i;
    EXPECT_FALSE(is_h2(preface.substr(0, i))) << i << " bytes";
  }
}

TEST(Sniff, TlsIsKnownByItsClientHello) {
  const std::string hello{0x16, 3, 1, 2, 0, 1, 0, 1, '\xfc', 3, 3};
  EXPECT_TRUE(is_hello(hello));
  EXPECT_FALSE(is_hello(hello.substr(0, 5)));
  EXPECT_FALSE(is_hello("GET / HTTP/1.1\r\n"));
  EXPECT_FALSE(is_hello(record(WEIR_TLS_APPLICATION_DATA, 40)));
  std::string server_hello = hello;
  server_hello[5] = 2;
  EXPECT_FALSE(is_hello(server_hello));
}

TEST(Sniff, TlsDataBeginsAfterTheClientsFinished) {
  const std::string request = record(WEIR_TLS_APPLICATION_DATA, 200);
  EXPECT_TRUE(data_begins(request));
  EXPECT_FALSE(data_begins(record(WEIR_TLS_HANDSHAKE, 300)));
  // TLS 1.2: the client's key exchange, change-cipher-spec and encrypted Finished, in one piece or
  // in several; with false start the request follows at once.
  EXPECT_FALSE(data_begins(record(WEIR_TLS_HANDSHAKE, 37) + kChangeCipherSpec +
                           record(WEIR_TLS_HANDSHAKE, 40)));
  EXPECT_FALSE(data_begins(kChangeCipherSpec + record(WEIR_TLS_HANDSHAKE, 40)));
  EXPECT_TRUE(data_begins(kChangeCipherSpec + record(WEIR_TLS_HANDSHAKE, 40) + request));
  // TLS 1.3: Finished looks like application data.
  for (const std::size_t finished : {std::size_t{53}, std::size_t{69}}) {
    const std::string flight = kChangeCipherSpec + record(WEIR_TLS_APPLICATION_DATA, finished);
    EXPECT_FALSE(data_begins(flight));
    EXPECT_TRUE(data_begins(flight + request));
  }
  // A client that shows a certificate.
  EXPECT_FALSE(data_begins(kChangeCipherSpec + record(WEIR_TLS_APPLICATION_DATA, 900)));
}

TEST(Sniff, CutOffRecordsAreNoData) {
  const std::string request = record(WEIR_TLS_APPLICATION_DATA, 200);
  for (std::size_t length = 0; length < 5; ++length) {
    EXPECT_FALSE(data_begins(request.substr(0, length)));
  }
  // Lengths that point outside, as an attacker might send them.
  EXPECT_FALSE(data_begins(record(WEIR_TLS_HANDSHAKE, 65535)));
  EXPECT_FALSE(data_begins(record(WEIR_TLS_HANDSHAKE, WEIR_SNIFF_BYTES - 7) + request));
  EXPECT_FALSE(data_begins(""));
}

TEST(Sniff, InterimResponsesAreThoseOfTheHundredsExceptSwitchingProtocols) {
  EXPECT_TRUE(is_interim("HTTP/1.1 100 Continue\r\n\r\n"));
  EXPECT_TRUE(is_interim("HTTP/1.0 102 Processing\r\n\r\n"));
  EXPECT_TRUE(is_interim("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"));
  EXPECT_TRUE(is_interim("HTTP/1.1 199"));
  EXPECT_FALSE(is_interim("HTTP/1.1 101 Switching Protocols\r\n\r\n"));
  EXPECT_FALSE(is_interim("HTTP/1.1 200 OK\r\n\r\n"));
  EXPECT_FALSE(is_interim("HTTP/1.1 404 Not Found\r\n\r\n"));
  EXPECT_FALSE(is_interim("HTTP/1.1 10"));
  EXPECT_FALSE(is_interim("HTTP/2.0 100 Continue\r\n\r\n"));
  EXPECT_FALSE(is_interim("HTTP/1.x 100 Continue\r\n\r\n"));
  EXPECT_FALSE(is_interim("HTTP/1.1 1a0 Continue\r\n\r\n"));
  EXPECT_FALSE(is_interim("data: 1"));
}

/// Searches `text` in pieces, as the programs do. Returns the length of the head, 0: no end.
std::size_t head_bytes(std::string_view text) {
  weir_head_chunk chunk{};
  for (std::size_t at = 0; at < text.size(); at += WEIR_HEAD_CHUNK) {
    const std::string_view piece = text.substr(at, WEIR_HEAD_CHUNK);
    std::memcpy(chunk.bytes, piece.data(), piece.size());
    chunk.length = static_cast<weir_u32>(piece.size());
    const int found = weir_head_end(&chunk);
    if (found > 0) return at + static_cast<std::size_t>(found);
  }
  return 0;
}

TEST(Sniff, HeadEndsAtTheEmptyLineWhereverThePiecesAreCut) {
  for (std::size_t length = 4; length < 300; ++length) {
    const std::string head = std::string(length - 4, 'h') + "\r\n\r\n";
    ASSERT_EQ(head_bytes(head), length);
    ASSERT_EQ(head_bytes(head + "HTTP/1.1 200 OK\r\n\r\nbody"), length);
    ASSERT_EQ(head_bytes(head.substr(0, length - 1)), 0U);
  }
  EXPECT_EQ(head_bytes("a\r\n\r\r\n\r\n"), 8U);
  // What an earlier piece left behind a shorter one is not looked at.
  const std::string cut = std::string(60, 'h') + "\r\n\r\n" + "x";
  EXPECT_EQ(head_bytes("y" + std::string(63, 'h') + "\r\n"), 0U);
  EXPECT_EQ(head_bytes(cut), 64U);
}

}  // namespace
}  // namespace weir::kernel
