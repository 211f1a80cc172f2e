// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/model_table.h"

#include <algorithm>
#include <limits>

#include "agent/admit/rate_limiter.h"

namespace weir::admit {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

}  // namespace

void ModelRecord::set(const ModelCosts& costs) {
  if (costs.context_tokens.has_value()) {
    context_tokens_.store(*costs.context_tokens, std::memory_order_relaxed);
  }
  if (costs.kv_bytes_per_token > 0) {
    kv_bytes_per_token_.store(costs.kv_bytes_per_token, std::memory_order_relaxed);
    kv.set_limit(costs.kv_limit_bytes.value_or(kUnlimited));
  }
}

std::optional<std::uint32_t> ModelRecord::context_tokens() const {
  const std::uint32_t tokens = context_tokens_.load(std::memory_order_relaxed);
  return tokens > 0 ? std::optional(tokens) : std::nullopt;
}

std::optional<std::uint64_t> ModelRecord::kv_limit_bytes() const {
  const std::uint64_t limit = kv.limit();
  return limit != kUnlimited ? std::optional(limit) : std::nullopt;
}

std::uint64_t ModelRecord::kv_bytes(std::uint64_t tokens) const {
  // A cache whose context is not known is not known either.
  return std::min<std::uint64_t>(tokens, context_tokens_.load(std::memory_order_relaxed)) *
         kv_bytes_per_token_.load(std::memory_order_relaxed);
}

ModelTable::ModelTable(const std::vector<ModelCosts>& models) { update(models); }

ModelRecord* ModelTable::find(std::string_view name) const {
  const std::uint64_t hash = name_hash(name);
  const std::size_t size = this->size();
  for (std::size_t i = 0; i < size; ++i) {
    if (hashes_[i] == hash && records_[i]->name == name) return records_[i].get();
  }
  return nullptr;
}

void ModelTable::update(const std::vector<ModelCosts>& models) {
  for (const ModelCosts& costs : models) {
    if (ModelRecord* const record = find(costs.name)) {
      record->set(costs);
      continue;
    }
    const std::size_t at = size();
    if (at == kCapacity) continue;
    hashes_[at] = name_hash(costs.name);
    records_[at] = std::make_unique<ModelRecord>(costs);
    size_.store(at + 1, std::memory_order_release);
  }
}

void ModelTable::sample(TimePoint now) {
  for (std::size_t i = 0; i < size(); ++i) {
    records_[i]->kv_rate.update(records_[i]->kv_released.load(std::memory_order_relaxed), now);
  }
}

std::vector<const ModelRecord*> ModelTable::with_kv() const {
  std::vector<const ModelRecord*> all;
  for (std::size_t i = 0; i < size(); ++i) {
    if (records_[i]->kv.limit() > 0) all.push_back(records_[i].get());
  }
  return all;
}

}  // namespace weir::admit
