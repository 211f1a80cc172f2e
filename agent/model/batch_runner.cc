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

namespace weir::model {

namespace {

// Between two looks at the clock, which takes as long as the smallest nodes do.
constexpr std::size_t kNodesALook = 8;
// Between two looks at the queue, which is locked for it.
constexpr Duration kWaitingALook = std::chrono::microseconds(500);
// Cells that a sequence should find free beside what it has when it comes (back): with fewer it
// would be parked again within as many steps.
constexpr std::size_t kHeadroom = 32;

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
      waiting_(std::move(waiting)),
      step_tokens_(std::min(kStepTokens, llama_n_batch(model_.context()))),
      kv_(model_.context(), options.prefix_reuse),
      batch_(static_cast<std::int32_t>(step_tokens_)),
      slots_(llama_n_seq_max(model_.context())),
      lot_(options.park_bytes) {
  llama_set_abort_callback(model_.context(), &BatchRunner::should_abort, this);
}

BatchRunner::~BatchRunner() = default;

// ---- when a step is stopped
// ----------------------------------------------------------------------

// Called by ggml between graph nodes, on the thread that is inside llama_decode(): the engine's.
bool BatchRunner::should_abort(void* self) {
  return static_cast<BatchRunner*>(self)->abort_wanted();
}

bool BatchRunner::abort_wanted() {
  if (stopping_.load(std::memory_order_relaxed)) return true;
  std::optional<TimePoint> now;
  if (++nodes_ % kNodesALook == 0 || leaver_noticed_) now = clock_.now();
  if (leaver_wants_abort(now)) return true;
  return now && urgent_wants_abort(*now);
}

bool BatchRunner::leaver_wants_abort(std::optional<TimePoint> now) {
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
  if (!leaver_noticed_ || !kv_.goes_back() || lost_ > Duration::zero()) return false;
  const Duration patience = *now + kNearEnd < started_ + expected_ ? kPatience : 2 * kNearEnd;
  return *now - *leaver_noticed_ >= patience;
}

bool BatchRunner::urgent_wants_abort(TimePoint now) {
  if (!waiting_ || shape_.prompt_tokens == 0 || !kv_.goes_back() || lost_ > Duration::zero() ||
      now + 2 * kNearEnd > started_ + expected_ || now < asked_waiting_ + kWaitingALook) {
    return false;
  }
  asked_waiting_ = now;
  const auto level = waiting_();
  if (!level || room(level) == 0) return false;
  for (const Slot& slot : slots_) {
    if (slot && slot->in_batch > 0 && !slot->generates() && slot->urgency.level <= *level) {
      return false;
    }
  }
  preempted_ = true;
  return true;
}

// ---- room
// ----------------------------------------------------------------------------------------

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
  const Urgency urgency{taken.level, request.deadline.value_or(TimePoint::max()), admissions_};
  const std::size_t prompt_tokens = prompt.size();
  return std::make_unique<Sequence>(Sequence{.taken = std::move(taken),
                                             .urgency = urgency,
                                             .first_token = std::nullopt,
                                             .tokens = std::move(prompt),
                                             .prompt_tokens = prompt_tokens,
                                             .sampler = std::move(*sampler),
                                             .text = std::move(text),
                                             .logprobs = {},
                                             .leader = std::nullopt,
                                             .paused_since = std::nullopt,
                                             .logits_at = std::nullopt});
}

template <typename Condition>
std::optional<std::size_t> BatchRunner::least(Condition may) const {
  std::optional<std::size_t> found;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot] || !may(*slots_[slot])) continue;
    if (!found || slots_[*found]->urgency < slots_[slot]->urgency) found = slot;
  }
  return found;
}

std::size_t BatchRunner::room(std::optional<std::int32_t> level) const {
  std::size_t before = 0;  // parked, and not less urgent
  for (const auto& [urgency, parked] : lot_.places()) {
    if (!parked.value->rests && (!level || urgency.level <= *level)) ++before;
  }
  const std::size_t free = slots_.size() - active_;
  if (free > before) return free - before;
  const bool one_yields =
      level && before == 0 && lot_.size() < slots_.size() &&
      least([&](const Sequence& running) { return running.urgency.level > *level; });
  return one_yields ? 1 : 0;
}

