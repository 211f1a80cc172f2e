// SPDX-License-Identifier: Apache-2.0
//
// How large a model's KV cache is, by its options and the metadata of its file; and what requests
// may be let in that need it.
//
// Thread-safe: values and pure functions.
#pragma once

#include <cstdint>
#include <optional>

#include "agent/model/gguf_shape.h"
#include "agent/model/loaded_model.h"

namespace weir::model {

/// As many as libllama makes room for when it is asked for these.
[[nodiscard]] std::uint64_t padded_cells(std::uint64_t cells);

/// The cells of one instance.
struct KvLayout {
  std::uint64_t context_tokens = 0;  ///< of a sequence
  std::uint64_t visible_cells = 0;   ///< to a token
  std::uint64_t cells = 0;
};
[[nodiscard]] KvLayout kv_layout(const ModelOptions& options, std::uint64_t trained_tokens);

/// Of the keys and values of all instances. What no machine has counts as 16 TiB.
[[nodiscard]] std::uint64_t kv_bytes(const ModelOptions& options, const GgufShape& shape);

/// Of all instances. All 0: the model has no cache, or its size is not known.
struct KvCapacity {
  std::uint32_t context_tokens = 0;
  std::uint64_t bytes_per_token = 0;
  std::uint64_t bytes = 0;
  /// What the requests in progress may need together; unset: any number.
  std::optional<std::uint64_t> limit_bytes{};
  bool operator==(const KvCapacity&) const = default;
};

/// Before a load, by the file.
[[nodiscard]] KvCapacity kv_capacity(const ModelOptions& options, const GgufShape& shape);
/// After it, by what libllama said.
[[nodiscard]] KvCapacity kv_capacity(const ModelOptions& options, std::uint64_t context_tokens,
                                     std::uint64_t kv_bytes);

}  // namespace weir::model
