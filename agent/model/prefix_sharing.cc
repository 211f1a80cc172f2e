// SPDX-License-Identifier: Apache-2.0
#include "agent/model/prefix_sharing.h"

#include <algorithm>

namespace weir::model {

namespace {

const Sequence* find(std::span<const Slot> slots, std::uint64_t admission) {
  for (const Slot& slot : slots) {
    if (slot && slot->urgency.admission == admission) return slot.get();
  }
  return nullptr;
}

}  // namespace

void count_shared(Sequence& sequence, std::size_t there, EngineReading& counts) {
  // What it computes for the second time is nothing that another one has spared it.
  if (there <= sequence.computed) return;
  if (sequence.cached == 0) ++counts.prefix_hits;
  counts.prefix_tokens += there - sequence.computed;
  sequence.cached += there - sequence.computed;
  sequence.computed = there;
}

bool share_prefix(std::span<const Slot> slots, std::size_t slot, KvStore& kv,
                  EngineReading& counts) {
  Sequence& sequence = *slots[slot];
  if (!kv.reuses() || sequence.generates()) return false;
  const auto computes_more = [&](const Sequence& other, std::size_t length) {
    return !other.generates() && other.decoded < length && sequence.decoded < length;
  };
  if (sequence.leader) {
    const Sequence* leader = find(slots, sequence.leader->admission);
    if (leader != nullptr && computes_more(*leader, sequence.leader->length)) return true;
    sequence.leader.reset();
  } else if (sequence.looked) {
    return false;  // has begun on its own
  }
  sequence.looked = true;
  const std::size_t most = sequence.tokens.size() - 1;
  sequence.decoded = kv.adopt(slot, sequence.tokens, most);
  count_shared(sequence, sequence.decoded, counts);
  // Of those that go before it: nobody waits for one that waits for him.
  for (const Slot& other : slots) {
    if (!other || other->generates() || !(other->urgency < sequence.urgency)) continue;
    const std::size_t length = std::min(common_prefix(other->tokens, sequence.tokens), most);
    if (length < sequence.decoded + kHeadroom || !computes_more(*other, length)) continue;
    if (!sequence.leader || length > sequence.leader->length) {
      sequence.leader = Sequence::Leader{other->urgency.admission, length};
    }
  }
  return sequence.leader.has_value();
}

}  // namespace weir::model