void BatchRunner::admit(Taken taken, StepReport& report) {
  if (auto reason = reason_to_leave(*taken.request, clock_.now())) {
    report.ended.push_back({std::move(taken), std::move(*reason)});
    return;
  }
  auto made = make_sequence(taken);
  if (!made) {
    report.ended.push_back({std::move(taken), std::move(made).error()});
    return;
  }
  ++admissions_;
  if (kv_.reuses()) ++counts_.prefix_lookups;
  Slot sequence = std::move(*made);
  if (active_ == slots_.size()) {
    const auto yields = least(
        [&](const Sequence& running) { return running.urgency.level > sequence->urgency.level; });
    if (!yields) {
      lot_.park(sequence->urgency, std::move(sequence), {});
      return;
    }
    park(*yields);
  }
  place(std::move(sequence));
}

void BatchRunner::place(Slot sequence) {
  // The lowest slot of equals: libllama decodes neighbouring ids together, gaps cost a pass each.
  const auto [slot, there] = kv_.take_place(sequence->tokens, sequence->tokens.size() - 1);
  sequence->decoded = there;
  slots_[slot] = std::move(sequence);
  ++active_;
  count_shared(*slots_[slot], there);
}

void BatchRunner::park(std::size_t slot) {
  Sequence& sequence = *slots_[slot];
  std::vector<std::uint8_t> state;
  const bool worth = sequence.decoded > 0 && lot_.keeps(sequence.urgency, kv_.state_bytes(slot));
  if (worth) {
    state = kv_.save(slot);
  } else if (sequence.decoded > 0) {
    ++counts_.park_drops;
  }
  kv_.release(slot, false);
  sequence.leader.reset();
  sequence.looked = false;
  sequence.paused_since.reset();
  sequence.in_batch = 0;
  if (state.empty()) sequence.decoded = 0;
  const Urgency urgency = sequence.urgency;
  lot_.park(urgency, std::move(slots_[slot]), std::move(state));
  --active_;
  ++counts_.parks;
}

bool BatchRunner::resume(const Urgency& urgency) {
  const Sequence& waits = *lot_.places().at(urgency).value;
  const auto may_yield = [&](const Sequence& running) { return running.rests; };
  const std::size_t wanted = waits.tokens.size() + kHeadroom * (active_ + 1);
  const auto short_of_room = [&] {
    return active_ == slots_.size() || (kv_.pooled() && active_ > 0 && kv_.available() < wanted);
  };
  while (short_of_room()) {
    const auto yields = least(may_yield);
    if (!yields) return false;
    park(*yields);
  }
  auto [value, state] = lot_.take(urgency);
  if (value->decoded == 0 || state.empty()) {
    const bool again = value->computed > 0;
    place(std::move(value));
    counts_.recomputes += again ? 1U : 0U;
    return true;
  }
  const std::size_t slot = kv_.take_place({}, 0).slot;
  const std::span<const llama_token> held{value->tokens.data(), value->decoded};
  if (kv_.load(slot, state, held)) {
    ++counts_.restores;
  } else {
    value->decoded = 0;
    ++counts_.recomputes;
  }
  slots_[slot] = std::move(value);
  ++active_;
  return true;
}

void BatchRunner::resume_parked() {
  std::vector<Urgency> waiting;
  for (const auto& [urgency, parked] : lot_.places()) {
    if (!parked.value->rests) waiting.push_back(urgency);
  }
  // In their order, none before a more urgent one: a large one would never find room otherwise.
  for (const Urgency& urgency : waiting) {
    if (!resume(urgency)) return;
  }
}

void BatchRunner::look_who_rests() {
  resting_ = 0;
  const auto look = [&](Sequence& sequence) {
    sequence.rests = sequence.generates() && !sequence.request().listener->wants_more();
    resting_ += sequence.rests ? 1U : 0U;
  };
  for (const Slot& slot : slots_) {
    if (slot) look(*slot);
  }
  for (const auto& [urgency, parked] : lot_.places()) {
    Sequence& sequence = *parked.value;
    sequence.rests = sequence.generated > 0 && !sequence.request().listener->wants_more();
    resting_ += sequence.rests ? 1U : 0U;
  }
}

