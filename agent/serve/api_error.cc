// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/api_error.h"

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

namespace weir::serve {
namespace {

using model::RefusalReason;

/// The `type` that OpenAI uses for a status.
std::string_view type_of(unsigned status) {
  switch (status) {
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

}  // namespace

ApiError bad_request(std::string code, std::string message, std::optional<std::string> param) {
  ApiError error;
  error.status = 400;
  error.code = std::move(code);
  error.message = std::move(message);
  error.param = std::move(param);
  return error;
}

std::string printable(std::string_view text) {
  std::string shown(text.substr(0, 128));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return shown;
}

ApiError from_refusal(const model::Refusal& refusal) {
  const bool not_ready =
      refusal.reason == RefusalReason::kDraining || refusal.reason == RefusalReason::kLoading;
  ApiError error;
  error.status = not_ready ? 503 : 429;
  error.message = refusal.message;
  error.code = to_string(refusal.reason);
  error.retry_after = refusal.retry_after;
  // Another node, or this one a moment later, can take it.
  if (not_ready && !error.retry_after.has_value()) error.retry_after = std::chrono::seconds(1);
  error.refusal = refusal.reason;
  return error;
}

ApiError from_failure(const Error& error) {
  ApiError answer;
  answer.message = error.message;
  switch (error.code) {
    case Code::kInvalidArgument:
      answer.status = 400;
      answer.code = "invalid_value";
      break;
    case Code::kNotFound:
      answer.status = 404;
      answer.code = "not_found";
      break;
    case Code::kUnsupported:
      answer.status = 501;
      answer.code = "unsupported";
      break;
    case Code::kResourceExhausted:
      return from_refusal({RefusalReason::kMemory, error.message, std::chrono::seconds(1)});
    case Code::kUnavailable:
      answer.status = 503;
      answer.code = "unavailable";
      answer.retry_after = std::chrono::seconds(1);
      break;
    case Code::kCancelled:
      answer.status = 503;
      answer.code = to_string(RefusalReason::kCancelled);
      answer.retry_after = std::chrono::seconds(1);
      break;
    default:
      answer.status = 500;
      answer.code = "internal_error";
      break;
  }
  return answer;
}

std::string error_json(const ApiError& error) {
  boost::json::object body;
  body["message"] = error.message;
  body["type"] = type_of(error.status);
  if (error.param.has_value()) {
    body["param"] = *error.param;
  } else {
    body["param"] = nullptr;
  }
  body["code"] = error.code;
  boost::json::object envelope;
  envelope["error"] = std::move(body);
  return boost::json::serialize(envelope);
}

Response to_response(const ApiError& error) {
  Response response;
  response.status = error.status;
  response.body = error_json(error);
  response.refusal = error.refusal;
  if (error.retry_after.has_value()) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after->count()));
  } else if (error.status == 429 || error.status == 503) {
    response.headers.emplace_back("x-should-retry", "false");
  }
  return response;
}

}  // namespace weir::serve
