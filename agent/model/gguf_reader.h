// SPDX-License-Identifier: Apache-2.0
//
// What a GGUF file says about itself, read without libllama, which aborts the process on files that
// are damaged in ways it does not expect. The reader trusts no count: it takes what lies in the
// bytes that are there, and reserves nothing for what is merely claimed. It judges only what it
// must to find its way; whether the result makes a model is for gguf_check.h.
//
// Thread-safe: free functions without state. Failures are errors that name the reason and place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "agent/base/result.h"

namespace weir::model {

struct GgufHeader {
  std::uint32_t version = 0;
  std::uint64_t tensors = 0;
  std::uint64_t metadata_entries = 0;
};

/// Types of metadata values, with their numbers in the file.
enum class GgufType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};
[[nodiscard]] std::string_view to_string(GgufType type);

struct GgufEntry {
  std::string_view key;
  GgufType type = GgufType::kUint8;
  GgufType element = GgufType::kUint8;  ///< arrays only; never kArray
  std::uint64_t count = 1;              ///< elements of an array
  /// Little-endian, as in the file; strings without their length, arrays with all their elements.
  std::span<const std::byte> value;

  /// Unset when it is of another type.
  [[nodiscard]] std::optional<std::string_view> text() const;
  [[nodiscard]] std::optional<std::uint32_t> uint32() const;
  [[nodiscard]] bool is_array_of(GgufType wanted) const {
    return type == GgufType::kArray && element == wanted;
  }
};

/// Walks through an array of strings. Precondition: entry.is_array_of(GgufType::kString).
class GgufStrings {
 public:
  explicit GgufStrings(const GgufEntry& entry) : left_(entry.value) {}
  /// Unset after the last one.
  [[nodiscard]] std::optional<std::string_view> next();

 private:
  std::span<const std::byte> left_;
};

inline constexpr std::size_t kGgufDimensions = 4;

struct GgufTensor {
  std::string_view name;
  std::uint32_t dimensions = 0;                           ///< 0..kGgufDimensions
  std::array<std::uint64_t, kGgufDimensions> shape = {};  ///< elements; 1 beyond `dimensions`
  std::uint32_t type = 0;                                 ///< ggml_type, unchecked
  std::uint64_t offset = 0;                               ///< bytes, within the tensor data
};

/// Borrows the bytes that it was parsed from.
struct GgufMetadata {
  GgufHeader header;
  std::vector<GgufEntry> entries;
  std::vector<GgufTensor> tensors;
  std::uint64_t bytes = 0;  ///< all of this, from the start of the file; tensor data come after

  /// The first with that key; null when there is none.
  [[nodiscard]] const GgufEntry* find(std::string_view key) const;
};

/// What no file of a model comes near (the largest vocabularies have 262,144 tokens and 20 MB), and
/// what libllama would spend quadratic time or a multiple in memory on.
inline constexpr std::uint64_t kMostGgufEntries = 65'536;
inline constexpr std::uint64_t kMostGgufTensors = 65'536;
inline constexpr std::uint64_t kMostGgufStrings = 2'097'152;  ///< in one array
inline constexpr std::uint64_t kMostGgufBytes = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kMostGgufKeyBytes = 65'535;     // the format's own limit
inline constexpr std::uint64_t kMostGgufTensorNameBytes = 63;  // libllama's

/// `bytes` of the file's start are needed to go on; at most its size.
struct GgufNeedsMore {
  std::uint64_t bytes;
};

/// `head`: the start of a file of `file_bytes` bytes; as much as is there.
[[nodiscard]] std::variant<GgufMetadata, GgufNeedsMore, Error> parse_gguf(
    std::span<const std::byte> head, std::uint64_t file_bytes);

/// Which file this is, as far as the system can tell: whoever replaces or rewrites it changes that.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;
  auto operator<=>(const FileIdentity&) const = default;
};

/// Unset when there is no such regular file, or it may not be looked at.
[[nodiscard]] std::optional<FileIdentity> file_identity(const std::string& path);

/// The metadata of one file, with the bytes that they point into.
struct GgufHead {
  FileIdentity identity;
  std::vector<std::byte> bytes;
  GgufMetadata metadata;
};

/// Reads only the metadata, in growing pieces and not through a mapping: a file that is cut
/// meanwhile is an error then, not SIGBUS. The error names the path.
Result<GgufHead> read_gguf_head(const std::string& path);

}  // namespace weir::model
