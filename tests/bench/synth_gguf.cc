// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/synth_gguf.h"

#include <gguf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

namespace weir::bench {
namespace {

struct FreeGguf {
  void operator()(gguf_context* context) const { gguf_free(context); }
};
struct FreeGgml {
  void operator()(ggml_context* context) const { ggml_free(context); }
};
struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using Gguf = std::unique_ptr<gguf_context, FreeGguf>;
using Ggml = std::unique_ptr<ggml_context, FreeGgml>;
using File = std::unique_ptr<std::FILE, CloseFile>;

constexpr double kDeviation = 0.02;
/// Beginning and ends of texts in the shipped tokenizer.
constexpr std::int64_t kQuietRows = 3;
constexpr std::size_t kBlock = 32;  ///< weights of a quantized block

/// SplitMix64 (Vigna): half a gigabyte of it takes less than a second.
class Noise {
 public:
  explicit Noise(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31U);
  }
  void fill(std::uint8_t* to, std::size_t size) {
    for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
      const std::uint64_t word = next();
      std::memcpy(to + at, &word, std::min(sizeof word, size - at));
    }
  }

 private:
  std::uint64_t state_;
};

struct Tensor {
  ggml_tensor* info = nullptr;
  enum class Content { kRandom, kOnes, kZeros } content = Content::kRandom;
  bool has_quiet_rows = false;
};

/// What makes half-precision weights: a table of normal values, drawn from by 16 random bits.
std::vector<ggml_fp16_t> normal_values(double deviation) {
  std::vector<ggml_fp16_t> values(1U << 16U);
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0, static_cast<float>(deviation));
  for (ggml_fp16_t& value : values) value = ggml_fp32_to_fp16(normal(random));
  return values;
}

class Writer {
 public:
  Writer(const SynthOptions& options, Gguf gguf, Ggml ggml)
      : options_(options),
        gguf_(std::move(gguf)),
        ggml_(std::move(ggml)),
        noise_(options.seed),
        normal_(normal_values(kDeviation)) {}

  /// Matrices are rows x columns, as they are multiplied; GGUF counts columns first.
  void matrix(const std::string& name, ggml_type type, std::uint32_t rows, std::uint32_t columns,
              bool has_quiet_rows = false) {
    add({ggml_new_tensor_2d(ggml_.get(), type, columns, rows), Tensor::Content::kRandom,
         has_quiet_rows},
        name);
  }
  void vector(const std::string& name, std::uint32_t size, Tensor::Content content) {
    add({ggml_new_tensor_1d(ggml_.get(), GGML_TYPE_F32, size), content, false}, name);
  }
  [[nodiscard]] gguf_context* meta() { return gguf_.get(); }

  Result<SynthReport> write(std::FILE* file) {
    std::vector<std::uint8_t> bytes(gguf_get_meta_size(gguf_.get()));
    gguf_get_meta_data(gguf_.get(), bytes.data());
    SynthReport report;
    const std::size_t alignment = gguf_get_alignment(gguf_.get());
    const auto put = [&] {
      report.bytes += bytes.size();
      return std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    };
    if (!put()) return os_error(errno, "write");
    for (const Tensor& tensor : tensors_) {
      bytes.resize(ggml_nbytes(tensor.info));
      fill(tensor, bytes);
      report.parameters += static_cast<std::uint64_t>(ggml_nelements(tensor.info));
      bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
      if (!put()) return os_error(errno, "write");
    }
    if (std::fflush(file) != 0) return os_error(errno, "write");
    return report;
  }

 private:
  void add(Tensor tensor, const std::string& name) {
    ggml_set_name(tensor.info, name.c_str());
    gguf_add_tensor(gguf_.get(), tensor.info);
    tensors_.push_back(tensor);
  }

