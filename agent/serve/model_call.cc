// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/model_call.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "agent/serve/admission_fields.h"

namespace weir::serve {
namespace {

std::string model_names(const model::Executor& executor) {
  std::string names;
  for (const model::ModelInfo& info : executor.models()) {
    if (!names.empty()) names += ", ";
    names += info.name;
  }
  return names.empty() ? "none" : names;
}

std::string_view routes_of(model::Task task) {
  switch (task) {
    case model::Task::kGenerate:
      return "generates text: POST /v1/completions, /infer";
    case model::Task::kEmbed:
      return "embeds texts: POST /v1/embeddings";
    case model::Task::kScore:
      return "scores documents against a query: POST /v1/rerank";
  }
  return "is for something else";
}

/// There is none for the task, or more than one.
ApiError missing_model(const std::vector<model::ModelInfo>& models, model::Task task) {
  std::string meant;
  std::string others;
  for (const model::ModelInfo& info : models) {
    if (info.task == task) {
      meant += (meant.empty() ? "" : ", ") + info.name;
    } else {
      others += "; " + info.name + " " + std::string(routes_of(info.task));
    }
  }
  return bad_request("missing_model",
                     meant.empty()
                         ? "no model is configured for this" + others
                         : "\"model\" is required, as more than one is for this: " + meant,
                     "model");
}

Outcome<std::string> suited(const Services& services, const std::string& name, model::Task task) {
  const model::Task is = services.executor.task(name);
  if (is == task) return name;
  return bad_request("wrong_task",
                     "model \"" + printable(name) + "\" " + std::string(routes_of(is)), "model");
}

}  // namespace

CallTerms read_terms(JsonFields& fields, TimePoint now) {
  CallTerms terms;
  terms.model = fields.string("model");
  if (const auto priority = fields.integer("priority", 0, schedule::kLevels - 1)) {
    terms.priority = static_cast<std::int32_t>(*priority);
  }
  if (const auto deadline = fields.integer("deadline_ms", 1, kMaxTimeoutMs)) {
    terms.deadline = now + std::chrono::milliseconds(*deadline);
  }
  return terms;
}

ApiError unknown_model(const model::Executor& executor, std::string_view name) {
  ApiError error;
  error.status = 404;
  error.code = "model_not_found";
  error.param = "model";
  error.message =
      "there is no model \"" + printable(name) + "\"; configured: " + model_names(executor);
  return error;
}

Outcome<std::string> choose_model(const Services& services, const std::optional<std::string>& asked,
                                  const Request& head, model::Task task) {
  if (asked.has_value()) {
    if (!head.model.empty() && *asked != head.model) {
      return bad_request("invalid_value",
                         "\"model\" is \"" + printable(*asked) + "\", but " +
                             std::string(kModelHeader) + " is \"" + head.model + '"',
                         "model");
    }
    if (services.executor.has_model(*asked)) return suited(services, *asked, task);
    return unknown_model(services.executor, *asked);
  }
  if (!head.model.empty()) return suited(services, head.model, task);
  const std::vector<model::ModelInfo> models = services.executor.models();
  const auto is_suited = [&](const model::ModelInfo& info) { return info.task == task; };
  const auto first = std::find_if(models.begin(), models.end(), is_suited);
  if (first != models.end() && std::find_if(first + 1, models.end(), is_suited) == models.end()) {
    return first->name;
  }
  return missing_model(models, task);
}

void apply_head(model::GenerationRequest& request, std::optional<std::int32_t> priority,
                const Request& head) {
  request.route = head.path;
  if (!head.tenant.empty()) request.tenant = head.tenant;
  request.priority = priority.value_or(head.level.value_or(schedule::kDefaultLevel));
  if (!request.deadline.has_value()) {
    request.deadline = head.deadline.has_value() ? head.deadline : head.default_deadline;
  } else if (head.deadline.has_value()) {
    request.deadline = std::min(*request.deadline, *head.deadline);
  }
  request.reservation = head.reservation;
}

std::optional<ApiError> settle_admission(const Services& services, const Request& head,
                                         const std::string& model,
                                         const model::GenerationRequest& request) {
  if (!head.reservation) return std::nullopt;
  admit::RequestNeeds needs;
  needs.model = model;
  needs.level = request.priority;
  needs.deadline = request.deadline;
  needs.prompt_bytes = request.prompt.size() + (request.embedding ? request.embedding->bytes() : 0);
  needs.tokens = estimated_tokens(request);
  if (const auto refusal = services.admission.settle(*head.reservation, needs)) {
    return from_refusal(*refusal);
  }
  return std::nullopt;
}

ApiError call_failure(const Services& services, std::optional<TimePoint> deadline,
                      const Error& error) {
  const bool late = deadline.has_value() && services.clock.now() >= *deadline;
  if (late && (error.code == Code::kCancelled || error.code == Code::kResourceExhausted)) {
    return from_refusal({model::RefusalReason::kDeadline, error.message, std::nullopt});
  }
  return from_failure(error);
}

void submit_call(const Services& services, const std::shared_ptr<Exchange>& exchange,
                 const std::string& model,
                 const std::shared_ptr<model::GenerationRequest>& request) {
  // The exchange must not own the request: the request's listener owns the exchange.
  exchange->on_abort([weak = std::weak_ptr(request)] {
    if (const auto running = weak.lock()) running->cancel();
  });
  if (const auto refusal = services.executor.submit(model, request)) {
    exchange->respond(to_response(from_refusal(*refusal)));
  }
}

}  // namespace weir::serve
