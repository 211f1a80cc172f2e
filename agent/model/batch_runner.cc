// SPDX-License-Identifier: Apache-2.0
#include "agent/model/batch_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <span>
#include <string>
#include <utility>

#include "agent/model/llama_log.h"
#include "agent/model/logprob_trail.h"
#include "agent/model/sampler.h"

namespace weir::model {

struct BatchRunner::Sequence {
  Taken taken;
  std::optional<TimePoint> first_token;
  std::uint64_t admission = 0;  ///< order of admission
  std::vector<llama_token> prompt;
  Sampler sampler;
  TextAssembler text;
  LogprobTrail logprobs;

  std::size_t decoded = 0;      ///< tokens in the KV cache; also the next position
  llama_token next = 0;         ///< sampled and not yet decoded, once the prompt is
  std::uint32_t generated = 0;  ///< tokens sampled, without the one that ends generation

  // Of the current step.
  bool rests = false;
  std::size_t in_batch = 0;               ///< tokens of this sequence
  std::optional<std::int32_t> logits_at;  ///< batch index whose logits give its next token

  [[nodiscard]] bool prefilling() const { return decoded < prompt.size(); }
  [[nodiscard]] const GenerationRequest& request() const { return *taken.request; }

  /// What the assembler has just returned.
  void tell(const std::string& piece) {
    if (piece.empty()) return;
    Listener& listener = *request().listener;
    if (request().sampling.logprobs) {
      const std::vector<TokenLogprob> tokens = logprobs.take(text.released_bytes());
      if (!tokens.empty()) listener.on_logprobs(tokens);
    }
    listener.on_text(piece);
  }
};

namespace {

// Every generating sequence waits for the whole step, and this is what is lost when it is stopped.
// Processors are busy with far fewer tokens at once, so prompts lose little by it.
constexpr std::size_t kPromptTokensAStep = 128;
// Of a short step. Fewer cost more each.
constexpr std::size_t kFewestPromptTokens = 16;
// Between two looks at the clock, which takes as long as the smallest nodes do.
constexpr std::size_t kNodesALook = 8;

llama_seq_id id_of(std::size_t slot) { return static_cast<llama_seq_id>(slot); }

// A recurrent state is overwritten as it goes; a cache forgets what came last.
bool can_go_back(const LoadedModel& model) {
  const llama_model* loaded = llama_get_model(model.context());
  return !llama_model_is_recurrent(loaded) && !llama_model_is_hybrid(loaded);
}

// A damaged file can have weights that are not numbers; sorting such logits is undefined.
bool has_nan(std::span<const float> logits) {
  return std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); });
}

}  // namespace

BatchRunner::BatchRunner(LoadedModel model, const Clock& clock, const std::atomic<bool>& stopping)
    : model_(std::move(model)),
      clock_(clock),
      stopping_(stopping),
      step_tokens_(std::min(kStepTokens, llama_n_batch(model_.context()))),
      can_go_back_(can_go_back(model_)),
      batch_(static_cast<std::int32_t>(step_tokens_)),
      slots_(llama_n_seq_max(model_.context())) {
  llama_set_abort_callback(model_.context(), &BatchRunner::should_abort, this);
}

BatchRunner::~BatchRunner() = default;

// Called by ggml between graph nodes, on the thread that is inside llama_decode(): the engine's.
bool BatchRunner::should_abort(void* self) {
  return static_cast<BatchRunner*>(self)->abort_wanted();
}

bool BatchRunner::abort_wanted() {
  if (stopping_.load(std::memory_order_relaxed)) return true;
  std::optional<TimePoint> now;
  if (++nodes_ % kNodesALook == 0 || leaver_noticed_) now = clock_.now();
  bool some = false;
  bool all = true;
  for (const Slot& slot : slots_) {
    if (!slot) continue;
    const GenerationRequest& request = slot->request();
    const bool leaves = request.cancelled.load(std::memory_order_relaxed) ||
                        (now && request.deadline && *now >= *request.deadline);
    some = some || leaves;
    all = all && (leaves || slot->in_batch == 0);
  }
  if (some && all) return true;
  if (some && !leaver_noticed_) leaver_noticed_ = now = clock_.now();
  return leaver_noticed_ && *now - *leaver_noticed_ >= kPatience && can_go_back_ &&
         lost_ == Duration::zero();
}

Result<BatchRunner::Slot> BatchRunner::make_sequence(Taken& taken) const {
  const GenerationRequest& request = *taken.request;
  if (request.max_tokens == 0) {
    return make_error(Code::kInvalidArgument, "max_tokens must be >= 1, not 0");
  }
  auto sampler = Sampler::create(request.sampling, model_.vocabulary(), taken.prompt);
  if (!sampler) {
    return std::move(sampler).error();
  }
  TextAssembler text(request.stop);
  auto prompt = std::exchange(taken.prompt, {});
  return std::make_unique<Sequence>(Sequence{.taken = std::move(taken),
                                             .first_token = std::nullopt,
                                             .admission = admissions_,
                                             .prompt = std::move(prompt),
                                             .sampler = std::move(*sampler),
                                             .text = std::move(text),
                                             .logprobs = {},
                                             .logits_at = std::nullopt});
}

