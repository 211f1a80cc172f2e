// SPDX-License-Identifier: Apache-2.0
#include "agent/model/grammar_matcher.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace weir::model {

namespace {

using Kind = Grammar::Kind;

constexpr std::size_t kFirstSlots = 64;
constexpr std::uint32_t kLastCodePoint = 0x10FFFF;

std::size_t hash_of(std::uint32_t at, std::uint32_t origin, std::uint32_t count) {
  std::uint64_t hash = (std::uint64_t{at} << 32U | origin) * 0x9E3779B97F4A7C15ULL;
  hash = (hash ^ (hash >> 29U) ^ count) * 0xBF58476D1CE4E5B9ULL;
  return static_cast<std::size_t>(hash ^ (hash >> 32U));
}

}  // namespace

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar)
    : grammar_(std::move(grammar)), slots_(kFirstSlots) {
  begin_set();
  for (const std::uint32_t start : grammar_->rule(Grammar::kStartRule).starts) add({start, 0, 0});
  close_set();
}

bool GrammarMatcher::accepts(std::string_view bytes) {
  const std::size_t sets = begins_.size();
  const Partial partial = partial_;
  const bool accepted = feed(bytes);
  back_to(sets);
  partial_ = partial;
  return accepted;
}

bool GrammarMatcher::advance(std::string_view bytes) {
  const std::size_t sets = begins_.size();
  const Partial partial = partial_;
  if (feed(bytes)) return true;
  back_to(sets);
  partial_ = partial;
  return false;
}

bool GrammarMatcher::complete() const {
  if (partial_.missing > 0) return false;
  return std::any_of(places_.begin() + static_cast<std::ptrdiff_t>(begins_.back()), places_.end(),
                     [this](const Place& place) {
                       const Grammar::Element& next = grammar_->element(place.at);
                       return next.kind == Kind::kEnd && next.value == Grammar::kStartRule;
                     });
}

bool GrammarMatcher::exhausted() const {
  return complete() && std::all_of(places_.begin() + static_cast<std::ptrdiff_t>(begins_.back()),
                                   places_.end(), [this](const Place& place) {
                                     const Kind kind = grammar_->element(place.at).kind;
                                     return kind != Kind::kChar && kind != Kind::kSet;
                                   });
}

bool GrammarMatcher::feed(std::string_view bytes) {
  for (const char c : bytes) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (partial_.missing > 0) {
      if ((byte & 0xC0U) != 0x80U) return false;
      partial_.value = (partial_.value << 6U) | (byte & 0x3FU);
      if (--partial_.missing > 0) continue;
      const bool surrogate = partial_.value >= 0xD800 && partial_.value <= 0xDFFF;
      if (partial_.value < partial_.least || partial_.value > kLastCodePoint || surrogate ||
          !take(partial_.value)) {
        return false;
      }
    } else if (byte < 0x80) {
      if (!take(byte)) return false;
    } else if (byte >= 0xC2 && byte <= 0xDF) {
      partial_ = {byte & 0x1FU, 1, 0x80};
    } else if (byte >= 0xE0 && byte <= 0xEF) {
      partial_ = {byte & 0x0FU, 2, 0x800};
    } else if (byte >= 0xF0 && byte <= 0xF4) {
      partial_ = {byte & 0x07U, 3, 0x10000};
    } else {
      return false;
    }
  }
  return partial_.missing == 0 || may_complete_character();
}

bool GrammarMatcher::may_complete_character() const {
  const std::uint32_t shift = 6 * partial_.missing;
  const std::uint32_t first = std::max(partial_.value << shift, partial_.least);
  const std::uint32_t last =
      std::min((partial_.value << shift) | ((1U << shift) - 1U), kLastCodePoint);
  return first <= last && std::any_of(places_.begin() + static_cast<std::ptrdiff_t>(begins_.back()),
                                      places_.end(), [&](const Place& place) {
                                        return matches(grammar_->element(place.at), first, last);
                                      });
}

bool GrammarMatcher::matches(const Grammar::Element& element, std::uint32_t first,
                             std::uint32_t last) const {
  if (element.kind == Kind::kChar) return element.value >= first && element.value <= last;
  if (element.kind != Kind::kSet) return false;
  const std::vector<CharRange>& ranges = grammar_->set(element.value);
  const auto found =
      std::lower_bound(ranges.begin(), ranges.end(), first,
                       [](const CharRange& range, std::uint32_t c) { return range.last < c; });
  return found != ranges.end() && found->first <= last;
}

