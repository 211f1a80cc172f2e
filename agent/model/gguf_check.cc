// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_check.h"

#include <fmt/format.h>
#include <ggml.h>
#include <llama.h>

#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "agent/model/printable.h"

namespace weir::model {

namespace {

constexpr std::uint32_t kDefaultAlignment = 32;  // where general.alignment is not given
// libllama counts elements in an int64_t.
constexpr std::uint64_t kMostElements = std::numeric_limits<std::int64_t>::max();

Error refused(std::string reason) { return make_error(Code::kInvalidArgument, std::move(reason)); }

std::string quoted(std::string_view text) { return "\"" + printable(text) + "\""; }

/// libllama handles names as C strings.
std::string_view up_to_nul(std::string_view text) { return text.substr(0, text.find('\0')); }

Status check_keys(const GgufMetadata& metadata) {
  std::unordered_set<std::string_view> seen;
  seen.reserve(metadata.entries.size());
  for (const GgufEntry& entry : metadata.entries) {
    if (!seen.insert(entry.key).second) {
      return refused(fmt::format("the key {} occurs twice in its metadata", quoted(entry.key)));
    }
  }
  return {};
}

Result<std::uint64_t> alignment_of(const GgufMetadata& metadata) {
  const GgufEntry* entry = metadata.find("general.alignment");
  if (entry == nullptr) return std::uint64_t{kDefaultAlignment};
  const auto alignment = entry->uint32();
  if (!alignment) {
    return refused(fmt::format("general.alignment is of type {}; it must be a uint32",
                               to_string(entry->type)));
  }
  if (!std::has_single_bit(*alignment)) {
    return refused(fmt::format("general.alignment is {}, not a power of two", *alignment));
  }
  return std::uint64_t{*alignment};
}

/// Bytes that the tensor takes, from its shape and type.
Result<std::uint64_t> tensor_bytes(const GgufTensor& tensor) {
  if (tensor.type >= GGML_TYPE_COUNT || ggml_blck_size(static_cast<ggml_type>(tensor.type)) <= 0 ||
      ggml_type_size(static_cast<ggml_type>(tensor.type)) == 0) {
    return refused(fmt::format("the tensor {} has type {}, which libllama does not know",
                               quoted(tensor.name), tensor.type));
  }
  const auto type = static_cast<ggml_type>(tensor.type);
  const auto block = static_cast<std::uint64_t>(ggml_blck_size(type));
  std::uint64_t elements = 1;
  for (const std::uint64_t side : tensor.shape) {
    if (side == 0) {
      return refused(fmt::format("the tensor {} has a dimension of 0", quoted(tensor.name)));
    }
    if (side >= kMostElements / elements) {
      return refused(fmt::format(
          "the tensor {} has more elements than can be counted: {} x {} x "
          "{} x {}",
          quoted(tensor.name), tensor.shape[0], tensor.shape[1], tensor.shape[2], tensor.shape[3]));
    }
    elements *= side;
  }
  if (tensor.shape[0] % block != 0) {
    return refused(
        fmt::format("the tensor {} has rows of {} elements, not a multiple of the {} in "
                    "a block of type {}",
                    quoted(tensor.name), tensor.shape[0], block, ggml_type_name(type)));
  }
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements / block, std::uint64_t{ggml_type_size(type)}, &bytes) ||
      bytes > kMostElements) {
    return refused(
        fmt::format("the tensor {} has more bytes than can be counted", quoted(tensor.name)));
  }
  return bytes;
}

/// `end`: where the tensor before it ends, `next`: where this one has to begin.
Status check_offset(const GgufTensor& tensor, std::string_view before, std::uint64_t end,
                    std::uint64_t next, std::uint64_t alignment) {
  if (tensor.offset == next) return {};
  if (tensor.offset % alignment != 0) {
    return refused(
        fmt::format("the tensor {} begins at {} of the tensor data, not a multiple of "
                    "the alignment {}",
                    quoted(tensor.name), tensor.offset, alignment));
  }
  if (before.empty()) {
    return refused(
        fmt::format("the tensor {} begins at {} of the tensor data; the first one has "
                    "to begin at 0",
                    quoted(tensor.name), tensor.offset));
  }
  if (tensor.offset < end) {
    return refused(
        fmt::format("the tensor {} begins at {} of the tensor data and overlaps others: "
                    "the one before it, {}, ends at {}",
                    quoted(tensor.name), tensor.offset, quoted(before), end));
  }
  return refused(
      fmt::format("the tensor {} begins at {} of the tensor data; after {} it has to "
                  "begin at {}",
                  quoted(tensor.name), tensor.offset, quoted(before), next));
}

/// The sum rounded up to a multiple of `alignment`, a power of two; unset when it overflows.
std::optional<std::uint64_t> aligned_sum(std::uint64_t a, std::uint64_t b,
                                         std::uint64_t alignment) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum) || __builtin_add_overflow(sum, alignment - 1, &sum)) {
    return std::nullopt;
  }
  return sum & ~(alignment - 1);
}

