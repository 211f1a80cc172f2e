// SPDX-License-Identifier: Apache-2.0
#include "agent/model/ngram_drafts.h"

#include <algorithm>
#include <utility>

namespace weir::model {

namespace {

constexpr std::size_t kFirstSlots = 256;
// What a longer match would say, these say already.
constexpr std::size_t kMostMatched = 64;
// Of one look-up, far more than chance makes it: whoever chooses tokens that collide loses guesses,
// not time.
constexpr std::size_t kMostProbes = 256;
// The lengths 1..3 fit into two bits beside the place.
constexpr std::uint32_t kLengthBits = 2;

std::uint32_t packed(std::size_t end, std::size_t length) {
  return static_cast<std::uint32_t>(end << kLengthBits | length);
}

std::size_t place_of(std::uint32_t slot) { return slot >> kLengthBits; }
std::size_t length_of(std::uint32_t slot) { return slot & ((1U << kLengthBits) - 1); }

std::size_t hash_of(std::span<const std::int32_t> ngram) {
  std::uint64_t hash = ngram.size();
  for (const std::int32_t token : ngram) {
    hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x9E3779B97F4A7C15;  // 2^64 / golden ratio
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

NgramDrafts::NgramDrafts(std::size_t most_tokens)
    : most_tokens_(std::max(most_tokens, 2 * kLongest)) {}

std::optional<std::size_t> NgramDrafts::matched() const {
  return next_ ? std::optional(matched_) : std::nullopt;
}

std::optional<std::size_t> NgramDrafts::exchange(std::span<const std::int32_t> tokens,
                                                 std::size_t end, std::size_t length) {
  const auto ngram = tokens.subspan(end - length, length);
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash_of(ngram) & mask;
  for (std::size_t probes = 1;; ++probes, at = (at + 1) & mask) {
    const std::uint32_t slot = slots_[at];
    if (slot == 0 || probes == kMostProbes) {
      slots_[at] = packed(end, length);
      used_ += slot == 0 ? 1U : 0U;
      return std::nullopt;
    }
    if (length_of(slot) != length) continue;
    const std::size_t before = place_of(slot);
    if (!std::equal(ngram.begin(), ngram.end(),
                    tokens.begin() + static_cast<std::ptrdiff_t>(before - length))) {
      continue;
    }
    slots_[at] = packed(end, length);
    return before;
  }
}

void NgramDrafts::index_again(std::span<const std::int32_t> tokens, std::size_t slots) {
  slots_.assign(slots, 0);
  used_ = 0;
  for (std::size_t end = first_ + 1; end <= seen_; ++end) {
    for (std::size_t length = 1; length <= std::min(kLongest, end - first_); ++length) {
      exchange(tokens, end, length);
    }
  }
}

void NgramDrafts::make_room(std::span<const std::int32_t> tokens) {
  if (seen_ - first_ >= most_tokens_) {
    first_ = seen_ - most_tokens_ / 2;
    index_again(tokens, slots_.size());
  } else if (slots_.empty()) {
    slots_.assign(kFirstSlots, 0);
  } else if (2 * (used_ + kLongest) > slots_.size()) {
    index_again(tokens, 2 * slots_.size());
  }
}

std::optional<NgramDrafts::Guess> NgramDrafts::take_in(std::span<const std::int32_t> tokens) {
  std::optional<Guess> guess;
  if (next_) {
    guess = Guess{matched_, tokens[*next_] == tokens[seen_]};
    if (guess->right) {
      ++*next_;
      matched_ = std::min(matched_ + 1, kMostMatched);
    } else {
      next_.reset();
    }
  }
  make_room(tokens);
  const std::size_t end = ++seen_;
  for (std::size_t length = std::min(kLongest, end - first_); length > 0; --length) {
    const auto before = exchange(tokens, end, length);
    if (next_ || !before) continue;
    next_ = before;
    matched_ = length;
    while (length == kLongest && matched_ < std::min(kMostMatched, *before) &&
           tokens[*before - matched_ - 1] == tokens[end - matched_ - 1]) {
      ++matched_;
    }
  }
  return guess;
}

std::vector<std::int32_t> NgramDrafts::draft(std::span<const std::int32_t> tokens,
                                             std::size_t count) const {
  std::vector<std::int32_t> guesses;
  guesses.reserve(count);
  for (std::size_t at = *next_; guesses.size() < count; ++at) {
    guesses.push_back(at < tokens.size() ? tokens[at] : guesses[at - tokens.size()]);
  }
  return guesses;
}

}  // namespace weir::model