void BatchRunner::admit(Taken taken, StepReport& report) {
  if (auto reason = reason_to_leave(*taken.request, clock_.now())) {
    report.ended.push_back({std::move(taken), std::move(*reason)});
    return;
  }
  auto sequence = make_sequence(taken);
  if (!sequence) {
    report.ended.push_back({std::move(taken), std::move(sequence).error()});
    return;
  }
  // The lowest free id: libllama decodes neighbouring ids together, gaps cost a pass each.
  const auto free = std::find(slots_.begin(), slots_.end(), nullptr);
  *free = std::move(*sequence);
  ++admissions_;
  ++running_;
}

void BatchRunner::fill_batch() {
  batch_.clear();
  std::vector<std::size_t> prefilling;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot]) {
      continue;
    }
    Sequence& sequence = *slots_[slot];
    sequence.in_batch = 0;
    sequence.logits_at.reset();
    if (sequence.prefilling()) {
      prefilling.push_back(slot);
      continue;
    }
    if (sequence.rests) {
      continue;
    }
    sequence.logits_at =
        batch_.add(sequence.next, static_cast<llama_pos>(sequence.decoded), id_of(slot), true);
    sequence.in_batch = 1;
  }
  // Running sequences first; then prompts in the order of their admission, that is by priority.
  std::sort(prefilling.begin(), prefilling.end(), [&](std::size_t a, std::size_t b) {
    return slots_[a]->admission < slots_[b]->admission;
  });
  const auto generating = static_cast<std::size_t>(batch_.size());
  const std::size_t most_tokens = std::min(step_tokens_, generating + prompt_tokens_a_step());
  for (const std::size_t slot : prefilling) {
    Sequence& sequence = *slots_[slot];
    while (static_cast<std::size_t>(batch_.size()) < most_tokens &&
           sequence.decoded + sequence.in_batch < sequence.prompt.size()) {
      const std::size_t position = sequence.decoded + sequence.in_batch;
      const bool last = position + 1 == sequence.prompt.size();
      const std::int32_t at = batch_.add(sequence.prompt[position],
                                         static_cast<llama_pos>(position), id_of(slot), last);
      if (last) {
        sequence.logits_at = at;
      }
      ++sequence.in_batch;
    }
  }
  prompt_tokens_ = static_cast<std::size_t>(batch_.size()) - generating;
}

std::size_t BatchRunner::prompt_tokens_a_step() const {
  if (lost_ == Duration::zero()) return kPromptTokensAStep;
  if (per_prompt_token_ <= Duration::zero()) return kFewestPromptTokens;
  return std::clamp(static_cast<std::size_t>(kShortStep / per_prompt_token_), kFewestPromptTokens,
                    kPromptTokensAStep);
}

void BatchRunner::learn(Duration took) {
  lost_ = std::max(lost_ - took, Duration::zero());
  // Where a few tokens are beside many sequences, the time is mostly not theirs.
  if (prompt_tokens_ < kFewestPromptTokens) return;
  const Duration each = took / static_cast<Duration::rep>(prompt_tokens_);
  per_prompt_token_ =
      per_prompt_token_ == Duration::zero() ? each : (3 * per_prompt_token_ + each) / 4;
}

std::optional<std::size_t> BatchRunner::newest() const {
  std::optional<std::size_t> found;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot] && (!found || slots_[slot]->admission > slots_[*found]->admission)) {
      found = slot;
    }
  }
  return found;
}

bool BatchRunner::decode(StepReport& report) {
  constexpr std::int32_t kNoSlot = 1;
  constexpr std::int32_t kAborted = 2;
  while (running_ > resting_) {
    fill_batch();
    leaver_noticed_.reset();
    nodes_ = 0;
    const TimePoint started = clock_.now();
    const LlamaErrors errors;
    std::int32_t status = 0;
    std::string reason;
    try {
      status = llama_decode(model_.context(), batch_.get());
      reason = errors.reason(fmt::format("llama_decode returned {}", status));
    } catch (const std::exception& failure) {  // std::bad_alloc
      status = -2;
      reason = failure.what();
    }
    if (status == 0) {
      ++report.decode_steps;
      learn(clock_.now() - started);
      return true;
    }
    if (status == kNoSlot) {
      // Cannot happen while every sequence has its cells reserved. If it does all the same, only
      // the newest pays, and the others decode again: libllama restored their state.
      end(*newest(), make_error(Code::kResourceExhausted, "no KV cache left for this request"),
          report);
      continue;
    }
    if (status == kAborted) {
      if (stopping_.load(std::memory_order_relaxed)) return false;  // the engine ends the rest
      ++report.decode_aborts;
      let_go(report);
      // The others decode again in the next step: who left hears so, and is replaced, before.
      if (running_ > resting_) lost_ += clock_.now() - started;
      if (restore()) return false;
      reason = "the decode was aborted, and the model cannot go back";
    }
    fail_all(make_error(Code::kInternal, reason), report);
    llama_memory_clear(model_.memory(), true);
  }
  return false;
}

