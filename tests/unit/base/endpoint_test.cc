// SPDX-License-Identifier: Apache-2.0
#include "agent/base/endpoint.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weir {
namespace {

TEST(Endpoint, ParsesAndPrintsIpv4) {
  const auto endpoint = Endpoint::parse("127.0.0.1:8080");
  ASSERT_TRUE(endpoint.ok());
  const std::array<std::uint8_t, 16> expected = {0, 0, 0,    0,    0,   0, 0, 0,
                                                 0, 0, 0xff, 0xff, 127, 0, 0, 1};
  EXPECT_EQ(endpoint->ip, expected);
  EXPECT_EQ(endpoint->port, 8080);
  EXPECT_TRUE(endpoint->is_v4());
  EXPECT_EQ(endpoint->to_string(), "127.0.0.1:8080");
}

TEST(Endpoint, ParsesAndPrintsIpv6) {
  const auto endpoint = Endpoint::parse("[2001:db8:0:0::1]:65535");
  ASSERT_TRUE(endpoint.ok());
  EXPECT_EQ(endpoint->port, 65535);
  EXPECT_FALSE(endpoint->is_v4());
  EXPECT_EQ(endpoint->to_string(), "[2001:db8::1]:65535");
}

TEST(Endpoint, V4MappedIpv6IsItsIpv4Twin) {
  EXPECT_EQ(Endpoint::parse("[::ffff:10.0.0.7]:80").value(),
            Endpoint::parse("10.0.0.7:80").value());
  EXPECT_EQ(Endpoint::parse("[::ffff:10.0.0.7]:80").value().to_string(), "10.0.0.7:80");
}

TEST(Endpoint, PortZeroOnlyWhereAllowed) {
  EXPECT_EQ(Endpoint::parse("127.0.0.1:0", /*allow_port_zero=*/true).value().port, 0);
  const auto refused = Endpoint::parse("127.0.0.1:0");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "\"127.0.0.1:0\" is not an endpoint: port 0 is not allowed here (expected "
            "ADDRESS:PORT, as in 127.0.0.1:8080 or [::1]:8080)");
}

TEST(Endpoint, RefusesWhatIsNotOne) {
  const std::vector<std::string> malformed = {"",
                                              ":",
                                              ":80",
                                              "127.0.0.1",
                                              "127.0.0.1:",
                                              "1.2.3:80",
                                              "1.2.3.4.5:80",
                                              "256.0.0.1:80",
                                              "localhost:80",
                                              "127.0.0.1:65536",
                                              "1.1.1.1:-1",
                                              "1.1.1.1: 80",
                                              "1.1.1.1:80 ",
                                              " 1.1.1.1:80",
                                              "1.1.1.1:+80",
                                              "::1:80",
                                              "[::1:80",
                                              "[::1]80",
                                              "[1.2.3.4]:80",
                                              "[]:80",
                                              "[::1]:0x50",
                                              "1.1.1.1:8o",
                                              "[::1%lo]:80",
                                              "01.02.03.04:80a"};
  for (const auto& text : malformed) {
    const auto endpoint = Endpoint::parse(text);
    ASSERT_FALSE(endpoint.ok()) << text;
    EXPECT_EQ(endpoint.error().code, Code::kInvalidArgument) << text;
  }
}

TEST(Endpoint, RefusesATextWithAZeroByte) {
  EXPECT_FALSE(Endpoint::parse(std::string("127.0.0.1\0x:80", 14)).ok());
}

TEST(Endpoint, OrdersByAddressThenPort) {
  EXPECT_LT(Endpoint::parse("10.0.0.1:90").value(), Endpoint::parse("10.0.0.2:80").value());
  EXPECT_LT(Endpoint::parse("10.0.0.1:80").value(), Endpoint::parse("10.0.0.1:90").value());
}

}  // namespace
}  // namespace weir
