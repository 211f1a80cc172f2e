// SPDX-License-Identifier: Apache-2.0
//
// The half of gguf_check.h that is about the model. Keys, types and limits are those of libllama
// 0.5.0 (llama-arch.cpp, llama-model.cpp, llama-hparams.h, llama-vocab.cpp).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "agent/model/gguf_check.h"
#include "agent/model/printable.h"

namespace weir::model {

namespace {

constexpr std::uint32_t kMostLayers = 512;    // LLAMA_MAX_LAYERS
constexpr std::uint32_t kMostExperts = 1024;  // LLAMA_MAX_EXPERTS

Error refused(std::string reason) { return make_error(Code::kInvalidArgument, std::move(reason)); }

std::string quoted(std::string_view text) { return "\"" + printable(text) + "\""; }

/// What the metadata say of the architecture, and how they say it.
class Hyperparameters {
 public:
  Hyperparameters(const GgufMetadata& metadata, std::string_view architecture)
      : metadata_(metadata), architecture_(architecture) {}

  [[nodiscard]] std::string key(std::string_view name) const {
    return fmt::format("{}.{}", architecture_, name);
  }
  [[nodiscard]] const GgufEntry* find(std::string_view name) const {
    return metadata_.find(key(name));
  }
  /// Unset when it is missing, or not a single number: some are arrays with one for each layer.
  [[nodiscard]] std::optional<std::uint32_t> number(std::string_view name) const {
    const GgufEntry* entry = find(name);
    return entry == nullptr ? std::nullopt : entry->uint32();
  }
  [[nodiscard]] std::string_view architecture() const { return architecture_; }
  [[nodiscard]] const GgufMetadata& metadata() const { return metadata_; }

  /// The first tensor that belongs to attention heads; null when there is none.
  [[nodiscard]] const GgufTensor* attention_tensor() const {
    const auto found = std::find_if(
        metadata_.tensors.begin(), metadata_.tensors.end(), [](const GgufTensor& tensor) {
          return tensor.name.starts_with("blk.") && (tensor.name.ends_with(".attn_q.weight") ||
                                                     tensor.name.ends_with(".attn_qkv.weight"));
        });
    return found == metadata_.tensors.end() ? nullptr : &*found;
  }