Status check_tensors(const GgufMetadata& metadata, std::uint64_t alignment,
                     std::uint64_t file_bytes) {
  const auto data = aligned_sum(metadata.bytes, 0, alignment);
  std::unordered_set<std::string_view> seen;
  seen.reserve(metadata.tensors.size());
  std::string_view before;
  std::uint64_t end = 0;
  std::uint64_t next = 0;
  for (const GgufTensor& tensor : metadata.tensors) {
    const std::string_view name = up_to_nul(tensor.name);
    if (name.empty()) return refused("a tensor has no name");
    if (!seen.insert(name).second) {
      return refused(fmt::format("the tensor {} occurs twice", quoted(name)));
    }
    const auto bytes = tensor_bytes(tensor);
    if (!bytes) return bytes.error();
    if (Status placed = check_offset(tensor, before, end, next, alignment); !placed) return placed;
    const auto following = aligned_sum(next, *bytes, alignment);
    std::uint64_t end_in_file = 0;
    if (!following || !data || __builtin_add_overflow(*data, next + *bytes, &end_in_file)) {
      return refused(fmt::format("the tensors as far as {} have more bytes than can be counted",
                                 quoted(name)));
    }
    before = name;
    end = next + *bytes;
    next = *following;
  }
  // The sums did not overflow above.
  const std::uint64_t needed = data.value_or(0) + end;
  if (needed > file_bytes) {
    return refused(
        fmt::format("truncated: {} bytes are missing (its tensors end at byte {}, the "
                    "file at byte {})",
                    needed - file_bytes, needed, file_bytes));
  }
  return {};
}

// ---- split models -------------------------------------------------------------------------------

struct Split {
  std::uint16_t number = 0;
  std::uint16_t count = 1;
};

Result<std::uint16_t> split_value(const GgufMetadata& metadata, std::string_view key) {
  const GgufEntry* entry = metadata.find(key);
  if (entry == nullptr) return refused(fmt::format("a part of a split model without {}", key));
  if (entry->type != GgufType::kUint16) {
    return refused(
        fmt::format("{} is of type {}; it must be a uint16", key, to_string(entry->type)));
  }
  std::uint16_t value = 0;
  std::memcpy(&value, entry->value.data(), sizeof value);
  return value;
}

Result<Split> split_of(const GgufMetadata& metadata) {
  if (metadata.find("split.count") == nullptr) return Split{};
  const auto count = split_value(metadata, "split.count");
  if (!count) return count.error();
  if (*count <= 1) return Split{};
  const auto number = split_value(metadata, "split.no");
  if (!number) return number.error();
  return Split{*number, *count};
}

/// The path of part `number`, by the naming that libllama goes by; unset when `path`, that of part
/// 0, does not follow it.
std::optional<std::string> part_path(const std::string& path, const Split& split,
                                     std::uint16_t number) {
  std::array<char, 4096> text{};
  if (path.size() >= text.size() - 32 ||
      llama_split_prefix(text.data(), text.size(), path.c_str(), 0, split.count) <= 0) {
    return std::nullopt;
  }
  const std::string prefix = text.data();
  if (llama_split_path(text.data(), text.size(), prefix.c_str(), number, split.count) <= 0) {
    return std::nullopt;
  }
  return text.data();
}

Status check_other_parts(const std::string& path, const Split& split, CheckedGguf& checked) {
  for (std::uint32_t i = 1; i < split.count; ++i) {
    const auto number = static_cast<std::uint16_t>(i);
    const auto other = part_path(path, split, number);
    if (!other) {
      return refused(
          fmt::format("{}: the first of {} parts, but not named like it: its name has to "
                      "end in -00001-of-{:05}.gguf",
                      path, split.count, split.count));
    }
    const auto head = read_gguf_head(*other);
    if (!head) return head.error();
    if (Status sound = check_gguf_layout(head->metadata, head->identity.bytes); !sound) {
      return std::move(sound).error().context(*other);
    }
    const auto found = split_of(head->metadata);
    if (!found) return Error(found.error()).context(*other);
    if (found->number != number || found->count != split.count) {
      return refused(fmt::format("{}: it says that it is part {} of {}, by its name it is {} of {}",
                                 *other, found->number + 1, found->count, number + 1, split.count));
    }
    checked.paths.push_back(*other);
    checked.parts.push_back(head->identity);
    checked.bytes += head->identity.bytes;
    checked.repacked_bytes += repacked_bytes(head->metadata);
  }
  return {};
}

}  // namespace

Status check_gguf_layout(const GgufMetadata& metadata, std::uint64_t file_bytes) {
  if (Status keys = check_keys(metadata); !keys) return keys;
  const auto alignment = alignment_of(metadata);
  if (!alignment) return alignment.error();
  return check_tensors(metadata, *alignment, file_bytes);
}

Result<CheckedGguf> check_gguf_file(const std::string& path) {
  const auto head = read_gguf_head(path);
  if (!head) return head.error();
  Status sound = check_gguf_layout(head->metadata, head->identity.bytes);
  if (sound) sound = check_gguf_model(head->metadata);
  if (!sound) return std::move(sound).error().context(path);
  const auto split = split_of(head->metadata);
  if (!split) return Error(split.error()).context(path);
  if (split->number != 0) {
    return refused(fmt::format("{}: part {} of {} of a split model; give the path of part 1", path,
                               split->number + 1, split->count));
  }
  CheckedGguf checked{{path},
                      {head->identity},
                      head->identity.bytes,
                      shape_of(head->metadata),
                      repacked_bytes(head->metadata)};
  if (Status others = check_other_parts(path, *split, checked); !others) {
    return std::move(others).error();
  }
  return checked;
}

}  // namespace weir::model
