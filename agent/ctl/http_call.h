// SPDX-License-Identifier: Apache-2.0
//
// One HTTP request to an agent, and its whole answer: all that a command needs.
//
// Thread-safe: functions without shared state. They block.
#pragma once

#include <chrono>
#include <string>

#include "agent/base/result.h"

namespace weir::ctl {

struct HttpTarget {
  std::string host;
  std::string port;
};

/// "http://HOST[:PORT]", with or without the scheme; IPv6 addresses in brackets. kInvalidArgument
/// says what it should be.
Result<HttpTarget> parse_http_url(const std::string& url);

struct HttpAnswer {
  int status = 0;
  std::string body;
};

/// POSTs JSON. kUnavailable when nobody answers; the error names the target.
Result<HttpAnswer> http_post(const HttpTarget& target, const std::string& path,
                             const std::string& body, std::chrono::seconds timeout);

}  // namespace weir::ctl
