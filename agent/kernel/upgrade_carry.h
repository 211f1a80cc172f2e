// SPDX-License-Identifier: Apache-2.0
//
// Carries the records of backends and pools from the maps of an earlier agent to new ones, while
// the programs of both run: for a moment some hooks already count in the new maps and others still
// in the old ones, and one connection may be counted up here and down there.
//
// Everything that is counted is therefore moved, not copied: taken out of the old field and added
// to the new one, each atomically. So it does not matter when it is done, nor how often: what is
// counted in the old maps afterwards is moved by the next transfer(), and an upgrade that was
// interrupted can go on from the beginning. A gauge that goes below zero on one side would be held
// at zero there (bpf/lib/gauge.bpf.h); to prevent it both sides are raised by kGaugeBias meanwhile.
// A gauge stands for the multiple of the bias that it is nearest to, plus what it counts.
//
// Works on plain memory: the mmap'd maps in production, vectors in tests.
//
// Thread-safety: one thread; the kernel programs may run at any time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/upgrade_layout.h"
#include "weir/abi.h"

namespace weir::kernel {

/// More than the connections that can begin or end within one upgrade; in a pick, load with a bias
/// on every side still compares, and multiplied by the largest weight still fits in 64 bits.
inline constexpr std::uint32_t kGaugeBias = 1u << 20;

/// The elements of an array map whose values have the layout of another build. Not owned.
struct RecordMemory {
  std::span<std::byte> bytes;
  std::size_t stride = 0;  ///< value size, rounded up to 8 as the kernel does
};

class UpgradeCarry {
 public:
  struct Options {
    /// Each backend in two records, of weir_be and of weir_total. An earlier build may have had all
    /// of it in the first: then the second is empty.
    std::array<RecordMemory, 2> from_backends;
    std::array<Layout, 2> backend_layouts;
    std::array<Layout, 2> our_backend_layouts;
    RecordMemory from_pools;
    Layout pool_layout;
    Layout our_pool_layout;
    std::span<weir_be> backends;  ///< at least as many as from_backends has
    std::span<weir_total> totals;
    std::span<weir_pool> pools;
    /// Sockets keep their state: what they hold in the gauges stays theirs. If not, the gauges
    /// start at zero.
    bool sockets_kept = false;
  };

  /// kUnsupported when a layout cannot be carried, naming map and field.
  static Result<UpgradeCarry> create(Options options);

  /// Copies what user space owns (addresses, weights, names) and the breakers. The new records must
  /// be zero. Alias tables are not carried: publish the weights to build them anew.
  void copy_owned();
  /// Whether the old maps have a backend with this index; a record that is free there may still
  /// hold what the last one counted.
  [[nodiscard]] bool carries(std::size_t backend) const;
  /// Raises the gauges of the new records. Before transfer().
  void raise_gauges() const;
  /// Moves all that is counted. The first call raises the gauges of the old records.
  void transfer();
  /// Takes the bias off the new records. After the programs of the old maps have ended, and a last
  /// transfer(). Returns how many gauges would have been below zero: 0, or something was lost.
  std::size_t lower_gauges() const;

 private:
  explicit UpgradeCarry(Options options) : options_(std::move(options)) {}

  /// A field that a backend has there and here, each in one of its two records.
  struct BackendField {
    FieldMatch match;
    std::size_t from = 0;  ///< index into Options::from_backends
    std::size_t to = 0;    ///< 0: weir_be, 1: weir_total
  };

  static Result<std::vector<BackendField>> match_backends(const Options& options);
  static const BackendField* find(const std::vector<BackendField>& fields, std::string_view name);
  [[nodiscard]] std::size_t old_backends() const;
  [[nodiscard]] std::byte* old_value(const BackendField& field, std::size_t backend) const;
  [[nodiscard]] std::byte* new_value(const BackendField& field, std::size_t backend) const;
  void carry_words();

  Options options_;
  std::vector<BackendField> backend_fields_;
  std::vector<FieldMatch> pool_fields_;
  /// Of each backend: what the last transfer() found in the fields that are neither sums nor
  /// gauges.
  struct LastWords {
    std::uint64_t breaker = 0;
    std::uint32_t consecutive_failures = 0;
  };
  std::vector<LastWords> last_words_;
};

/// How a field is carried. Every field of weir_be, weir_total and weir_pool has its rule.
enum class CarryRule {
  kOwned,    ///< user space writes it: copied once
  kCounter,  ///< moved, 4 or 8 bytes
  kGauge,    ///< moved, with a bias
  kWord,     ///< the later of both: the old one, as long as the new side has not changed its own
  kLeast,    ///< the lesser; 0: none
  kLatest,   ///< the greater
  kRebuilt,  ///< from the configuration, from weights, from breakers
};

/// Unset for a field without a rule.
[[nodiscard]] std::optional<CarryRule> backend_rule(const std::string& field);
[[nodiscard]] std::optional<CarryRule> pool_rule(const std::string& field);

/// For maps that are simply adopted: takes off what an upgrade that was interrupted has left on
/// their gauges.
void lower_gauges(std::span<weir_be> backends);

}  // namespace weir::kernel