 private:
  const GgufMetadata& metadata_;
  const std::string architecture_;
};

Result<std::string_view> architecture_of(const GgufMetadata& metadata) {
  // Other things that come as GGUF, told by what their converters write.
  if (const GgufEntry* kind = metadata.find("general.type")) {
    const std::string_view text = kind->text().value_or("");
    for (const std::string_view other : {"adapter", "imatrix", "mmproj", "vocab"}) {
      if (text == other) {
        return refused(fmt::format("its general.type is \"{}\": it is no model by itself", other));
      }
    }
  }
  const GgufEntry* entry = metadata.find("general.architecture");
  if (entry == nullptr) {
    return refused("it does not name its architecture: there is no general.architecture");
  }
  const auto name = entry->text();
  if (!name) {
    return refused(
        fmt::format("it does not name its architecture: general.architecture is of type "
                    "{}, not a string",
                    to_string(entry->type)));
  }
  if (name->empty() || name->find('\0') != std::string_view::npos) {
    return refused(fmt::format("general.architecture is {}", quoted(*name)));
  }
  return *name;
}

/// A number that every model has.
Result<std::uint32_t> required(const Hyperparameters& model, std::string_view name,
                               std::uint32_t most) {
  const std::string key = model.key(name);
  const GgufEntry* entry = model.metadata().find(key);
  if (entry == nullptr)
    return refused(fmt::format("there is no {} in its metadata", printable(key)));
  const auto value = entry->uint32();
  if (!value) {
    return refused(fmt::format("{} is of type {}; it must be a uint32", printable(key),
                               to_string(entry->type)));
  }
  if (*value == 0 || *value > most) {
    return refused(fmt::format("{} is {}; possible are 1 to {}", printable(key), *value, most));
  }
  return *value;
}

Status check_layers(const Hyperparameters& model) {
  const std::size_t tensors = model.metadata().tensors.size();
  const auto count = model.number("block_count");
  // A part of a split model may hold fewer tensors than the model has layers.
  if (count && *count > tensors && model.metadata().find("split.count") == nullptr) {
    return refused(fmt::format("{} is {}, but the file has only {} tensors",
                               printable(model.key("block_count")), *count, tensors));
  }
  const auto layers = required(model, "block_count", kMostLayers);
  if (!layers) return layers.error();
  if (const auto extra = model.number("nextn_predict_layers"); extra && *extra > *layers) {
    return refused(fmt::format("{} is {}, more than the {} layers of the model",
                               printable(model.key("nextn_predict_layers")), *extra, *layers));
  }
  return {};
}

Status check_heads(const Hyperparameters& model, std::uint32_t embedding) {
  constexpr std::string_view kHeads = "attention.head_count";
  constexpr std::string_view kKvHeads = "attention.head_count_kv";
  const auto heads = model.number(kHeads);
  if (!heads) return {};  // one for each layer, or a model without
  const GgufTensor* attention = model.attention_tensor();
  if (*heads == 0) {
    if (attention == nullptr) return {};
    return refused(fmt::format("{} is 0, but there are tensors of attention heads ({})",
                               printable(model.key(kHeads)), quoted(attention->name)));
  }
  if (embedding % *heads != 0 && model.find("attention.key_length") == nullptr) {
    return refused(fmt::format("{} is {}, not a multiple of {}, which is {}",
                               printable(model.key("embedding_length")), embedding,
                               printable(model.key(kHeads)), *heads));
  }
  const auto kv_heads = model.number(kKvHeads);
  if (!kv_heads || attention == nullptr) return {};
  if (*kv_heads == 0 || *heads % *kv_heads != 0) {
    return refused(fmt::format("{} is {}, which does not divide {}, which is {}",
                               printable(model.key(kKvHeads)), *kv_heads,
                               printable(model.key(kHeads)), *heads));
  }
  return {};
}

/// The largest of a number, or of an array of numbers; 0 where there is neither.
std::uint32_t largest(const GgufEntry* entry) {
  if (entry == nullptr) return 0;
  if (const auto value = entry->uint32()) return *value;
  if (!entry->is_array_of(GgufType::kUint32) && !entry->is_array_of(GgufType::kInt32)) return 0;
  std::uint32_t most = 0;
  for (std::size_t at = 0; at < entry->value.size(); at += sizeof most) {
    std::uint32_t value = 0;
    std::memcpy(&value, entry->value.data() + at, sizeof value);
    most = std::max(most, value);
  }
  return most;
}

Status check_experts(const Hyperparameters& model) {
  const std::uint32_t experts = model.number("expert_count").value_or(0);
  const std::uint32_t used = largest(model.find("expert_used_count"));
  const std::uint32_t groups = model.number("expert_group_count").value_or(0);
  const std::string count_key = printable(model.key("expert_count"));
  // libllama takes one expert for none there, and forgets how many are used.
  if (model.architecture().starts_with("hunyuan") && experts <= 1) return {};
  if (experts > kMostExperts) {
    return refused(
        fmt::format("{} is {}; at most {} are possible", count_key, experts, kMostExperts));
  }
  if (used > experts || (experts > 0 && used == 0)) {
    return refused(fmt::format("{} is {}, with {} experts ({})",
                               printable(model.key("expert_used_count")), used, experts,
                               count_key));
  }
  if (groups == 0) return {};
  const std::string groups_key = printable(model.key("expert_group_count"));
  if (groups >= experts || experts % groups != 0) {
    return refused(fmt::format("{} is {}, which does not divide the {} experts ({}) into groups",
                               groups_key, groups, experts, count_key));
  }
  const std::uint32_t groups_used = model.number("expert_group_used_count").value_or(0);
  if (groups > 1 && (groups_used == 0 || groups_used >= groups)) {
    return refused(fmt::format("{} is {}, with {} groups ({})",
                               printable(model.key("expert_group_used_count")), groups_used, groups,
                               groups_key));
  }
  return {};
}

Status check_rope(const Hyperparameters& model) {
  const GgufEntry* entry = model.find("rope.scaling.type");
  const auto type = entry == nullptr ? std::nullopt : entry->text();
  if (!type) return {};  // not there; libllama says so when it is no string
  for (const std::string_view known : {"none", "linear", "yarn", "longrope"}) {
    if (*type == known) return {};
  }
  return refused(fmt::format("{} is {}; there are none, linear, yarn and longrope",
                             printable(model.key("rope.scaling.type")), quoted(*type)));
}

Status check_hyperparameters(const Hyperparameters& model) {
  if (Status layers = check_layers(model); !layers) return layers;
  constexpr std::uint32_t kMost = std::numeric_limits<std::int32_t>::max();  // libllama's int32_t
  if (const auto context = required(model, "context_length", kMost); !context) {
    return context.error();
  }
  const auto embedding = required(model, "embedding_length", kMost);
  if (!embedding) return embedding.error();
  if (Status heads = check_heads(model, *embedding); !heads) return heads;
  if (Status experts = check_experts(model); !experts) return experts;
  return check_rope(model);
}

// ---- vocabulary ---------------------------------------------------------------------------------

/// libllama keeps the text of a token as a C string, and aborts when two are the same. It gives
/// those without text a name of their own, which another token may have as well.
Status check_tokens(const GgufEntry& tokens) {
  std::unordered_set<std::string_view> seen;
  seen.reserve(tokens.count);
  std::unordered_set<std::string> named;
  GgufStrings strings(tokens);
  std::uint64_t id = 0;
  for (auto text = strings.next(); text; text = strings.next(), ++id) {
    const std::string_view token = text->substr(0, text->find('\0'));
    if (token.empty()) {
      named.insert(fmt::format("[EMPTY_{}]", id));
    } else if (!seen.insert(token).second) {
      return refused(fmt::format("the token {} occurs twice in its vocabulary", quoted(token)));
    }
  }
  for (const std::string& name : named) {
    if (seen.contains(name)) {
      return refused(
          fmt::format("its vocabulary has a token {}, as libllama calls the one without "
                      "text at that place",
                      quoted(name)));
    }
  }
  return {};
}

/// An array with something for each token; nothing wrong when there is none.
Status check_for_each(const GgufMetadata& metadata, std::string_view key, std::uint64_t tokens) {
  const GgufEntry* entry = metadata.find(key);
  if (entry == nullptr) return {};
  if (entry->type != GgufType::kArray) {
    return refused(
        fmt::format("{} is of type {}; it must be an array", key, to_string(entry->type)));
  }
  if (entry->count < tokens) {
    return refused(fmt::format("{} has {} elements for {} tokens", key, entry->count, tokens));
  }
  return {};
}

/// Only those that generation depends on: libllama ignores others that are out of range, and there
/// are files with a padding token just behind the vocabulary.
Status check_special_tokens(const GgufMetadata& metadata, std::uint64_t tokens) {
  for (const std::string_view key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                     "tokenizer.ggml.eot_token_id"}) {
    const GgufEntry* entry = metadata.find(key);
    const auto id = entry == nullptr ? std::nullopt : entry->uint32();
    if (id && *id >= tokens) {
      return refused(
          fmt::format("{} is {}, but the vocabulary has only {} tokens", key, *id, tokens));
    }
  }
  return {};
}

Status check_vocabulary(const GgufMetadata& metadata) {
  const GgufEntry* kind = metadata.find("tokenizer.ggml.model");
  if (kind == nullptr) return refused("no tokenizer in the file: there is no tokenizer.ggml.model");
  const auto name = kind->text();
  if (!name) {
    return refused(fmt::format("tokenizer.ggml.model is of type {}; it must be a string",
                               to_string(kind->type)));
  }
  if (*name == "none" || *name == "no_vocab") {
    return refused(
        fmt::format("no tokenizer in the file: tokenizer.ggml.model is {}", quoted(*name)));
  }
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  const GgufEntry* tokens = metadata.find(kTokens);
  if (tokens == nullptr) return refused(fmt::format("no vocabulary: there is no {}", kTokens));
  if (!tokens->is_array_of(GgufType::kString)) {
    const bool array = tokens->type == GgufType::kArray;
    return refused(fmt::format("{} is {}{}; it must be an array of strings", kTokens,
                               array ? "an array of " : "of type ",
                               to_string(array ? tokens->element : tokens->type)));
  }
  if (tokens->count == 0) return refused(fmt::format("no vocabulary: {} is empty", kTokens));
  if (Status unique = check_tokens(*tokens); !unique) return unique;
  for (const std::string_view key : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
    if (Status enough = check_for_each(metadata, key, tokens->count); !enough) return enough;
  }
  return check_special_tokens(metadata, tokens->count);
}

}  // namespace

Status check_gguf_model(const GgufMetadata& metadata) {
  const auto architecture = architecture_of(metadata);
  if (!architecture) return architecture.error();
  if (Status sound = check_hyperparameters(Hyperparameters(metadata, *architecture)); !sound) {
    return sound;
  }
  return check_vocabulary(metadata);
}

}  // namespace weir::model
