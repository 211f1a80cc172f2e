// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/tenant_table.h"

#include <bit>

#include "agent/admit/rate_limiter.h"

namespace weir::admit {

TenantTable::TenantTable(const std::vector<TenantLimit>& configured, std::uint64_t max_requests,
                         std::size_t max_unconfigured)
    : max_requests_(max_requests),
      capacity_(configured.size() + max_unconfigured),
      slots_count_(std::bit_ceil(2 * capacity_ + 2)),
      slots_(std::make_unique<Slot[]>(slots_count_)),
      others_(kOthers, 0, max_requests) {
  for (const TenantLimit& tenant : configured) {
    add(tenant.name, name_hash(tenant.name), tenant.max_requests.value_or(max_requests));
  }
}

TenantTable::~TenantTable() {
  for (std::size_t i = 0; i < slots_count_; ++i) delete slots_[i].load();
}

TenantRecord& TenantTable::find_or_add(std::string_view name, std::uint64_t hash) {
  // Ends at an empty slot, of which there is always one: fewer than half are ever taken.
  for (std::size_t i = hash;; ++i) {
    TenantRecord* const record = slots_[i & (slots_count_ - 1)].load(std::memory_order_acquire);
    if (record == nullptr) break;
    if (record->hash == hash && record->name == name) return *record;
  }
  if (size_.load(std::memory_order_relaxed) >= capacity_) return others_;
  TenantRecord* const added = add(name, hash, max_requests_);
  return added != nullptr ? *added : others_;
}

TenantRecord* TenantTable::add(std::string_view name, std::uint64_t hash,
                               std::uint64_t max_requests) {
  const std::lock_guard lock(adding_);
  std::size_t i = hash;
  for (;; ++i) {
    TenantRecord* const record = slots_[i & (slots_count_ - 1)].load(std::memory_order_acquire);
    if (record == nullptr) break;
    if (record->hash == hash && record->name == name) return record;
  }
  if (size_.load() >= capacity_) return nullptr;
  size_.fetch_add(1);
  auto* const record = new TenantRecord(name, hash, max_requests);
  slots_[i & (slots_count_ - 1)].store(record, std::memory_order_release);
  return record;
}

std::vector<const TenantRecord*> TenantTable::records() const {
  std::vector<const TenantRecord*> all;
  for (std::size_t i = 0; i < slots_count_; ++i) {
    if (const TenantRecord* const record = slots_[i].load(std::memory_order_acquire)) {
      all.push_back(record);
    }
  }
  all.push_back(&others_);
  return all;
}

}  // namespace weir::admit
