// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/generation_call.h"

#include <atomic>
#include <cstddef>
#include <ctime>
#include <span>
#include <utility>
#include <vector>

#include "agent/serve/model_call.h"

namespace weir::serve {
namespace {

using model::Completion;
using model::GenerationRequest;

/// The parser checked everything but what depends on the model: the tokens that biases name,
/// whether a grammar can be followed with its vocabulary, and the prompt. Messages begin with what
/// is at fault, unless it is the prompt.
std::string param_of(std::string_view message) {
  for (const std::string_view name : {"logit_bias", "grammar"}) {
    if (message.starts_with(name)) return std::string(name);
  }
  return "prompt";
}

/// What both listeners have. Fields are constant, but for those that say otherwise.
struct Generation {
  Services services;  // used on the I/O thread only: only there is the server known to live
  std::shared_ptr<Exchange> exchange;
  GenerationNames names;
  std::optional<TimePoint> deadline;
  std::weak_ptr<GenerationRequest> request;  // which owns the listener

  /// What posts the end takes this along, so that the request is freed by the thread that made it:
  /// the allocator gives a thread quickly only what that thread itself has freed.
  [[nodiscard]] std::shared_ptr<GenerationRequest> take_home() const { return request.lock(); }

  /// I/O thread.
  [[nodiscard]] ApiError failure(const Error& error) const {
    ApiError answer = call_failure(services, deadline, error);
    if (error.code == Code::kInvalidArgument) answer.param = param_of(error.message);
    return answer;
  }
};

void mark_degraded(Response& response, std::optional<model::Degraded> from) {
  if (from.has_value()) response.headers.emplace_back("X-Weir-Degraded", to_string(*from));
}

/// Collects the text and answers in one piece.
class WholeListener final : public model::Listener,
                            public std::enable_shared_from_this<WholeListener> {
 public:
  WholeListener(Generation generation, FormatResult format, bool wants_logprobs)
      : generation_(std::move(generation)), format_(format) {
    if (wants_logprobs) text_.logprobs.emplace();
  }

  void on_degraded(model::Degraded from) override {
    degraded_ = from;
    text_.logprobs.reset();  // no model, no probabilities
  }
  void on_logprobs(std::span<const model::TokenLogprob> tokens) override {
    text_.logprobs->insert(text_.logprobs->end(), tokens.begin(), tokens.end());
  }
  void on_text(std::string_view text) override { text_.text += text; }

  void on_complete(const Completion& completion) override {
    completion_ = completion;
    generation_.exchange->post(
        [self = shared_from_this(), request = generation_.take_home()] { self->answer(); });
  }

  void on_error(const Error& error) override {
    generation_.exchange->post(schedule::Task::boxed([self = shared_from_this(), error] {
      self->generation_.exchange->respond(to_response(self->generation_.failure(error)));
    }));
  }

  void on_refused(const model::Refusal& refusal) override {
    generation_.exchange->post(schedule::Task::boxed([self = shared_from_this(), refusal] {
      self->generation_.exchange->respond(to_response(from_refusal(refusal)));
    }));
  }

 private:
  /// I/O thread.
  void answer() const {
    Response response;
    mark_degraded(response, degraded_);
    response.body = format_(generation_.names, text_, completion_);
    generation_.exchange->respond(std::move(response));
  }

  const Generation generation_;
  const FormatResult format_;
  // Written by the engine's thread before it posts the end, read by what that posts.
  GeneratedText text_;
  std::optional<model::Degraded> degraded_;
  Completion completion_;
};

/// Passes each piece on as an event. The status line waits for the first one, so that a failure
/// before it is still an ordinary error.
class StreamListener final : public model::Listener,
                             public std::enable_shared_from_this<StreamListener> {
 public:
  explicit StreamListener(Generation generation) : generation_(std::move(generation)) {}

  void on_degraded(model::Degraded from) override { degraded_ = from; }

  void on_logprobs(std::span<const model::TokenLogprob> tokens) override {
    logprobs_.emplace(tokens.begin(), tokens.end());
  }

  void on_text(std::string_view text) override {
    posted_bytes_.fetch_add(text.size(), std::memory_order_relaxed);
    generation_.exchange->post(schedule::Task::boxed(
        [self = shared_from_this(),
         piece = GeneratedText{std::string(text), std::exchange(logprobs_, std::nullopt)}] {
          self->begin();
          self->generation_.exchange->write(
              text_event(self->generation_.names, piece, self->text_offset_));
          self->posted_bytes_.fetch_sub(piece.text.size(), std::memory_order_relaxed);
        }));
  }

  bool wants_more() const override {
    return generation_.exchange->wants_more(posted_bytes_.load(std::memory_order_relaxed));
  }

  void on_complete(const Completion& completion) override {
    completion_ = completion;
    generation_.exchange->post([self = shared_from_this(), request = generation_.take_home()] {
      self->begin();
      self->generation_.exchange->write(closing_events(self->generation_.names, self->completion_));
      self->generation_.exchange->end_stream(true);
    });
  }

  void on_error(const Error& error) override {
    generation_.exchange->post(schedule::Task::boxed(
        [self = shared_from_this(), error] { self->fail(self->generation_.failure(error)); }));
  }

  void on_refused(const model::Refusal& refusal) override {
    generation_.exchange->post(schedule::Task::boxed(
        [self = shared_from_this(), refusal] { self->fail(from_refusal(refusal)); }));
  }

 private:
  void fail(const ApiError& failure) {
    if (!begun_) {
      generation_.exchange->respond(to_response(failure));
      return;
    }
    generation_.exchange->write(error_event(failure));
    generation_.exchange->end_stream(false);
  }

  void begin() {
    if (begun_) return;
    begun_ = true;
    Response head;
    head.content_type = "text/event-stream";
    head.headers.emplace_back("Cache-Control", "no-cache");
    mark_degraded(head, degraded_);
    generation_.exchange->begin_stream(std::move(head));
  }

  const Generation generation_;
  // I/O thread.
  bool begun_ = false;
  std::size_t text_offset_ = 0;  ///< characters of the tokens written
  // Engine's thread.
  std::optional<std::vector<model::TokenLogprob>> logprobs_;  ///< for the next piece
  // Written by the engine's thread before its first post(), read by what that posts.
  std::optional<model::Degraded> degraded_;
  // Likewise, before it posts the end.
  Completion completion_;
  std::atomic<std::size_t> posted_bytes_{0};  ///< and not written yet
};

}  // namespace

void start_generation(const Services& services, const std::shared_ptr<Exchange>& exchange,
                      Outcome<GenerationCall> outcome, FormatResult format) {
  if (const auto* error = std::get_if<ApiError>(&outcome)) {
    return exchange->respond(to_response(*error));
  }
  const auto& call = std::get<GenerationCall>(outcome);
  const auto model =
      choose_model(services, call.model, exchange->request(), model::Task::kGenerate);
  if (const auto* error = std::get_if<ApiError>(&model)) {
    return exchange->respond(to_response(*error));
  }
  if (services.server.draining()) {
    return exchange->respond(to_response(from_refusal(
        {model::RefusalReason::kDraining, "the agent is shutting down", std::nullopt})));
  }

  const std::shared_ptr<GenerationRequest>& request = call.request;
  apply_head(*request, call.priority, exchange->request());
  if (const auto error =
          settle_admission(services, exchange->request(), std::get<std::string>(model), *request)) {
    return exchange->respond(to_response(*error));
  }
  Generation generation{services, exchange,
                        GenerationNames{.id = request->id,
                                        .model = std::get<std::string>(model),
                                        .created_unix_seconds = std::time(nullptr),
                                        .include_usage = call.include_usage},
                        request->deadline, request};
  if (call.stream) {
    request->listener = std::make_shared<StreamListener>(std::move(generation));
  } else {
    request->listener = std::make_shared<WholeListener>(std::move(generation), format,
                                                        request->sampling.logprobs.has_value());
  }
  submit_call(services, exchange, std::get<std::string>(model), request);
}

}  // namespace weir::serve