bool GrammarMatcher::take(std::uint32_t character) {
  const std::size_t from = begins_.back();
  const std::size_t to = places_.size();
  begin_set();
  work_ += to - from;
  for (std::size_t i = from; i < to; ++i) {
    const Place place = places_[i];
    if (matches(grammar_->element(place.at), character, character)) {
      add({place.at + 1, place.origin, place.count});
    }
  }
  close_set();
  return places_.size() > begins_.back() && !gave_up_;
}

void GrammarMatcher::close_set() {
  const auto here = static_cast<std::uint32_t>(begins_.size() - 1);
  for (std::size_t i = begins_.back(); i < places_.size() && !gave_up_; ++i) {
    const Place place = places_[i];
    const Grammar::Element next = grammar_->element(place.at);
    switch (next.kind) {
      case Kind::kChar:
      case Kind::kSet:
        break;
      case Kind::kRule: {
        const Grammar::Rule& rule = grammar_->rule(next.value);
        for (const std::uint32_t start : rule.starts) add({start, here, 0});
        // A repetition of nothing would only count; its minimum is 0 where the element may be
        // empty.
        if (rule.may_be_empty && grammar_->element(place.at + 1).kind != Kind::kAgain) {
          add({place.at + 1, place.origin, place.count});
        }
        break;
      }
      case Kind::kEnd:
        // What ended where it began was gone past already, at kRule.
        if (place.origin != here) finish(next.value, place.origin);
        break;
      case Kind::kAgain: {
        const Grammar::Rule& rule = grammar_->rule(next.value);
        const bool unlimited = rule.max == Grammar::kUnlimited;
        const std::uint32_t count =
            unlimited ? std::min(place.count + 1, rule.min) : place.count + 1;
        if (unlimited || count < rule.max) add({rule.starts.front(), place.origin, count});
        if (count >= rule.min) finish(next.value, place.origin);
        break;
      }
    }
  }
}

void GrammarMatcher::finish(std::uint32_t rule, std::uint32_t origin) {
  const std::size_t to = end_of(origin);
  work_ += to - begins_[origin];
  for (std::size_t i = begins_[origin]; i < to; ++i) {
    const Place waiting = places_[i];
    const Grammar::Element& next = grammar_->element(waiting.at);
    if (next.kind == Kind::kRule && next.value == rule) {
      add({waiting.at + 1, waiting.origin, waiting.count});
    }
  }
}

void GrammarMatcher::add(Place place) {
  ++work_;
  if (work_ > kMaxWork || places_.size() >= kMaxPlaces) {
    gave_up_ = true;
    return;
  }
  const std::size_t in_set = places_.size() - begins_.back();
  if (2 * (in_set + 1) > slots_.size()) {
    slots_.assign(slots_.size() * 2, {});
    stamp_ = 1;
    for (std::size_t i = begins_.back(); i < places_.size(); ++i) {
      std::size_t slot = hash_of(places_[i].at, places_[i].origin, places_[i].count);
      while (slots_[slot & (slots_.size() - 1)].stamp == stamp_) ++slot;
      slots_[slot & (slots_.size() - 1)] = {stamp_, static_cast<std::uint32_t>(i)};
    }
  }
  std::size_t slot = hash_of(place.at, place.origin, place.count) & (slots_.size() - 1);
  while (slots_[slot].stamp == stamp_) {
    if (places_[slots_[slot].place] == place) return;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  slots_[slot] = {stamp_, static_cast<std::uint32_t>(places_.size())};
  places_.push_back(place);
}

void GrammarMatcher::begin_set() {
  begins_.push_back(places_.size());
  if (stamp_ == std::numeric_limits<std::uint32_t>::max()) {
    std::fill(slots_.begin(), slots_.end(), Slot{});
    stamp_ = 0;
  }
  ++stamp_;
}

std::size_t GrammarMatcher::end_of(std::size_t set) const {
  return set + 1 < begins_.size() ? begins_[set + 1] : places_.size();
}

void GrammarMatcher::back_to(std::size_t sets) {
  if (sets == begins_.size()) return;
  places_.resize(begins_[sets]);
  begins_.resize(sets);
}

}  // namespace weir::model
