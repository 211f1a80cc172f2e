// SPDX-License-Identifier: Apache-2.0
//
// What admission knows of the models, and how much of their KV caches the requests in progress will
// need. The cache itself has its memory since the model was loaded; what is bounded here is how
// much work for it is let in.
//
// Thread-safe: finding takes no lock and allocates nothing; update() and sample() from one thread
// at a time. Records stay where they are as long as the table lives, models that have gone keep
// theirs.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/admit/bounded_count.h"
#include "agent/admit/release_rate.h"
#include "agent/base/clock.h"

namespace weir::admit {

/// What admission is told of a model.
struct ModelCosts {
  std::string name;
  std::optional<std::uint32_t> context_tokens{};
  std::uint64_t kv_bytes_per_token = 0;  ///< of its KV cache; 0: it has none, or not known
  /// What requests in progress may need of it together; unset: any number.
  std::optional<std::uint64_t> kv_limit_bytes{};
};

class ModelRecord {
 public:
  explicit ModelRecord(const ModelCosts& costs) : name(costs.name) { set(costs); }
  /// What is not known now and was before stays.
  void set(const ModelCosts& costs);

  [[nodiscard]] std::optional<std::uint32_t> context_tokens() const;
  [[nodiscard]] std::optional<std::uint64_t> kv_limit_bytes() const;
  /// Of a request with so many tokens: one never holds more than its context.
  [[nodiscard]] std::uint64_t kv_bytes(std::uint64_t tokens) const;

  const std::string name;
  BoundedCount kv{0};  ///< bytes that requests in progress need
  std::atomic<std::uint64_t> kv_released{0};
  std::atomic<std::uint64_t> kv_refused{0};  ///< requests
  ReleaseRate kv_rate;

 private:
  std::atomic<std::uint32_t> context_tokens_{0};  ///< 0: not known
  std::atomic<std::uint64_t> kv_bytes_per_token_{0};
};

class ModelTable {
 public:
  /// As many as the configuration and a folder of models can name. Others have no record.
  static constexpr std::size_t kCapacity = 2048;

  explicit ModelTable(const std::vector<ModelCosts>& models);

  /// Null: not known.
  [[nodiscard]] ModelRecord* find(std::string_view name) const;
  void update(const std::vector<ModelCosts>& models);
  /// Looks at how fast requests give back.
  void sample(TimePoint now);

  /// Those that have a KV cache.
  [[nodiscard]] std::vector<const ModelRecord*> with_kv() const;

 private:
  [[nodiscard]] std::size_t size() const { return size_.load(std::memory_order_acquire); }

  // Written once, before size_ counts them in.
  std::array<std::uint64_t, kCapacity> hashes_{};  ///< side by side: all that a search looks at
  std::array<std::unique_ptr<ModelRecord>, kCapacity> records_;
  std::atomic<std::size_t> size_{0};
};

}  // namespace weir::admit
