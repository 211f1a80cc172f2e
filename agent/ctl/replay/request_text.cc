// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/request_text.h"

#include <fmt/format.h>

#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <boost/json/value.hpp>
#include <iterator>

namespace weir::replay {
namespace {

constexpr std::string_view kBeforeTokens = R"(","max_tokens":)";

std::string quoted(const std::string& text) {
  return boost::json::serialize(boost::json::value(boost::json::string(text)));
}

std::string head_of(const Options& options, const RequestClass& request_class,
                    const Tenant& tenant) {
  const std::string_view own = options.api == Api::kInfer ? "/infer" : "/v1/completions";
  std::string head = fmt::format(
      "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: {}\r\n",
      options.target.path.empty() ? own : options.target.path, options.target.authority,
      options.stream ? "text/event-stream, application/json" : "application/json");
  // Names of other servers' models may have characters that no field of an agent can have.
  if (is_plain_name(options.model)) head += fmt::format("x-weir-model: {}\r\n", options.model);
  head += fmt::format("x-weir-priority: {}\r\n", request_class.priority);
  if (request_class.deadline) {
    head += fmt::format("x-weir-timeout-ms: {}\r\n", request_class.deadline->count());
  }
  if (!tenant.name.empty()) head += fmt::format("{}: {}\r\n", options.tenant_header, tenant.name);
  for (const auto& [name, value] : options.headers) head += fmt::format("{}: {}\r\n", name, value);
  return head + "Content-Length: ";
}

std::string body_end_of(const Options& options, const RequestClass& request_class) {
  std::string end = fmt::format(R"(,"priority":{})", request_class.priority);
  if (request_class.deadline) {
    end += fmt::format(R"(,"deadline_ms":{})", request_class.deadline->count());
  }
  // Usage, because events need not be one token each.
  if (options.stream) end += R"(,"stream":true,"stream_options":{"include_usage":true})";
  return end + "}";
}

}  // namespace

RequestText::RequestText(const Options& options)
    : prompts_(options.seed, options.scale_lengths), tenants_(options.tenants.size()) {
  for (const RequestClass& each : options.classes) {
    for (const Tenant& tenant : options.tenants) heads_.push_back(head_of(options, each, tenant));
  }
  body_begin_ =
      options.model.empty() ? "{" : fmt::format(R"({{"model":{},)", quoted(options.model));
  body_begin_ += R"("prompt":")";
  for (const RequestClass& each : options.classes) body_ends_.push_back(body_end_of(options, each));
}

void RequestText::write(std::string& out, const Arrival& arrival) const {
  const fmt::format_int tokens(arrival.output_tokens);
  const std::string& end = body_ends_[arrival.request_class];
  const std::size_t prompt_bytes = std::size_t{4} * arrival.prompt_tokens;  // prompt_text.h
  const std::size_t body_bytes =
      body_begin_.size() + prompt_bytes + kBeforeTokens.size() + tokens.size() + end.size();
  out.clear();
  const std::string& head = heads_[arrival.request_class * tenants_ + arrival.tenant];
  fmt::format_to(std::back_inserter(out), "{}{}\r\n\r\n", head, body_bytes);
  out += body_begin_;
  prompts_.append(out, arrival);
  out += kBeforeTokens;
  out.append(tokens.data(), tokens.size());
  out += end;
}

}  // namespace weir::replay