// ---- prefixes
// ------------------------------------------------------------------------------------

const Sequence* BatchRunner::active(std::uint64_t admission) const {
  for (const Slot& slot : slots_) {
    if (slot && slot->urgency.admission == admission) return slot.get();
  }
  return nullptr;
}

void BatchRunner::count_shared(Sequence& sequence, std::size_t there) {
  // What it computes for the second time is nothing that another one has spared it.
  if (there <= sequence.computed) return;
  if (sequence.cached == 0) ++counts_.prefix_hits;
  counts_.prefix_tokens += there - sequence.computed;
  sequence.cached += there - sequence.computed;
  sequence.computed = there;
}

bool BatchRunner::share_prefix(std::size_t slot) {
  Sequence& sequence = *slots_[slot];
  if (!kv_.reuses() || sequence.generates()) return false;
  const auto computes_more = [&](const Sequence& other, std::size_t length) {
    return !other.generates() && other.decoded < length && sequence.decoded < length;
  };
  if (sequence.leader) {
    const Sequence* leader = active(sequence.leader->admission);
    if (leader != nullptr && computes_more(*leader, sequence.leader->length)) return true;
    sequence.leader.reset();
  } else if (sequence.looked) {
    return false;  // has begun on its own
  }
  sequence.looked = true;
  const std::size_t most = sequence.tokens.size() - 1;
  sequence.decoded = kv_.adopt(slot, sequence.tokens, most);
  count_shared(sequence, sequence.decoded);
  // Of those that go before it: nobody waits for one that waits for him.
  for (const Slot& other : slots_) {
    if (!other || other->generates() || !(other->urgency < sequence.urgency)) continue;
    const std::size_t length = std::min(common_prefix(other->tokens, sequence.tokens), most);
    if (length < sequence.decoded + kHeadroom || !computes_more(*other, length)) continue;
    if (!sequence.leader || length > sequence.leader->length) {
      sequence.leader = Sequence::Leader{other->urgency.admission, length};
    }
  }
  return sequence.leader.has_value();
}

// ---- a step
// --------------------------------------------------------------------------------------

StepPlan BatchRunner::make_plan() {
  const TimePoint now = clock_.now();
  std::vector<PlanItem> items;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot] || slots_[slot]->rests) continue;
    Sequence& sequence = *slots_[slot];
    const bool held = share_prefix(slot);
    items.push_back(
        {.slot = slot,
         .urgency = sequence.urgency,
         .position = sequence.decoded,
         .left = sequence.left(),
         .generates = sequence.generates(),
         .held = held,
         .due = sequence.paused_since && now - *sequence.paused_since >= kLongestPause});
  }
  StepPlan plan =
      plan_step(items, cost_, {.tokens = step_tokens_, .hurry = lost_ > Duration::zero()});
  for (const StepPlan::Part& part : plan.parts) slots_[part.slot]->paused_since.reset();
  for (const std::size_t slot : plan.pausing) {
    if (slots_[slot]->paused_since) continue;
    slots_[slot]->paused_since = now;
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
    const bool alone = active_ == 1;
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
    park(*least([](const Sequence&) { return true; }));
  }
}

void BatchRunner::fill_batch(const StepPlan& plan) {
  batch_.clear();
  shape_ = plan.shape;
  for (const Slot& slot : slots_) {
    if (!slot) continue;
    slot->in_batch = 0;
    slot->logits_at.reset();
  }
  for (const auto& [slot, tokens, generates] : plan.parts) {
    Sequence& sequence = *slots_[slot];
    sequence.in_batch = tokens;
    for (std::size_t i = 0; i < tokens; ++i) {
      const std::size_t position = sequence.decoded + i;
      const bool last = position + 1 == sequence.tokens.size();
      const std::int32_t at = batch_.add(sequence.tokens[position],
                                         static_cast<llama_pos>(position), id_of(slot), last);
      if (last) sequence.logits_at = at;
    }
  }
}

void BatchRunner::learn(Duration took) {
  lost_ = std::max(lost_ - took, Duration::zero());
  cost_.learn(shape_, took);
}

