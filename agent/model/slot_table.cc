// SPDX-License-Identifier: Apache-2.0
#include "agent/model/slot_table.h"

#include <utility>

#include "agent/model/prefix_sharing.h"

namespace weir::model {

SlotTable::SlotTable(KvStore& kv, std::uint64_t park_bytes, EngineReading& counts)
    : kv_(kv), counts_(counts), slots_(kv.cells().slots()), lot_(park_bytes) {}

std::optional<std::size_t> SlotTable::least(const Condition& may) const {
  std::optional<std::size_t> found;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot] || !may(*slots_[slot])) continue;
    if (!found || slots_[*found]->urgency < slots_[slot]->urgency) found = slot;
  }
  return found;
}

std::size_t SlotTable::room(std::optional<std::int32_t> level) const {
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

void SlotTable::admit(Slot sequence) {
  if (kv_.reuses()) ++counts_.prefix_lookups;
  const Urgency urgency = sequence->urgency;
  if (active_ == slots_.size()) {
    const auto yields =
        least([&](const Sequence& running) { return running.urgency.level > urgency.level; });
    if (!yields) {
      lot_.park(urgency, std::move(sequence), {});
      return;
    }
    park(*yields);
  }
  place(std::move(sequence));
}

void SlotTable::place(Slot sequence) {
  const auto [slot, there] = kv_.take_place(sequence->tokens, sequence->tokens.size() - 1);
  sequence->decoded = there;
  slots_[slot] = std::move(sequence);
  ++active_;
  count_shared(*slots_[slot], there, counts_);
}

void SlotTable::park(std::size_t slot) {
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

void SlotTable::park_least() {
  park(*least([](const Sequence&) { return true; }));
}

bool SlotTable::resume(const Urgency& urgency) {
  const Sequence& waits = *lot_.places().at(urgency).value;
  const std::size_t wanted = waits.tokens.size() + kHeadroom * (active_ + 1);
  const auto short_of_room = [&] {
    return active_ == slots_.size() || (kv_.pooled() && active_ > 0 && kv_.available() < wanted);
  };
  while (short_of_room()) {
    const auto yields = least([](const Sequence& running) { return running.rests; });
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

void SlotTable::resume_parked() {
  std::vector<Urgency> waiting;
  for (const auto& [urgency, parked] : lot_.places()) {
    if (!parked.value->rests) waiting.push_back(urgency);
  }
  // In their order, none before a more urgent one: a large one would never find room otherwise.
  for (const Urgency& urgency : waiting) {
    if (!resume(urgency)) return;
  }
}

void SlotTable::look_who_rests() {
  resting_ = 0;
  const auto look = [&](Sequence& sequence, bool generates) {
    sequence.rests = generates && !sequence.request().listener->wants_more();
    resting_ += sequence.rests ? 1U : 0U;
  };
  for (const Slot& slot : slots_) {
    if (slot) look(*slot, slot->generates());
  }
  for (const auto& [urgency, parked] : lot_.places()) {
    look(*parked.value, parked.value->generated > 0);
  }
}

Slot SlotTable::remove(std::size_t slot, bool keep_cells) {
  kv_.release(slot, keep_cells);
  --active_;
  Slot gone = std::exchange(slots_[slot], nullptr);
  resting_ -= gone->rests ? 1U : 0U;
  return gone;
}

Slot SlotTable::remove_parked(const Urgency& urgency) {
  Slot gone = lot_.take(urgency).value;
  resting_ -= gone->rests ? 1U : 0U;
  return gone;
}

}  // namespace weir::model
