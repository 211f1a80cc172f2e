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
#include "agent/model/prefix_sharing.h"

namespace weir::model {

namespace {

// A pass of the few tokens by which chunks differ takes that much longer by the token than theirs.
constexpr std::size_t kPassesForFiller = 2;

llama_seq_id id_of(std::size_t slot) { return static_cast<llama_seq_id>(slot); }

// A damaged file can have weights that are not numbers; sorting such logits is undefined.
bool has_nan(std::span<const float> logits) {
  return std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); });
}

}  // namespace

BatchRunner::BatchRunner(LoadedModel model, const Clock& clock, const std::atomic<bool>& stopping,
                         const RunnerOptions& options, Waiting waiting)
    : model_(std::move(model)),
      clock_(clock),
      stopping_(stopping),
      step_tokens_(std::min(kStepTokens, llama_n_batch(model_.context()))),
      kv_(model_.context(), options.prefix_reuse),
      batch_(static_cast<std::int32_t>(step_tokens_)),
      table_(kv_, options.park_bytes, counts_),
      abort_(table_, kv_.goes_back(), clock, stopping, std::move(waiting)),
      sliced_(model_.prefill(), table_, kv_, clock, stopping, options.meanwhile, counts_) {
  llama_set_abort_callback(model_.context(), &StepAbort::should_abort, &abort_);
  // What was guessed wrong must be forgotten again.
  if (options.max_draft_tokens && kv_.goes_back()) {
    speculation_.emplace(*options.max_draft_tokens, kv_.pooled());
  }
}

BatchRunner::~BatchRunner() = default;

void BatchRunner::admit(Taken taken, StepReport& report) {
  if (auto reason = reason_to_leave(*taken.request, clock_.now())) {
    report.ended.push_back({std::move(taken), std::move(*reason)});
    return;
  }
  auto sequence = Sequence::create(taken, model_.vocabulary(), admissions_);
  if (!sequence) {
    report.ended.push_back({std::move(taken), std::move(sequence).error()});
    return;
  }
  ++admissions_;
  table_.admit(std::move(*sequence));
}

StepPlan BatchRunner::make_plan() {
  const TimePoint now = clock_.now();
  std::vector<PlanItem> items;
  const std::span<const Slot> slots = table_.slots();
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (!slots[slot] || slots[slot]->rests) continue;
    const Sequence& sequence = *slots[slot];
    const bool held = share_prefix(slots, slot, kv_, counts_);
    items.push_back({.slot = slot,
                     .urgency = sequence.urgency,
                     .position = sequence.decoded,
                     .left = sequence.left(),
                     .begun = sequence.computed > sequence.cached,
                     .generates = sequence.generates(),
                     .held = held,
                     .due = sequence.paused_since && now - *sequence.paused_since >= kLongestPause,
                     .sliced = sliced_.computes(sequence),
                     .in_chunks = sequence.in_chunks});
  }
  StepPlan plan = plan_step(
      items, cost_,
      {.tokens = step_tokens_, .hurry = abort_.hurry(), .longest_sliced = sliced_.longest()});
  sliced_.follow(plan);
  for (const StepPlan::Part& part : plan.parts) slots[part.slot]->paused_since.reset();
  for (const std::size_t slot : plan.pausing) {
    if (slots[slot]->paused_since) continue;
    slots[slot]->paused_since = now;
    ++counts_.pauses;
  }
  return plan;
}

StepPlan BatchRunner::make_room_for_plan() {
  while (true) {
    StepPlan plan = make_plan();
    const std::size_t wanted = plan.shape.decode_tokens + plan.shape.prompt_tokens;
    if (!kv_.pooled() || kv_.make_room(wanted)) return plan;
    // Less for the prompts, if that is all: they cannot all be as far as they would like to be.
    const bool alone = table_.active() == 1;
    if (alone || plan.shape.decode_tokens + plan.parts.size() <= kv_.cells().free()) {
      std::size_t free = kv_.cells().free() - plan.shape.decode_tokens;
      StepPlan less = plan;
      less.parts.clear();
      for (StepPlan::Part part : plan.parts) {
        if (!part.generates) {
          part.tokens = std::min(part.tokens, free);
          free -= part.tokens;
        }
        if (part.tokens > 0) less.parts.push_back(part);
      }
      less.shape.prompt_tokens = kv_.cells().free() - plan.shape.decode_tokens - free;
      if (!less.parts.empty()) return less;
    }
    table_.park_least();
  }
}

