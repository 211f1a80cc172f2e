// SPDX-License-Identifier: Apache-2.0
//
// Whole answers to requests that always have the same answer, for the time when no model can be
// asked. Exact match on the full request, least recently used leave first, bounded in entries and
// bytes.
//
// The key is the whole request, spelt out and compared byte for byte: a hash alone would one day
// give somebody the answer to another question. The tenant is part of it. Tenants therefore never
// see each other's answers, nor can one find out what another asked, at the price that each fills
// the cache for itself.
//
// Thread-safe. Owns its entries. Cannot fail: what does not fit is not kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "agent/model/generation.h"

namespace weir::upstream {

/// Whether the same request has the same answer again, and a text is the whole of it: greedy or
/// with a seed, without logprobs, and no embedding.
[[nodiscard]] bool is_cacheable(const model::GenerationRequest& request);

/// Everything that the answer depends on: tenant, model, prompt, max_tokens, sampling and stop
/// strings, in order; different requests have different keys. Not the route, level or deadline.
[[nodiscard]] std::string cache_key(std::string_view model,
                                    const model::GenerationRequest& request);

struct CachedAnswer {
  std::string text;
  model::FinishReason reason = model::FinishReason::kStop;
  model::Usage usage;
};

class ResponseCache {
 public:
  /// What an entry is reckoned with beside its key and text: nodes of list and index.
  static constexpr std::uint64_t kEntryOverheadBytes = 256;

  /// Either bound may be 0: nothing is kept.
  ResponseCache(std::size_t max_entries, std::uint64_t max_bytes)
      : max_entries_(max_entries), max_bytes_(max_bytes) {}

  /// The least that an answer to this request would take; one that cannot fit need not be
  /// collected.
  [[nodiscard]] bool can_hold(std::size_t key_bytes, std::size_t text_bytes) const {
    return max_entries_ > 0 && key_bytes + text_bytes + kEntryOverheadBytes <= max_bytes_;
  }

  /// Keeps the answer in place of an earlier one; the least recently used make room.
  void put(std::string key, CachedAnswer answer);
  /// A copy, which counts as a use.
  [[nodiscard]] std::optional<CachedAnswer> get(std::string_view key);

  struct Size {
    std::uint64_t entries = 0;
    std::uint64_t bytes = 0;
  };
  [[nodiscard]] Size size() const;

 private:
  struct Entry {
    std::string key;
    CachedAnswer answer;
  };
  using Entries = std::list<Entry>;
  [[nodiscard]] static std::uint64_t bytes_of(const Entry& entry) {
    return entry.key.size() + entry.answer.text.size() + kEntryOverheadBytes;
  }
  void drop_locked(Entries::iterator entry);

  const std::size_t max_entries_;
  const std::uint64_t max_bytes_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Entries entries_;                                                ///< most recently used first
  std::unordered_map<std::string_view, Entries::iterator> index_;  ///< keys lie in entries_
  std::uint64_t bytes_ = 0;
};

}  // namespace weir::upstream