  void fill(const Tensor& tensor, std::vector<std::uint8_t>& bytes) {
    switch (tensor.content) {
      case Tensor::Content::kZeros:
        std::fill(bytes.begin(), bytes.end(), std::uint8_t{0});
        return;
      case Tensor::Content::kOnes:
        for (std::size_t at = 0; at < bytes.size(); at += sizeof(float)) {
          constexpr float kOne = 1;
          std::memcpy(&bytes[at], &kOne, sizeof kOne);
        }
        return;
      case Tensor::Content::kRandom:
        break;
    }
    const std::size_t row = ggml_row_size(tensor.info->type, tensor.info->ne[0]);
    const std::size_t quiet =
        tensor.has_quiet_rows ? static_cast<std::size_t>(kQuietRows) * row : 0;
    if (tensor.info->type == GGML_TYPE_F32) {
      fill_floats(bytes);
    } else if (tensor.info->type == GGML_TYPE_F16) {
      fill_halves(bytes);
      for (std::size_t at = 0; at < quiet; at += sizeof(ggml_fp16_t)) scale_down(&bytes[at]);
    } else {
      fill_blocks(bytes, tensor.info->type);
      const std::size_t block = ggml_type_size(tensor.info->type);
      for (std::size_t at = 0; at < quiet; at += block) scale_down(&bytes[at]);
    }
  }

  static void scale_down(std::uint8_t* half) {
    ggml_fp16_t value = 0;
    std::memcpy(&value, half, sizeof value);
    value = ggml_fp32_to_fp16(ggml_fp16_to_fp32(value) / 1000);
    std::memcpy(half, &value, sizeof value);
  }

  void fill_floats(std::vector<std::uint8_t>& bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(float)) {
      const float value = ggml_fp16_to_fp32(normal_[noise_.next() & 0xffffU]);
      std::memcpy(&bytes[at], &value, sizeof value);
    }
  }

  void fill_halves(std::vector<std::uint8_t>& bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(ggml_fp16_t)) {
      std::memcpy(&bytes[at], &normal_[noise_.next() & 0xffffU], sizeof(ggml_fp16_t));
    }
  }

  /// Every quant is as likely as any other, and the scale is the same in each block. Uniform over
  /// -128..127 (Q8_0) has a standard deviation of 73.9, over -8..7 (Q4_0) of 4.6.
  void fill_blocks(std::vector<std::uint8_t>& bytes, ggml_type type) {
    const std::size_t block = ggml_type_size(type);
    const ggml_fp16_t scale =
        ggml_fp32_to_fp16(static_cast<float>(kDeviation / (type == GGML_TYPE_Q8_0 ? 73.9 : 4.6)));
    noise_.fill(bytes.data(), bytes.size());
    for (std::size_t at = 0; at < bytes.size(); at += block) {
      std::memcpy(&bytes[at], &scale, sizeof scale);
    }
  }

  const SynthOptions& options_;
  Gguf gguf_;
  Ggml ggml_;
  Noise noise_;
  std::vector<ggml_fp16_t> normal_;
  std::vector<Tensor> tensors_;
};

// ---- the two architectures ---------------------------------------------------------------------

std::vector<std::string> strings_of(const gguf_context* gguf, const char* key) {
  std::vector<std::string> all;
  const std::int64_t at = gguf_find_key(gguf, key);
  if (at < 0 || gguf_get_kv_type(gguf, at) != GGUF_TYPE_ARRAY ||
      gguf_get_arr_type(gguf, at) != GGUF_TYPE_STRING) {
    return all;
  }
  for (std::size_t i = 0; i < gguf_get_arr_n(gguf, at); ++i) {
    all.emplace_back(gguf_get_arr_str(gguf, at, i));
  }
  return all;
}

void set_strings(gguf_context* gguf, const char* key, const std::vector<std::string>& values) {
  std::vector<const char*> pointers;
  for (const std::string& value : values) pointers.push_back(value.c_str());
  gguf_set_arr_str(gguf, key, pointers.data(), pointers.size());
}