void BatchRunner::add_drafts(StepPlan& plan) {
  with_drafts_.reset();
  for (const Slot& slot : table_.slots()) {
    if (slot) slot->drafts.clear();
  }
  if (!speculation_) return;
  // Guesses make a step longer: not where somebody else waits for its end.
  if (plan.shape.prompt_tokens > 0 || abort_.hurry() ||
      !speculation_->considers(plan.parts.size())) {
    speculation_->no_choice();
    return;
  }
  std::vector<Speculation::Candidate> candidates;
  for (const StepPlan::Part& part : plan.parts) {
    Sequence& sequence = table_.at(part.slot);
    speculation_->follow(sequence.drafting, sequence.tokens, sequence.prompt_tokens);
    std::size_t most = std::min<std::size_t>(sequence.request().max_tokens - sequence.generated,
                                             model_.context_tokens() - sequence.decoded);
    if (kv_.pooled()) most = std::min(most, kv_.cells().free() / plan.parts.size());
    candidates.push_back({.drafting = &sequence.drafting, .most = most - 1});
  }
  with_drafts_ = speculation_->choose(candidates);
  if (!with_drafts_) return;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].drafts == 0) continue;
    Sequence& sequence = table_.at(plan.parts[i].slot);
    sequence.drafts = sequence.drafting.ngrams.draft(sequence.tokens, candidates[i].drafts);
    plan.parts[i].tokens += sequence.drafts.size();
  }
}

void BatchRunner::even_out(StepPlan& plan) {
  for (const Slot& slot : table_.slots()) {
    if (slot) slot->filler = 0;
  }
  if (kv_.pooled() || !kv_.goes_back() || plan.shape.prompt_chunks < 2) return;
  std::vector<StepPlan::Part*> chunks;
  for (StepPlan::Part& part : plan.parts) {
    if (!part.generates) chunks.push_back(&part);
  }
  std::sort(chunks.begin(), chunks.end(),
            [](const StepPlan::Part* a, const StepPlan::Part* b) { return a->tokens > b->tokens; });
  const std::size_t most = cost_.chunk_worth(kPassesForFiller + 1).value_or(0);
  std::size_t room = step_tokens_ - plan.shape.decode_tokens - plan.shape.prompt_tokens;
  std::size_t length = 0;
  plan.shape.prompt_chunks = 0;
  for (StepPlan::Part* part : chunks) {
    Sequence& sequence = table_.at(part->slot);
    const std::size_t more = length - std::min(length, part->tokens);
    if (length == 0 || more > std::min(most, room) ||
        sequence.decoded + length > model_.context_tokens()) {
      length = part->tokens;
      ++plan.shape.prompt_chunks;
      continue;
    }
    room -= more;
    plan.shape.prompt_tokens += more;
    const std::size_t meant = std::min(more, sequence.left() - part->tokens);
    part->tokens += meant;
    sequence.filler = more - meant;
  }
}

void BatchRunner::fill_batch(const StepPlan& plan) {
  batch_.clear();
  shape_ = plan.shape;
  for (const Slot& slot : table_.slots()) {
    if (!slot) continue;
    slot->in_batch = 0;
    slot->logits_at.reset();
  }
  for (const auto& [slot, tokens, generates] : plan.parts) {
    Sequence& sequence = table_.at(slot);
    sequence.in_batch = tokens;
    for (std::size_t i = 0; i < tokens; ++i) {
      const std::size_t position = sequence.decoded + i;
      const std::size_t known = sequence.tokens.size();
      const llama_token token =
          position < known ? sequence.tokens[position] : sequence.drafts[position - known];
      const std::int32_t at =
          batch_.add(token, static_cast<llama_pos>(position), id_of(slot), position + 1 >= known);
      if (position + 1 == known) sequence.logits_at = at;
    }
    for (std::size_t i = 0; i < sequence.filler; ++i) {
      batch_.add(sequence.tokens.front(), static_cast<llama_pos>(sequence.decoded + tokens + i),
                 id_of(slot), false);
    }
  }
}

