// SPDX-License-Identifier: Apache-2.0
//
// The tenants seen so far, and what each has in progress. Those of the configuration are there from
// the start; others are noted as they come, up to a bound, and share one record behind it, because
// anybody can invent names.
//
// Thread-safe. Finding a known tenant takes no lock and allocates nothing. Records stay where they
// are as long as the table lives.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/admit/bounded_count.h"

namespace weir::admit {

struct TenantLimit {
  std::string name;
  std::optional<std::uint32_t> max_requests;  ///< in progress; unset: that of all tenants
};

struct TenantRecord {
  TenantRecord(std::string_view called, std::uint64_t hash_of_name, std::uint64_t max_requests)
      : name(called), hash(hash_of_name), requests(max_requests) {}

  const std::string name;
  const std::uint64_t hash;
  alignas(64) BoundedCount requests;  ///< in progress; away from the name, which all threads read
  std::atomic<std::uint64_t> admitted{0};
  std::atomic<std::uint64_t> refused{0};
};

class TenantTable {
 public:
  /// Of the shared record. No tenant can be called that: a name has no brackets.
  static constexpr std::string_view kOthers = "[others]";

  /// `max_unconfigured`: how many tenants besides `configured` get a record of their own.
  TenantTable(const std::vector<TenantLimit>& configured, std::uint64_t max_requests,
              std::size_t max_unconfigured);
  ~TenantTable();
  TenantTable(const TenantTable&) = delete;
  TenantTable& operator=(const TenantTable&) = delete;

  /// `hash` is name_hash(name).
  [[nodiscard]] TenantRecord& find_or_add(std::string_view name, std::uint64_t hash);

  /// All records, the shared one last.
  [[nodiscard]] std::vector<const TenantRecord*> records() const;

 private:
  using Slot = std::atomic<TenantRecord*>;

  /// Null: the table is full.
  TenantRecord* add(std::string_view name, std::uint64_t hash, std::uint64_t max_requests);

  const std::uint64_t max_requests_;
  const std::size_t capacity_;
  const std::size_t slots_count_;  ///< a power of two, more than twice the capacity
  const std::unique_ptr<Slot[]> slots_;
  TenantRecord others_;

  std::mutex adding_;
  std::atomic<std::size_t> size_{0};  ///< written under adding_
};

}  // namespace weir::admit
