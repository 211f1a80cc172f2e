// SPDX-License-Identifier: Apache-2.0
//
// HttpSession, between the header of a request and its handler: what the header alone decides.
#include <spdlog/spdlog.h>

#include "agent/serve/admission_fields.h"
#include "agent/serve/http_session.h"
#include "agent/serve/model_call.h"
#include "agent/serve/request_rules.h"

namespace weir::serve {
namespace {

// 256 kbit/s: 8 MiB in four minutes.
constexpr std::uint64_t kLeastBodyBytesPerSecond = 32 * 1024;

/// What only those may ask that the option admin_api admits.
constexpr std::string_view kAdminPaths = "/v2/repository/";

}  // namespace

std::optional<ApiError> HttpSession::check_header() {
  request_->method = parser_->method();  // first: the answer to HEAD has no body, errors included
  const std::size_t hosts = parser_->count("host");
  if (hosts == 0 && !parser_->http_1_0()) {
    return bad_request("malformed_request", "an HTTP/1.1 request needs a Host header");
  }
  // Whoever stands before us may have gone by the other one (RFC 9112, sections 3.2 and 6.3). Of a
  // list of equal lengths nothing would be set aside.
  if (hosts > 1) return bad_request("malformed_request", "there is more than one Host header");
  const std::size_t lengths = parser_->count("content-length");
  if (lengths > 1 || (lengths == 1 && !parser_->content_length().has_value())) {
    return bad_request("malformed_request", "Content-Length must be one number");
  }
  if (parser_->unknown_encoding()) {
    ApiError error = bad_request("unsupported_transfer_encoding",
                                 "the only Transfer-Encoding is chunked, not " +
                                     printable(*parser_->field("transfer-encoding")));
    error.status = 501;
    return error;
  }
  const auto path = path_of(parser_->target());
  if (!path.has_value()) {
    return bad_request("malformed_request", "the request target is not a path");
  }
  request_->path = *path;
  const auto found = shared_.router.find(request_->method, request_->path);
  if (std::holds_alternative<Router::NoSuchPath>(found)) {
    ApiError error = bad_request("unknown_url", "there is no " + printable(request_->method) + " " +
                                                    printable(request_->path) +
                                                    "; there is: " + shared_.router.listing());
    error.status = 404;
    return error;
  }
  if (const auto* wrong = std::get_if<Router::WrongMethod>(&found)) {
    path_index_ = wrong->path_index;
    allow_ = wrong->allow;
    ApiError error =
        bad_request("method_not_allowed", printable(request_->path) + " does not take " +
                                              printable(request_->method) + "; it takes " + allow_);
    error.status = 405;
    return error;
  }
  const auto& match = std::get<Router::Match>(found);
  route_ = match.route;
  path_index_ = match.path_index;
  request_->parameter = match.parameter;
  if (request_->path.starts_with(kAdminPaths)) {
    if (auto error = check_admin()) return error;
  }
  if (request_->method == "POST") {
    if (auto error = content_type_error(*parser_)) return error;
  }
  // Health and metrics must be told however full the agent is: they have no body.
  if (request_->method == "POST" || !parser_->done()) {
    if (auto error = admit()) return error;
  }
  return check_expect();
}

std::optional<ApiError> HttpSession::check_admin() {
  const auto forbidden = [](std::string why) {
    ApiError error = bad_request("forbidden", std::move(why));
    error.status = 403;
    return error;
  };
  // A page from anywhere may have a browser on this host send requests.
  if (parser_->field("origin").has_value()) {
    return forbidden("pages of browsers may not load and unload models");
  }
  switch (shared_.options.admin_api) {
    case AdminApi::kAnyone:
      return std::nullopt;
    case AdminApi::kNobody:
      return forbidden("serve.admin_api is nobody");
    case AdminApi::kLoopback:
      break;
  }
  if (socket_.from_loopback()) return std::nullopt;
  return forbidden("only clients on the agent's host may do this (serve.admin_api)");
}

std::optional<ApiError> HttpSession::admit() {
  if (shared_.draining.load() && !shared_.handing_over.load()) {
    return from_refusal(
        {model::RefusalReason::kDraining, "the agent is shutting down", std::nullopt});
  }
  const auto outcome = read_admission_fields(*parser_, shared_.options.tenant_header);
  if (const auto* error = std::get_if<ApiError>(&outcome)) return *error;
  const auto& fields = std::get<AdmissionFields>(outcome);
  if (fields.model.has_value() && !shared_.executor.has_model(*fields.model)) {
    ApiError error = unknown_model(shared_.executor, *fields.model);
    error.param = kModelHeader;
    return error;
  }
  request_->tenant = fields.tenant.value_or(admit::kDefaultTenant);
  request_->model = fields.model.value_or("");
  request_->level = fields.level;
  const auto default_timeout = shared_.options.default_timeout;
  if (fields.timeout.has_value() || default_timeout.has_value()) {
    const TimePoint now = shared_.clock.now();
    if (fields.timeout.has_value()) request_->deadline = now + *fields.timeout;
    if (default_timeout.has_value()) request_->default_deadline = now + *default_timeout;
  }
  admit::RequestHead head;
  head.tenant = request_->tenant;
  head.model = request_->model;
  head.level = fields.level.value_or(schedule::kDefaultLevel);
  head.deadline = request_->deadline;
  head.body_bytes =
      parser_->chunked() ? shared_.options.max_body_bytes : parser_->content_length().value_or(0);
  auto admitted = shared_.admission.reserve(head);
  if (const auto* refusal = std::get_if<model::Refusal>(&admitted)) return from_refusal(*refusal);
  request_->reservation =
      std::make_shared<admit::Reservation>(std::get<admit::Reservation>(std::move(admitted)));
  return std::nullopt;
}

std::optional<ApiError> HttpSession::check_expect() {
  const auto expect = parser_->field("expect");
  if (!expect.has_value() || parser_->http_1_0()) return std::nullopt;
  if (!equal_ignoring_case(*expect, "100-continue")) {
    ApiError error = bad_request("expectation_failed", "the only Expect is 100-continue");
    error.status = 417;
    return error;
  }
  if (!parser_->done() && inbox_.empty()) {
    outbox_ += "HTTP/1.1 100 Continue\r\n\r\n";
    flush();
  }
  return std::nullopt;
}

/// Bounds how long what is missing of the body may take: until its next piece, and in all, by the
/// pace that is asked of it. Memory has been set aside, which a byte now and then must not hold for
/// ever. A bound in all that is set already stays.
void HttpSession::bound_body() {
  const std::uint64_t bytes =
      std::min(parser_->content_length().value_or(shared_.options.max_body_bytes),
               shared_.options.max_body_bytes);
  const SteadyTime now = std::chrono::steady_clock::now();
  const SteadyTime until =
      now + shared_.options.body_timeout + std::chrono::seconds(bytes / kLeastBodyBytesPerSecond);
  read_until_ = read_until_.has_value() ? std::min(*read_until_, until) : until;
  if (request_->deadline.has_value()) {
    body_deadline_ = now + (*request_->deadline - shared_.clock.now());
  }
  set_read_deadline(shared_.options.body_timeout, now);
}

/// Why a request that has come in part is read no further.
ApiError HttpSession::too_late(SteadyTime now) {
  if (body_deadline_.has_value() && now >= *body_deadline_) {
    return from_refusal(shared_.admission.refuse_late(*request_->reservation));
  }
  if (shared_.draining.load()) {
    return from_refusal({model::RefusalReason::kDraining,
                         "the agent is shutting down, and the request did not arrive in time",
                         std::nullopt});
  }
  ApiError error = bad_request("request_timeout", "the request did not arrive in time");
  error.status = 408;
  return error;
}

/// Answers a request that no handler sees.
void HttpSession::refuse(const ApiError& error) {
  state_ = State::kAnswering;
  read_deadline_.reset();
  body_deadline_.reset();
  request_->id = request_id(*parser_);
  // What follows on the connection can be told from this request's body only if that was read.
  keep_alive_ = parser_->done() && parser_->keep_alive();
  http_1_0_ = parser_->http_1_0();
  Response response = to_response(error);
  if (!allow_.empty()) response.headers.emplace_back("Allow", allow_);
  respond(serial_, std::move(response));
  wait_readable();
}

// A short request mostly comes in one piece with its body. Dropping that keeps the connection: one
// that is closed for each refusal makes a storm of connects out of a storm of requests.
void HttpSession::drop_body() {
  while (!parser_->done() && !inbox_.empty()) {
    const RequestParser::Progress progress = parser_->put(inbox_);
    inbox_.erase(0, progress.consumed);
    if (progress.status != RequestParser::Status::kNeedMore || progress.consumed == 0) return;
  }
}

void HttpSession::log_refusal(model::RefusalReason reason) {
  const std::string_view name = to_string(reason);
  spdlog::debug("request refused reason={} status={} id={} tenant={}", name, status_, request_->id,
                request_->tenant);
  if (const auto count = io_.refusal_log.note(reason, std::chrono::steady_clock::now())) {
    spdlog::info("requests refused reason={} count={} status={} path={} tenant={}", name, *count,
                 status_, printable(request_->path), request_->tenant);
  }
}

}  // namespace weir::serve