void set_kinds(gguf_context* gguf, const std::vector<std::int32_t>& kinds) {
  gguf_set_arr_data(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, kinds.data(), kinds.size());
}

void set_shape(gguf_context* gguf, const std::string& architecture, const SynthOptions& options) {
  const ModelShape& shape = options.shape;
  const auto set = [&](const char* key, std::uint32_t value) {
    gguf_set_val_u32(gguf, (architecture + "." + key).c_str(), value);
  };
  gguf_set_val_str(gguf, "general.architecture", architecture.c_str());
  gguf_set_val_str(gguf, "general.name", "synthetic-random");
  // LLAMA_FTYPE_MOSTLY_Q8_0, _Q4_0, _F16
  gguf_set_val_u32(
      gguf, "general.file_type",
      options.type == GGML_TYPE_Q8_0 ? 7U : (options.type == GGML_TYPE_Q4_0 ? 2U : 1U));
  set("vocab_size", shape.vocabulary);
  set("context_length", options.context_tokens);
  set("embedding_length", shape.width);
  set("block_count", shape.layers);
  set("feed_forward_length", shape.ffn);
  set("attention.head_count", shape.heads);
  set("attention.head_count_kv", shape.kv_heads);
}

Status lay_out_llama(const gguf_context* source, const SynthOptions& options, Writer& writer) {
  const ModelShape& shape = options.shape;
  gguf_set_kv(writer.meta(), source);
  set_shape(writer.meta(), "llama", options);
  gguf_set_val_f32(writer.meta(), "llama.attention.layer_norm_rms_epsilon", 1e-5F);
  gguf_set_val_f32(writer.meta(), "llama.rope.freq_base", 1e4F);
  gguf_set_val_u32(writer.meta(), "llama.rope.dimension_count", shape.width / shape.heads);

  std::vector<std::string> tokens = strings_of(source, "tokenizer.ggml.tokens");
  const std::int64_t kinds_at = gguf_find_key(source, "tokenizer.ggml.token_type");
  if (tokens.empty() || kinds_at < 0 || gguf_get_arr_type(source, kinds_at) != GGUF_TYPE_INT32) {
    return make_error(Code::kInvalidArgument, options.tokenizer_path + " has no tokenizer");
  }
  if (tokens.size() > shape.vocabulary) {
    return make_error(Code::kInvalidArgument,
                      "a vocabulary of " + std::to_string(shape.vocabulary) +
                          " does not hold the tokenizer's " + std::to_string(tokens.size()));
  }
  const auto* known = static_cast<const std::int32_t*>(gguf_get_arr_data(source, kinds_at));
  std::vector<std::int32_t> kinds(known, known + tokens.size());
  for (std::size_t i = 0; tokens.size() < shape.vocabulary; ++i) {
    tokens.push_back("[x" + std::to_string(i) + "]");
    kinds.push_back(1);  // a normal token
  }
  set_strings(writer.meta(), "tokenizer.ggml.tokens", tokens);
  set_kinds(writer.meta(), kinds);

  const std::uint32_t head = shape.width / shape.heads;
  const ggml_type type = options.type;
  // As llama-quantize does it: what is looked up and multiplied with is not made coarser than Q8_0.
  writer.matrix("token_embd.weight", type == GGML_TYPE_Q4_0 ? GGML_TYPE_Q8_0 : type,
                shape.vocabulary, shape.width, true);
  writer.vector("output_norm.weight", shape.width, Tensor::Content::kOnes);
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string of = "blk." + std::to_string(layer) + ".";
    writer.vector(of + "attn_norm.weight", shape.width, Tensor::Content::kOnes);
    writer.matrix(of + "attn_q.weight", type, shape.heads * head, shape.width);
    writer.matrix(of + "attn_k.weight", type, shape.kv_heads * head, shape.width);
    writer.matrix(of + "attn_v.weight", type, shape.kv_heads * head, shape.width);
    writer.matrix(of + "attn_output.weight", type, shape.width, shape.heads * head);
    writer.vector(of + "ffn_norm.weight", shape.width, Tensor::Content::kOnes);
    writer.matrix(of + "ffn_gate.weight", type, shape.ffn, shape.width);
    writer.matrix(of + "ffn_up.weight", type, shape.ffn, shape.width);
    writer.matrix(of + "ffn_down.weight", type, shape.width, shape.ffn);
  }
  return {};
}