bool BatchRunner::decode(StepReport& report) {
  constexpr std::int32_t kNoSlot = 1;
  constexpr std::int32_t kAborted = 2;
  while (running() > resting()) {
    table_.resume_parked();
    StepPlan plan = make_room_for_plan();
    if (plan.parts.empty()) return false;  // all that could go on rest
    // libllama decodes ids together that follow one another in the batch, without a gap.
    std::sort(plan.parts.begin(), plan.parts.end(),
              [](const StepPlan::Part& a, const StepPlan::Part& b) { return a.slot < b.slot; });
    add_drafts(plan);
    even_out(plan);
    fill_batch(plan);
    abort_.begin(shape_, with_drafts_.value_or(cost_.step(shape_)));
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
      const Duration took = abort_.took();
      abort_.made_good(took);
      if (speculation_) speculation_->computed(took);
      if (!with_drafts_) cost_.learn(shape_, took);
      return true;
    }
    if (status == kNoSlot && with_drafts_) {
      speculation_.reset();  // cells are shorter than our books say: none for guesses any more
      continue;
    }
    if (status == kNoSlot && table_.active() > 1) {
      // Our books are more hopeful than libllama, which restored its state: the others go on.
      table_.park_least();
      table_.look_who_rests();
      continue;
    }
    if (status == kAborted) {
      if (stopping_.load(std::memory_order_relaxed)) return false;  // the engine ends the rest
      ++report.decode_aborts;
      counts_.preemptions += abort_.preempted() ? 1U : 0U;
      const bool restored = restore(report);
      let_go(report);
      // The others decode again in the next step: who left hears so, and is replaced, before.
      if (running() > resting()) abort_.lost(abort_.took());
      if (restored) return false;
      reason = "the decode was aborted, and the model cannot go back";
    }
    fail_all(make_error(Code::kInternal, reason), report);
    kv_.clear();
  }
  return false;
}

bool BatchRunner::restore(StepReport& report) {
  // Of the parts that libllama made of the batch, those that were done have stayed in the cache.
  // Their logits are lost: what shall be sampled is decoded again.
  for (std::size_t slot = 0; slot < table_.slots().size(); ++slot) {
    if (!table_.slots()[slot]) continue;
    Sequence& sequence = table_.at(slot);
    const std::size_t length = std::max(kv_.length(slot), sequence.decoded);
    const std::size_t most = sequence.left() - (sequence.logits_at ? 1 : 0);
    const std::size_t done = std::min({length - sequence.decoded, sequence.in_batch, most});
    if (!kv_.goes_back()) {
      if (sequence.in_batch > 0) return false;
      continue;
    }
    if (!kv_.cut(slot, sequence.decoded + done)) return false;
    if (done > 0) advance(sequence, slot, done, report);
    sequence.in_batch = 0;
    sequence.logits_at.reset();
    sequence.drafts.clear();
  }
  return true;
}

void BatchRunner::let_go(StepReport& report) {
  const TimePoint now = clock_.now();
  end_where([now](const Sequence& sequence) { return reason_to_leave(sequence.request(), now); },
            report);
}

void BatchRunner::end_where(const ReasonToEnd& reason_for, StepReport& report) {
  for (std::size_t slot = 0; slot < table_.slots().size(); ++slot) {
    if (!table_.slots()[slot]) continue;
    if (auto reason = reason_for(table_.at(slot))) end(slot, std::move(*reason), report);
  }
  std::vector<std::pair<Urgency, Error>> leave;
  for (const auto& [urgency, parked] : table_.parked().places()) {
    if (auto reason = reason_for(*parked.value)) leave.emplace_back(urgency, std::move(*reason));
  }
  for (auto& [urgency, reason] : leave) {
    hand_back(*table_.remove_parked(urgency), std::move(reason), report);
  }
}

void BatchRunner::advance(Sequence& sequence, std::size_t slot, std::size_t tokens,
                          StepReport& report) {
  kv_.decoded(slot, std::span(sequence.tokens).subspan(sequence.decoded, tokens));
  sequence.decoded += tokens;
  const std::size_t before = sequence.computed;
  sequence.computed = std::max(before, sequence.decoded);
  report.prompt_tokens += std::min(sequence.computed, sequence.prompt_tokens) -
                          std::min(before, sequence.prompt_tokens);
  counts_.recomputed_tokens += tokens - (sequence.computed - before);
}

void BatchRunner::step(StepReport& report) {
  table_.look_who_rests();
  if (sliced_.due()) {
    report.prompt_tokens += sliced_.run();
    return;
  }
  if (!decode(report)) return;
  for (std::size_t slot = 0; slot < table_.slots().size(); ++slot) {
    if (!table_.slots()[slot]) continue;
    Sequence& sequence = table_.at(slot);
    advance(sequence, slot, sequence.in_batch - sequence.drafts.size(), report);
    sequence.in_batch = 0;
    if (sequence.filler > 0 && !kv_.cut(slot, sequence.decoded)) {
      end(slot, make_error(Code::kInternal, "the model cannot go back"), report);
      continue;
    }
    if (sequence.logits_at) take_tokens(slot, report);
  }
}

