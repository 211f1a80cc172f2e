// SPDX-License-Identifier: Apache-2.0
#include "agent/model/kv_cells.h"

#include <algorithm>
#include <tuple>

namespace weir::model {

std::size_t common_prefix(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  const std::size_t shorter = std::min(a.size(), b.size());
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(shorter);
  return static_cast<std::size_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

KvCells::KvCells(std::size_t slots, std::size_t cells) : slots_(slots), cells_(cells) {
  free_.reserve(cells);
  for (std::size_t i = cells; i > 0; --i) free_.push_back(static_cast<std::uint32_t>(i - 1));
}

void KvCells::hold(const Slot& slot, std::uint32_t cell) {
  ++cells_[cell].holders;
  if (slot.busy && cells_[cell].busy_holders++ == 0) ++in_use_;
}

void KvCells::release(const Slot& slot, std::uint32_t cell) {
  if (slot.busy && --cells_[cell].busy_holders == 0) --in_use_;
  if (--cells_[cell].holders == 0) free_.push_back(cell);
}

void KvCells::set_busy(std::size_t slot, bool busy) {
  Slot& changed = slots_[slot];
  changed.used = ++events_;
  if (changed.busy == busy) return;
  changed.busy = busy;
  for (const std::uint32_t cell : changed.at) {
    std::uint16_t& holders = cells_[cell].busy_holders;
    if (busy) {
      in_use_ += holders++ == 0 ? 1U : 0U;
    } else {
      in_use_ -= --holders == 0 ? 1U : 0U;
    }
  }
}

bool KvCells::append(std::size_t slot, std::span<const std::int32_t> tokens) {
  if (tokens.size() > free_.size()) return false;
  Slot& grown = slots_[slot];
  for (const std::int32_t token : tokens) {
    const std::uint32_t cell = free_.back();
    free_.pop_back();
    hold(grown, cell);
    grown.at.push_back(cell);
    grown.tokens.push_back(token);
  }
  return true;
}

void KvCells::truncate(std::size_t slot, std::size_t length) {
  Slot& cut = slots_[slot];
  while (cut.at.size() > length) {
    release(cut, cut.at.back());
    cut.at.pop_back();
    cut.tokens.pop_back();
  }
}

void KvCells::share(std::size_t from, std::size_t to, std::size_t length) {
  const Slot& source = slots_[from];
  Slot& target = slots_[to];
  // First hold, then release: cells that both have already must not become free in between.
  for (std::size_t i = 0; i < length; ++i) hold(target, source.at[i]);
  truncate(to, 0);
  const auto end = static_cast<std::ptrdiff_t>(length);
  target.at.assign(source.at.begin(), source.at.begin() + end);
  target.tokens.assign(source.tokens.begin(), source.tokens.begin() + end);
}

std::optional<KvCells::Match> KvCells::longest_match(std::span<const std::int32_t> tokens) const {
  std::optional<Match> best;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    const std::size_t length = common_prefix(slots_[slot].tokens, tokens);
    if (length == 0) continue;
    const bool idle_instead =
        best && length == best->length && slots_[best->slot].busy && !slots_[slot].busy;
    if (!best || length > best->length || idle_instead) best = Match{slot, length};
  }
  return best;
}

std::optional<std::size_t> KvCells::place_for(std::span<const std::int32_t> tokens) const {
  std::optional<Match> best;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    const Slot& idle = slots_[slot];
    const std::size_t length = idle.busy ? 0 : common_prefix(idle.tokens, tokens);
    if (length == 0 || 2 * length < idle.tokens.size()) continue;
    if (!best || length > best->length) best = Match{slot, length};
  }
  if (best) return best->slot;
  std::optional<std::size_t> oldest;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].busy) continue;
    if (slots_[slot].tokens.empty()) return slot;
    if (!oldest || slots_[slot].used < slots_[*oldest].used) oldest = slot;
  }
  return oldest;
}

std::optional<std::size_t> KvCells::nearer_place(std::size_t slot) const {
  // What makes a slot the better one comes first.
  const auto rank = [&](std::size_t of) {
    const bool below = of > 0 && slots_[of - 1].busy;
    const bool above = of + 1 < slots_.size() && slots_[of + 1].busy;
    const std::size_t neighbours = (below ? 1U : 0U) + (above ? 1U : 0U);
    return std::tuple(2 - neighbours, !slots_[of].tokens.empty(), slots_[of].used);
  };
  std::size_t nearest = slot;
  for (std::size_t other = 0; other < slots_.size(); ++other) {
    if (!slots_[other].busy && rank(other) < rank(nearest)) nearest = other;
  }
  if (std::get<0>(rank(nearest)) == std::get<0>(rank(slot))) return std::nullopt;
  return nearest;
}

std::optional<std::size_t> KvCells::oldest_kept() const {
  std::optional<std::size_t> oldest;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].busy || slots_[slot].tokens.empty()) continue;
    if (!oldest || slots_[slot].used < slots_[*oldest].used) oldest = slot;
  }
  return oldest;
}

}  // namespace weir::model
