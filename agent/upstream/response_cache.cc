// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/response_cache.h"

#include <bit>
#include <utility>

#include "agent/model/grammar.h"

namespace weir::upstream {
namespace {

void append(std::string& key, std::uint64_t number) {
  for (int shift = 0; shift < 64; shift += 8) {
    key += static_cast<char>((number >> shift) & 0xff);
  }
}

void append(std::string& key, float number) {
  append(key, std::uint64_t{std::bit_cast<std::uint32_t>(number)});
}

/// With its length in front, so that no two lists of texts read alike.
void append(std::string& key, std::string_view text) {
  append(key, std::uint64_t{text.size()});
  key += text;
}

}  // namespace

bool is_cacheable(const model::GenerationRequest& request) {
  const model::SamplingParams& sampling = request.sampling;
  return (sampling.temperature == 0 || sampling.seed.has_value()) &&
         !sampling.logprobs.has_value() && !request.embedding;
}

std::string cache_key(std::string_view model, const model::GenerationRequest& request) {
  std::string key;
  key.reserve(128 + request.tenant.size() + model.size() + request.prompt.size());
  append(key, request.tenant);
  append(key, model);
  append(key, request.prompt);
  append(key, std::uint64_t{request.max_tokens});
  const model::SamplingParams& sampling = request.sampling;
  append(key, sampling.temperature);
  append(key, sampling.top_p);
  append(key, sampling.min_p);
  append(key, std::uint64_t{static_cast<std::uint32_t>(sampling.top_k)});
  append(key, std::uint64_t{sampling.seed.has_value()});
  append(key, std::uint64_t{sampling.seed.value_or(0)});
  append(key, sampling.repetition_penalty);
  append(key, sampling.frequency_penalty);
  append(key, sampling.presence_penalty);
  append(key, std::uint64_t{sampling.penalty_window});
  append(key, std::uint64_t{sampling.logit_bias.size()});
  for (const model::LogitBias& bias : sampling.logit_bias) {
    append(key, std::uint64_t{static_cast<std::uint32_t>(bias.token)});
    append(key, bias.bias);
  }
  append(key, sampling.grammar ? std::string_view(sampling.grammar->source()) : "");
  append(key, std::uint64_t{request.stop.size()});
  for (const std::string& stop : request.stop) append(key, stop);
  return key;
}

void ResponseCache::put(std::string key, CachedAnswer answer) {
  if (!can_hold(key.size(), answer.text.size())) return;
  Entries fresh;
  fresh.push_front({std::move(key), std::move(answer)});
  const std::lock_guard lock(mutex_);
  if (const auto old = index_.find(fresh.front().key); old != index_.end()) {
    drop_locked(old->second);
  }
  bytes_ += bytes_of(fresh.front());
  entries_.splice(entries_.begin(), fresh);
  index_.emplace(entries_.front().key, entries_.begin());
  while (entries_.size() > max_entries_ || bytes_ > max_bytes_) {
    drop_locked(std::prev(entries_.end()));
  }
}

std::optional<CachedAnswer> ResponseCache::get(std::string_view key) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(key);
  if (found == index_.end()) return std::nullopt;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->answer;
}

ResponseCache::Size ResponseCache::size() const {
  const std::lock_guard lock(mutex_);
  return {entries_.size(), bytes_};
}

void ResponseCache::drop_locked(Entries::iterator entry) {
  bytes_ -= bytes_of(*entry);
  index_.erase(entry->key);
  entries_.erase(entry);
}

}  // namespace weir::upstream
