// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/attempt.h"

namespace weir::upstream {

void Attempt::on_degraded(model::Degraded from) {
  if (owner_->claim(number_)) owner_->degraded(from);
}

void Attempt::on_logprobs(std::span<const model::TokenLogprob> tokens) {
  if (owner_->claim(number_)) owner_->logprobs(tokens);
}

void Attempt::on_text(std::string_view text) {
  if (owner_->claim(number_)) owner_->text(text);
}

void Attempt::on_vectors(std::span<const float> values) {
  if (owner_->claim(number_)) owner_->vectors(values);
}

void Attempt::on_complete(const model::Completion& completion) {
  owner_->completed(number_, completion);
}

void Attempt::on_error(const Error& error) { owner_->failed(number_, error); }

void Attempt::on_refused(const model::Refusal& refusal) { owner_->failed(number_, refusal); }

std::shared_ptr<model::GenerationRequest> attempt_request(
    const model::GenerationRequest& outer, std::shared_ptr<model::Listener> listener) {
  auto request = std::make_shared<model::GenerationRequest>();
  request->id = outer.id;
  request->route = outer.route;
  request->tenant = outer.tenant;
  request->prompt = outer.prompt;
  request->max_tokens = outer.max_tokens;
  request->embedding = outer.embedding;
  request->priority = outer.priority;
  request->deadline = outer.deadline;
  request->stop = outer.stop;
  request->sampling = outer.sampling;
  request->listener = std::move(listener);
  return request;
}

}  // namespace weir::upstream
