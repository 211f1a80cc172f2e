// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/serve/body_parser.h"
#include "agent/serve/embeddings_json.h"
#include "agent/serve/handlers.h"
#include "agent/serve/model_call.h"

namespace weir::serve {
namespace {

/// Makes the answer of what the model has computed.
using Format =
    std::function<Outcome<std::string>(std::span<const float> values, const model::Usage& usage)>;

class VectorsListener final : public model::Listener,
                              public std::enable_shared_from_this<VectorsListener> {
 public:
  VectorsListener(const Services& services, std::shared_ptr<Exchange> exchange,
                  const model::GenerationRequest& request, Format format)
      : services_(services),
        exchange_(std::move(exchange)),
        deadline_(request.deadline),
        scores_(request.embedding->query.has_value()),
        format_(std::move(format)) {}

  void on_text(std::string_view /*text*/) override {}
  void on_vectors(std::span<const float> values) override {
    values_.assign(values.begin(), values.end());
  }

  void on_complete(const model::Completion& completion) override {
    exchange_->post([self = shared_from_this(), usage = completion.usage] { self->answer(usage); });
  }

  void on_error(const Error& error) override {
    exchange_->post(schedule::Task::boxed([self = shared_from_this(), error] {
      ApiError answer = call_failure(self->services_, self->deadline_, error);
      if (error.code == Code::kInvalidArgument) {
        answer.param = self->scores_ ? "documents" : "input";
      }
      self->exchange_->respond(to_response(answer));
    }));
  }

  void on_refused(const model::Refusal& refusal) override {
    exchange_->post(schedule::Task::boxed([self = shared_from_this(), refusal] {
      self->exchange_->respond(to_response(from_refusal(refusal)));
    }));
  }

 private:
  /// I/O thread.
  void answer(const model::Usage& usage) const {
    Outcome<std::string> body = format_(values_, usage);
    if (const auto* error = std::get_if<ApiError>(&body)) {
      return exchange_->respond(to_response(*error));
    }
    Response response;
    response.body = std::get<std::string>(std::move(body));
    exchange_->respond(std::move(response));
  }

  // Constant.
  const Services services_;  // used on the I/O thread only: only there is the server known to live
  const std::shared_ptr<Exchange> exchange_;
  const std::optional<TimePoint> deadline_;
  const bool scores_;
  const Format format_;
  // Written by the engine's thread before it posts the end, read by what that posts.
  std::vector<float> values_;
};

/// `result` makes the body, of the model's name, the call's format, values and usage.
template <typename CallFormat, typename Result>
void start(const Services& services, const std::shared_ptr<Exchange>& exchange, model::Task task,
           const Outcome<EmbeddingCall<CallFormat>>& outcome, Result result) {
  if (const auto* error = std::get_if<ApiError>(&outcome)) {
    return exchange->respond(to_response(*error));
  }
  const auto& call = std::get<EmbeddingCall<CallFormat>>(outcome);
  const auto model = choose_model(services, call.terms.model, exchange->request(), task);
  if (const auto* error = std::get_if<ApiError>(&model)) {
    return exchange->respond(to_response(*error));
  }
  const auto& name = std::get<std::string>(model);
  if (services.server.draining()) {
    return exchange->respond(to_response(from_refusal(
        {model::RefusalReason::kDraining, "the agent is shutting down", std::nullopt})));
  }
  const std::shared_ptr<model::GenerationRequest>& request = call.request;
  apply_head(*request, call.terms.priority, exchange->request());
  if (const auto error = settle_admission(services, exchange->request(), name, *request)) {
    return exchange->respond(to_response(*error));
  }
  request->listener = std::make_shared<VectorsListener>(
      services, exchange, *request,
      [name, format = call.format, result](std::span<const float> values, const model::Usage& usage)
          -> Outcome<std::string> { return result(name, format, values, usage); });
  submit_call(services, exchange, name, request);
}

void embed(const Services& services, const std::shared_ptr<Exchange>& exchange) {
  parse_body(services, exchange, [services, exchange](std::string_view body, TimePoint now) {
    return [services, exchange, call = parse_embeddings(body, now)] {
      const auto* const parsed = std::get_if<EmbeddingsCall>(&call);
      const std::size_t texts = parsed == nullptr ? 0 : parsed->request->embedding->texts.size();
      start(services, exchange, model::Task::kEmbed, call,
            [texts](const std::string& name, const EmbeddingsFormat& format,
                    std::span<const float> values, const model::Usage& usage) {
              return embeddings_result(name, format, values, texts, usage);
            });
    };
  });
}

void rerank(const Services& services, const std::shared_ptr<Exchange>& exchange) {
  parse_body(services, exchange, [services, exchange](std::string_view body, TimePoint now) {
    return [services, exchange, call = parse_rerank(body, now)] {
      start(services, exchange, model::Task::kScore, call, rerank_result);
    };
  });
}

}  // namespace

void add_embeddings(Router& router, const Services& services) {
  router.add("POST", "/v1/embeddings",
             [services](const std::shared_ptr<Exchange>& exchange) { embed(services, exchange); });
  router.add("POST", "/v1/rerank",
             [services](const std::shared_ptr<Exchange>& exchange) { rerank(services, exchange); });
}

}  // namespace weir::serve