/// WordPieces: the words of the other tokenizer. libllama marks what begins a word with U+2581
/// and keeps what continues one bare.
std::vector<std::string> word_pieces(const gguf_context* source, std::size_t size) {
  std::vector<std::string> pieces = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  const std::string begins = "\u2581";
  for (char c = '!'; c <= '~'; ++c) {
    if (c >= 'A' && c <= 'Z') continue;  // texts are made lower case
    pieces.push_back(begins + c);
    pieces.emplace_back(1, c);
  }
  for (const std::string& token : strings_of(source, "tokenizer.ggml.tokens")) {
    constexpr std::string_view kSpace = "\u0120";  // byte-level BPE writes a space like this
    std::string_view word = token;
    const bool first = word.starts_with(kSpace);
    if (first) word.remove_prefix(kSpace.size());
    const bool lower =
        std::all_of(word.begin(), word.end(), [](char c) { return c >= 'a' && c <= 'z'; });
    if (word.size() < 2 || !lower) continue;
    pieces.push_back(first ? begins + std::string(word) : std::string(word));
  }
  pieces.resize(std::min(pieces.size(), size));
  for (std::size_t i = 0; pieces.size() < size; ++i) {
    pieces.push_back(begins + "[unused" + std::to_string(i) + "]");
  }
  return pieces;
}

Status lay_out_bert(const gguf_context* source, const SynthOptions& options, Writer& writer) {
  const ModelShape& shape = options.shape;
  gguf_context* meta = writer.meta();
  set_shape(meta, "bert", options);
  gguf_set_val_f32(meta, "bert.attention.layer_norm_epsilon", 1e-12F);
  gguf_set_val_bool(meta, "bert.attention.causal", false);
  gguf_set_val_u32(meta, "bert.pooling_type", static_cast<std::uint32_t>(options.pooling));

  const std::vector<std::string> pieces = word_pieces(source, shape.vocabulary);
  gguf_set_val_str(meta, "tokenizer.ggml.model", "bert");
  gguf_set_val_str(meta, "tokenizer.ggml.pre", "default");
  set_strings(meta, "tokenizer.ggml.tokens", pieces);
  std::vector<std::int32_t> kinds(pieces.size(), 1);
  std::fill_n(kinds.begin(), 5, 3);  // control tokens
  set_kinds(meta, kinds);
  gguf_set_val_u32(meta, "tokenizer.ggml.token_type_count", 2);
  // libllama spells it "seperator".
  constexpr std::array<std::pair<const char*, std::uint32_t>, 7> kIds = {{{"padding", 0},
                                                                          {"unknown", 1},
                                                                          {"cls", 2},
                                                                          {"bos", 2},
                                                                          {"seperator", 3},
                                                                          {"eos", 3},
                                                                          {"mask", 4}}};
  for (const auto& [name, id] : kIds) {
    gguf_set_val_u32(meta, (std::string("tokenizer.ggml.") + name + "_token_id").c_str(), id);
  }

  const auto norm = [&](const std::string& name) {
    writer.vector(name + ".weight", shape.width, Tensor::Content::kOnes);
    writer.vector(name + ".bias", shape.width, Tensor::Content::kZeros);
  };
  const auto dense = [&](const std::string& name, std::uint32_t rows, std::uint32_t columns) {
    writer.matrix(name + ".weight", options.type, rows, columns);
    writer.vector(name + ".bias", rows, Tensor::Content::kZeros);
  };
  writer.matrix("token_embd.weight", options.type, shape.vocabulary, shape.width);
  writer.matrix("position_embd.weight", GGML_TYPE_F32, options.context_tokens, shape.width);
  writer.matrix("token_types.weight", GGML_TYPE_F32, 2, shape.width);
  norm("token_embd_norm");
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string of = "blk." + std::to_string(layer) + ".";
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      dense(of + part, shape.width, shape.width);
    }
    norm(of + "attn_output_norm");
    dense(of + "ffn_up", shape.ffn, shape.width);
    dense(of + "ffn_down", shape.width, shape.ffn);
    norm(of + "layer_output_norm");
  }
  if (options.pooling == LLAMA_POOLING_TYPE_RANK) {
    dense("cls", shape.width, shape.width);
    dense("cls.output", 1, shape.width);
  }
  return {};
}

