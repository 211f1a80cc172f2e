// SPDX-License-Identifier: Apache-2.0
#include "agent/base/endpoint.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

namespace weir {
namespace {

constexpr std::array<std::uint8_t, 12> kV4MappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

Error malformed(std::string_view text, std::string_view why) {
  return make_error(Code::kInvalidArgument,
                    "\"" + std::string(text) + "\" is not an endpoint: " + std::string(why) +
                        " (expected ADDRESS:PORT, as in 127.0.0.1:8080 or [::1]:8080)");
}

}  // namespace

Result<Endpoint> Endpoint::parse(std::string_view text, bool allow_port_zero) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return malformed(text, "the port is missing");
  std::string host(text.substr(0, colon));
  // inet_pton() would stop reading there.
  if (host.find('\0') != std::string::npos) return malformed(text, "it contains a zero byte");
  const std::string_view port_text = text.substr(colon + 1);

  Endpoint endpoint;
  const char* const port_end = port_text.data() + port_text.size();
  const auto [end, status] = std::from_chars(port_text.data(), port_end, endpoint.port);
  if (status != std::errc{} || end != port_end) return malformed(text, "the port is not 0..65535");
  if (endpoint.port == 0 && !allow_port_zero) return malformed(text, "port 0 is not allowed here");

  if (host.find('\0') != std::string::npos) return malformed(text, "it holds a zero byte");
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    if (inet_pton(AF_INET6, host.c_str(), endpoint.ip.data()) == 1) return endpoint;
    return malformed(text, "the part in brackets is not an IPv6 address");
  }
  std::copy(kV4MappedPrefix.begin(), kV4MappedPrefix.end(), endpoint.ip.begin());
  if (inet_pton(AF_INET, host.c_str(), endpoint.ip.data() + kV4MappedPrefix.size()) == 1) {
    return endpoint;
  }
  return malformed(text, "the address is neither IPv4 nor IPv6 in brackets");
}

bool Endpoint::is_v4() const {
  return std::equal(kV4MappedPrefix.begin(), kV4MappedPrefix.end(), ip.begin());
}

std::string Endpoint::to_string() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (is_v4()) {
    inet_ntop(AF_INET, ip.data() + kV4MappedPrefix.size(), text.data(), text.size());
    return std::string(text.data()) + ":" + std::to_string(port);
  }
  inet_ntop(AF_INET6, ip.data(), text.data(), text.size());
  return "[" + std::string(text.data()) + "]:" + std::to_string(port);
}

}  // namespace weir
