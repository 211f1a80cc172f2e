// SPDX-License-Identifier: Apache-2.0
#include "agent/model/step_abort.h"

#include <algorithm>
#include <utility>

namespace weir::model {

namespace {

// Between two looks at the clock, which takes as long as the smallest nodes do.
constexpr std::size_t kNodesALook = 8;
// Between two looks at the queue, which is locked for it.
constexpr Duration kWaitingALook = std::chrono::microseconds(500);

}  // namespace

StepAbort::StepAbort(const SlotTable& table, bool goes_back, const Clock& clock,
                     const std::atomic<bool>& stopping, Waiting waiting)
    : table_(table),
      goes_back_(goes_back),
      clock_(clock),
      stopping_(stopping),
      waiting_(std::move(waiting)) {}

void StepAbort::begin(const StepShape& shape, Duration expected) {
  has_prompts_ = shape.prompt_tokens > 0;
  expected_ = expected;
  nodes_ = 0;
  leaver_noticed_.reset();
  preempted_ = false;
  started_ = clock_.now();
}

void StepAbort::made_good(Duration took) { lost_ = std::max(lost_ - took, Duration::zero()); }

// Called by ggml between graph nodes, on the thread that is inside llama_decode(): the engine's.
bool StepAbort::should_abort(void* self) { return static_cast<StepAbort*>(self)->wanted(); }

bool StepAbort::wanted() {
  if (stopping_.load(std::memory_order_relaxed)) return true;
  std::optional<TimePoint> now;
  if (++nodes_ % kNodesALook == 0 || leaver_noticed_) now = clock_.now();
  if (leaver_wants(now)) return true;
  return now && urgent_wants(*now);
}

bool StepAbort::leaver_wants(std::optional<TimePoint> now) {
  bool some = false;
  bool all = true;
  for (const Slot& slot : table_.slots()) {
    if (!slot) continue;
    const GenerationRequest& request = slot->request();
    const bool leaves = request.cancelled.load(std::memory_order_relaxed) ||
                        (now && request.deadline && *now >= *request.deadline);
    some = some || leaves;
    all = all && (leaves || slot->in_batch == 0);
  }
  if (some && all) return true;
  if (some && !leaver_noticed_) leaver_noticed_ = now = clock_.now();
  if (!leaver_noticed_ || !goes_back_ || hurry()) return false;
  const Duration patience = *now + kNearEnd < started_ + expected_ ? kPatience : 2 * kNearEnd;
  return *now - *leaver_noticed_ >= patience;
}

bool StepAbort::urgent_wants(TimePoint now) {
  if (!waiting_ || !has_prompts_ || !goes_back_ || hurry() ||
      now + 2 * kNearEnd > started_ + expected_ || now < asked_waiting_ + kWaitingALook) {
    return false;
  }
  asked_waiting_ = now;
  const auto level = waiting_();
  if (!level || table_.room(level) == 0) return false;
  for (const Slot& slot : table_.slots()) {
    if (slot && slot->in_batch > 0 && !slot->generates() && slot->urgency.level <= *level) {
      return false;
    }
  }
  preempted_ = true;
  return true;
}

}  // namespace weir::model