void BatchRunner::take_tokens(std::size_t slot, StepReport& report) {
  Sequence& sequence = table_.at(slot);
  const std::int32_t first = *sequence.logits_at;
  const std::size_t drafts = sequence.drafts.size();
  sequence.logits_at.reset();
  counts_.draft_tokens += drafts;
  std::size_t right = 0;
  while (take_token(slot, first + static_cast<std::int32_t>(right), report)) {
    if (right < drafts && sequence.tokens.back() == sequence.drafts[right]) {
      advance(sequence, slot, 1, report);
      ++right;
      ++counts_.draft_hits;
      continue;
    }
    if (drafts > 0) {
      sequence.drafts.clear();
      if (!kv_.cut(slot, sequence.decoded)) {
        // Against what goes_back() says. All of it can always go.
        (void)kv_.cut(slot, 0);
        sequence.decoded = 0;
        speculation_.reset();
      }
    }
    if (speculation_) speculation_->brought(sequence.drafting, right + 1);
    return;
  }
}

bool BatchRunner::take_token(std::size_t slot, std::int32_t logits_at, StepReport& report) {
  Sequence& sequence = table_.at(slot);
  const llama_model* model = llama_get_model(model_.context());
  const auto vocabulary_size =
      static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  const float* logits = llama_get_logits_ith(model_.context(), logits_at);
  if (logits == nullptr || has_nan({logits, vocabulary_size})) {
    end(slot,
        make_error(Code::kInternal, "the model's output is not a number; is its file damaged?"),
        report);
    return false;
  }
  auto choice = sequence.sampler.choose({logits, vocabulary_size});
  if (!choice) {
    end(slot, std::move(choice).error(), report);
    return false;
  }
  if (!sequence.first_token) {
    sequence.first_token = clock_.now();
  }
  if (!choice->token || model_.vocabulary().ends_generation(*choice->token)) {
    complete(slot, FinishReason::kStop, report);
    return false;
  }
  const llama_token token = *choice->token;
  if (choice->logprob) sequence.logprobs.push(std::move(*choice->logprob));
  sequence.tokens.push_back(token);
  ++sequence.generated;
  ++report.completion_tokens;
  sequence.tell(sequence.text.push(model_.vocabulary().piece(token)));
  if (sequence.text.stopped()) {
    complete(slot, FinishReason::kStop, report);
    return false;
  }
  if (sequence.generated >= sequence.request().max_tokens ||
      sequence.decoded >= model_.context_tokens()) {
    complete(slot, FinishReason::kLength, report);
    return false;
  }
  return true;
}

void BatchRunner::complete(std::size_t slot, FinishReason reason, StepReport& report) {
  Sequence& sequence = table_.at(slot);
  sequence.tell(sequence.text.finish());
  const TimePoint now = clock_.now();
  Completion completion;
  completion.reason = reason;
  completion.usage.prompt_tokens = static_cast<std::uint32_t>(sequence.prompt_tokens);
  completion.usage.completion_tokens = sequence.generated;
  completion.usage.cached_tokens = static_cast<std::uint32_t>(sequence.cached);
  const TimePoint accepted = sequence.taken.accepted;
  completion.queued = sequence.taken.taken - accepted;
  completion.first_token = sequence.first_token.value_or(now) - accepted;
  completion.total = now - accepted;
  end(slot, completion, report);
}

void BatchRunner::end(std::size_t slot, std::variant<Completion, Error> result,
                      StepReport& report) {
  const Sequence& sequence = table_.at(slot);
  bool keep_cells = std::holds_alternative<Completion>(result);
  // Guesses that did not come true are among the cells.
  if (keep_cells && !sequence.drafts.empty()) keep_cells = kv_.cut(slot, sequence.decoded);
  hand_back(*table_.remove(slot, keep_cells), std::move(result), report);
}

void BatchRunner::hand_back(Sequence& sequence, std::variant<Completion, Error> result,
                            StepReport& report) {
  const std::uint64_t tokens =
      std::min(sequence.computed, sequence.prompt_tokens) + sequence.generated;
  report.ended.push_back({std::move(sequence.taken), std::move(result), tokens});
}

void BatchRunner::fail_all(const Error& error, StepReport& report) {
  const TimePoint now = clock_.now();
  end_where(
      [&](const Sequence& sequence) {
        return std::optional(reason_to_leave(sequence.request(), now).value_or(error));
      },
      report);
}

EngineReading BatchRunner::reading() const {
  EngineReading reading = counts_;
  reading.kv_cells = kv_.cells().cells();
  reading.kv_cells_in_use = kv_.cells().in_use();
  reading.kv_cells_kept = kv_.cells().kept();
  reading.parked = static_cast<std::uint32_t>(table_.parked().size());
  reading.parked_bytes = table_.parked().bytes();
  reading.park_drops += table_.parked().dropped();
  reading.kept_evictions = kv_.evictions();
  return reading;
}

}  // namespace weir::model
