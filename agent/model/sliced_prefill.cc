// SPDX-License-Identifier: Apache-2.0
#include "agent/model/sliced_prefill.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

namespace weir::model {

SlicedPrefill::SlicedPrefill(PrefillContext* context, SlotTable& table, KvStore& kv,
                             const Clock& clock, const std::atomic<bool>& stopping,
                             Meanwhile meanwhile, EngineReading& counts)
    : context_(kv.goes_back() && meanwhile ? context : nullptr),
      table_(table),
      kv_(kv),
      clock_(clock),
      stopping_(stopping),
      meanwhile_(std::move(meanwhile)),
      counts_(counts) {}

std::size_t SlicedPrefill::longest() const {
  if (context_ == nullptr || computing_) return 0;
  return kv_.pooled() ? std::min(context_->cells(), kv_.available()) : context_->cells();
}

void SlicedPrefill::follow(const StepPlan& plan) {
  slice_ = plan.slice;
  if (!computing_) admission_ = plan.sliced;
}

Sequence* SlicedPrefill::find(std::size_t& slot) const {
  for (slot = 0; slot < table_.slots().size(); ++slot) {
    const Slot& sequence = table_.slots()[slot];
    if (sequence && sequence->urgency.admission == admission_) return sequence.get();
  }
  return nullptr;
}

bool SlicedPrefill::look() {
  if (stopping_.load(std::memory_order_relaxed)) return false;
  std::size_t slot = 0;
  const Sequence* sequence = find(slot);
  const TimePoint now = clock_.now();
  longest_ = std::max(longest_, now - looked_);
  looked_ = now;
  // The next node may take as long as any.
  const bool goes_on = now - since_ + longest_ < slice_;
  if (goes_on && !reason_to_leave(sequence->request(), now)) return true;
  do {
    meanwhile_();
    if (find(slot) == nullptr || stopping_.load(std::memory_order_relaxed)) return false;
  } while (slice_ == Duration::zero());
  since_ = looked_ = clock_.now();
  return true;
}

std::size_t SlicedPrefill::run() {
  std::size_t slot = 0;
  Sequence* sequence = find(slot);
  if (sequence == nullptr) {
    admission_.reset();
    return 0;
  }
  const std::size_t before = sequence->computed;
  const std::size_t all = sequence->tokens.size() - 1;
  std::size_t done = sequence->decoded;
  std::size_t most_computed = before;
  bool good = context_->begin(done > 0 ? kv_.save(slot) : std::vector<std::uint8_t>());
  computing_ = true;
  since_ = looked_ = clock_.now();
  while (good && done < all) {
    const std::size_t tokens = std::min<std::size_t>(all - done, kPrefillPassTokens);
    // A copy: the sequence may leave meanwhile.
    const std::vector<llama_token> pass(
        sequence->tokens.begin() + static_cast<std::ptrdiff_t>(done),
        sequence->tokens.begin() + static_cast<std::ptrdiff_t>(done + tokens));
    longest_ = {};
    good = context_->compute(pass, done, [this] { return look(); });
    sequence = find(slot);
    if (!good || sequence == nullptr) break;
    done += tokens;
    sequence->computed = std::max(sequence->computed, done);
    most_computed = sequence->computed;
  }
  // The way back takes as long as a slice.
  if (good && sequence != nullptr) {
    meanwhile_();
    sequence = find(slot);
  }
  computing_ = false;
  admission_.reset();
  if (good && sequence != nullptr) {
    hand_over(*sequence, slot, done);
  } else {
    ++counts_.sliced_drops;
    // It would fail again.
    if (sequence != nullptr) sequence->in_chunks = true;
  }
  return most_computed - before;
}

void SlicedPrefill::hand_over(Sequence& sequence, std::size_t slot, std::size_t tokens) {
  const std::vector<std::uint8_t> state = context_->save(kv_.streams());
  const std::span<const llama_token> held(sequence.tokens.data(), tokens);
  if (!state.empty() && kv_.cut(slot, 0) && kv_.load(slot, state, held) &&
      kv_.length(slot) == tokens) {
    sequence.decoded = tokens;
    ++counts_.sliced_prompts;
    return;
  }
  (void)kv_.cut(slot, 0);  // all of it can always go
  sequence.decoded = 0;
  sequence.in_chunks = true;
  ++counts_.sliced_drops;
}

}  // namespace weir::model