Status check(const SynthOptions& options) {
  const ModelShape& s = options.shape;
  const auto wrong = [](std::string what) {
    return make_error(Code::kInvalidArgument, std::move(what));
  };
  if (s.vocabulary == 0 || s.width == 0 || s.layers == 0 || s.heads == 0 || s.kv_heads == 0 ||
      s.ffn == 0) {
    return wrong("every number of a shape is at least 1");
  }
  // 100 billion weights are more than any machine this is meant for has room for.
  if (s.layers > 512 || s.vocabulary > 1'000'000 || s.width > 16'384 || s.ffn > 65'536) {
    return wrong(
        "a shape has at most 512 layers, a width of 16384, an ffn of 65536 and 1000000 tokens");
  }
  if (s.width % s.heads != 0 || s.heads % s.kv_heads != 0 || s.width / s.heads % 2 != 0) {
    return wrong("heads divide the width into even parts and kv heads divide the heads");
  }
  if (s.width % kBlock != 0 || s.ffn % kBlock != 0) {
    return wrong("width and ffn are multiples of " + std::to_string(kBlock));
  }
  if (options.type != GGML_TYPE_Q8_0 && options.type != GGML_TYPE_Q4_0 &&
      options.type != GGML_TYPE_F16) {
    return wrong("weights are Q8_0, Q4_0 or F16");
  }
  return {};
}

}  // namespace

Result<SynthReport> write_synthetic_model(const std::string& path, const SynthOptions& options) {
  if (Status status = check(options); !status) return std::move(status).error();
  const Gguf source(gguf_init_from_file(options.tokenizer_path.c_str(), {true, nullptr}));
  if (source == nullptr) {
    return make_error(Code::kInvalidArgument,
                      options.tokenizer_path + " is no GGUF file that can be read");
  }
  const std::size_t tensors = 16 * (static_cast<std::size_t>(options.shape.layers) + 1);
  Ggml ggml(ggml_init({tensors * ggml_tensor_overhead(), nullptr, true}));
  if (ggml == nullptr) return make_error(Code::kResourceExhausted, "no memory for the tensors");
  Writer writer(options, Gguf(gguf_init_empty()), std::move(ggml));
  Status laid_out = options.shape.architecture == ModelShape::Architecture::kBert
                        ? lay_out_bert(source.get(), options, writer)
                        : lay_out_llama(source.get(), options, writer);
  if (!laid_out) return std::move(laid_out).error();

  const std::string partial = path + ".partial." + std::to_string(getpid());
  File file(std::fopen(partial.c_str(), "wbe"));
  if (file == nullptr) return os_error(errno, partial);
  Result<SynthReport> report = writer.write(file.get());
  file.reset();
  std::error_code failed;
  if (report) std::filesystem::rename(partial, path, failed);
  if (failed) report = os_error(failed.value(), "rename to " + path);
  if (!report) std::filesystem::remove(partial, failed);
  return report;
}

}  // namespace weir::bench