bool BatchRunner::restore() {
  // Of the parts that libllama made of the batch, those that were done have stayed in the cache.
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot]) continue;
    const auto next = static_cast<llama_pos>(slots_[slot]->decoded);
    if (llama_memory_seq_pos_max(model_.memory(), id_of(slot)) >= next &&
        !llama_memory_seq_rm(model_.memory(), id_of(slot), next, -1)) {
      return false;
    }
  }
  return true;
}

void BatchRunner::let_go(StepReport& report) {
  const TimePoint now = clock_.now();
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot]) {
      if (auto reason = reason_to_leave(slots_[slot]->request(), now)) {
        end(slot, std::move(*reason), report);
      }
    }
  }
}

void BatchRunner::step(StepReport& report) {
  resting_ = 0;
  for (const Slot& slot : slots_) {
    if (!slot) continue;
    slot->rests = !slot->prefilling() && !slot->request().listener->wants_more();
    resting_ += slot->rests ? 1U : 0U;
  }
  if (!decode(report)) {
    return;
  }
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot]) {
      continue;
    }
    Sequence& sequence = *slots_[slot];
    if (sequence.prefilling()) {
      report.prompt_tokens += sequence.in_batch;
    }
    sequence.decoded += sequence.in_batch;
    if (sequence.logits_at) {
      take_token(slot, report);
    }
  }
}

void BatchRunner::take_token(std::size_t slot, StepReport& report) {
  Sequence& sequence = *slots_[slot];
  const llama_model* model = llama_get_model(model_.context());
  const auto vocabulary_size =
      static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  const float* logits = llama_get_logits_ith(model_.context(), *sequence.logits_at);
  if (logits == nullptr || has_nan({logits, vocabulary_size})) {
    end(slot,
        make_error(Code::kInternal, "the model's output is not a number; is its file damaged?"),
        report);
    return;
  }
  auto choice = sequence.sampler.choose({logits, vocabulary_size});
  if (!choice) {
    end(slot, std::move(choice).error(), report);
    return;
  }
  if (!sequence.first_token) {
    sequence.first_token = clock_.now();
  }
  if (!choice->token || model_.vocabulary().ends_generation(*choice->token)) {
    complete(slot, FinishReason::kStop, report);
    return;
  }
  const llama_token token = *choice->token;
  if (choice->logprob) sequence.logprobs.push(std::move(*choice->logprob));
  sequence.next = token;
  ++sequence.generated;
  ++report.completion_tokens;
  sequence.tell(sequence.text.push(model_.vocabulary().piece(token)));
  if (sequence.text.stopped()) {
    complete(slot, FinishReason::kStop, report);
  } else if (sequence.generated >= sequence.request().max_tokens ||
             sequence.decoded >= model_.context_tokens()) {
    complete(slot, FinishReason::kLength, report);
  }
}

void BatchRunner::complete(std::size_t slot, FinishReason reason, StepReport& report) {
  Sequence& sequence = *slots_[slot];
  sequence.tell(sequence.text.finish());
  const TimePoint now = clock_.now();
  Completion completion;
  completion.reason = reason;
  completion.usage.prompt_tokens = static_cast<std::uint32_t>(sequence.prompt.size());
  completion.usage.completion_tokens = sequence.generated;
  const TimePoint accepted = sequence.taken.accepted;
  completion.queued = sequence.taken.taken - accepted;
  completion.first_token = sequence.first_token.value_or(now) - accepted;
  completion.total = now - accepted;
  end(slot, completion, report);
}

void BatchRunner::end(std::size_t slot, std::variant<Completion, Error> result,
                      StepReport& report) {
  // Removing a whole sequence never fails.
  llama_memory_seq_rm(model_.memory(), id_of(slot), -1, -1);
  Sequence& sequence = *slots_[slot];
  const std::uint64_t tokens =
      std::min(sequence.decoded, sequence.prompt.size()) + sequence.generated;
  report.ended.push_back({std::move(sequence.taken), std::move(result), tokens});
  resting_ -= sequence.rests ? 1U : 0U;
  slots_[slot].reset();
  --running_;
}

void BatchRunner::fail_all(const Error& error, StepReport& report) {
  const TimePoint now = clock_.now();
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot]) {
      auto own_reason = reason_to_leave(slots_[slot]->request(), now);
      end(slot, own_reason ? std::move(*own_reason) : error, report);
    }
  }
}

}  // namespace weir::model