bool BatchRunner::decode(StepReport& report) {
  constexpr std::int32_t kNoSlot = 1;
  constexpr std::int32_t kAborted = 2;
  while (running() > resting_) {
    resume_parked();
    const StepPlan plan = make_room_for_plan();
    if (plan.parts.empty()) return false;  // all that could go on rest
    fill_batch(plan);
    leaver_noticed_.reset();
    preempted_ = false;
    nodes_ = 0;
    expected_ = cost_.step(shape_);
    started_ = clock_.now();
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
      learn(clock_.now() - started_);
      return true;
    }
    if (status == kNoSlot && active_ > 1) {
      // Our books are more hopeful than libllama, which restored its state: the others go on.
      park(*least([](const Sequence&) { return true; }));
      look_who_rests();
      continue;
    }
    if (status == kAborted) {
      if (stopping_.load(std::memory_order_relaxed)) return false;  // the engine ends the rest
      ++report.decode_aborts;
      counts_.preemptions += preempted_ ? 1U : 0U;
      const bool restored = restore(report);
      let_go(report);
      // The others decode again in the next step: who left hears so, and is replaced, before.
      if (running() > resting_) lost_ += clock_.now() - started_;
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
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot]) continue;
    Sequence& sequence = *slots_[slot];
    const std::size_t length = std::max(kv_.length(slot), sequence.decoded);
    std::size_t done = std::min(length - sequence.decoded, sequence.in_batch);
    if (sequence.logits_at && done == sequence.in_batch) --done;
    if (!kv_.goes_back()) {
      if (sequence.in_batch > 0) return false;
      continue;
    }
    if (!kv_.cut(slot, sequence.decoded + done)) return false;
    if (done > 0) advance(sequence, slot, done, report);
    sequence.in_batch = 0;
    sequence.logits_at.reset();
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
  std::vector<std::pair<Urgency, Error>> leave;
  for (const auto& [urgency, parked] : lot_.places()) {
    if (auto reason = reason_to_leave(parked.value->request(), now)) {
      leave.emplace_back(urgency, std::move(*reason));
    }
  }
  for (auto& [urgency, reason] : leave) {
    const auto parked = lot_.take(urgency);
    hand_back(*parked.value, std::move(reason), report);
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
  look_who_rests();
  if (!decode(report)) {
    return;
  }
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot]) {
      continue;
    }
    Sequence& sequence = *slots_[slot];
    advance(sequence, slot, sequence.in_batch, report);
    sequence.in_batch = 0;
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
  sequence.logits_at.reset();
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
  sequence.tokens.push_back(token);
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
  kv_.release(slot, std::holds_alternative<Completion>(result));
  hand_back(*slots_[slot], std::move(result), report);
  slots_[slot].reset();
  --active_;
}

void BatchRunner::hand_back(Sequence& sequence, std::variant<Completion, Error> result,
                            StepReport& report) {
  const std::uint64_t tokens =
      std::min(sequence.computed, sequence.prompt_tokens) + sequence.generated;
  report.ended.push_back({std::move(sequence.taken), std::move(result), tokens});
  resting_ -= sequence.rests ? 1U : 0U;
}

void BatchRunner::fail_all(const Error& error, StepReport& report) {
  const TimePoint now = clock_.now();
  const auto reason_for = [&](const Sequence& sequence) {
    auto own_reason = reason_to_leave(sequence.request(), now);
    return own_reason ? std::move(*own_reason) : error;
  };
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot]) end(slot, reason_for(*slots_[slot]), report);
  }
  while (!lot_.empty()) {
    const auto parked = lot_.take(lot_.places().begin()->first);
    hand_back(*parked.value, reason_for(*parked.value), report);
  }
}

EngineReading BatchRunner::reading() const {
  EngineReading reading = counts_;
  reading.kv_cells = kv_.cells().cells();
  reading.kv_cells_in_use = kv_.cells().in_use();
  reading.kv_cells_kept = kv_.cells().kept();
  reading.parked = static_cast<std::uint32_t>(lot_.size());
  reading.parked_bytes = lot_.bytes();
  reading.park_drops += lot_.dropped();
  reading.kept_evictions = kv_.evictions();
  return reading;
}

}  // namespace weir::model
