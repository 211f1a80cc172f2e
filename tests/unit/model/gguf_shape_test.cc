// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_shape.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <variant>

#include "tests/fixtures/gguf_writer.h"

namespace weir::model {
namespace {

/// Of a file of these metadata alone.
template <typename Function>
auto of(const GgufWriter& writer, Function function) {
  const std::string file = writer.file();
  const auto parsed = parse_gguf(std::as_bytes(std::span(file)), file.size());
  const auto* const metadata = std::get_if<GgufMetadata>(&parsed);
  EXPECT_NE(metadata, nullptr);
  return metadata == nullptr ? decltype(function(GgufMetadata())){} : function(*metadata);
}

/// Half a billion parameters in Llama's form.
GgufWriter half_a_billion() {
  GgufWriter writer;
  writer.text("general.architecture", "llama")
      .u32("llama.context_length", 4096)
      .u32("llama.embedding_length", 896)
      .u32("llama.feed_forward_length", 4864)
      .u32("llama.block_count", 24)
      .u32("llama.attention.head_count", 14)
      .u32("llama.attention.head_count_kv", 2)
      .strings("tokenizer.ggml.tokens", {"a", "b", "c"});
  writer.tensors.push_back({"output_norm.weight", {896}, 0, "", std::nullopt});
  return writer;
}

TEST(GgufShape, IsReadFromTheMetadata) {
  const GgufShape shape = of(half_a_billion(), shape_of);
  EXPECT_EQ(shape.trained_tokens, 4096U);
  EXPECT_EQ(shape.width, 896U);
  EXPECT_EQ(shape.heads, 14U);
  EXPECT_EQ(shape.head_size, 64U);
  EXPECT_EQ(shape.inner_width, 4864U);
  EXPECT_EQ(shape.vocabulary, 3U);
  // 24 layers, 2 heads of 64 for keys and as many for values.
  EXPECT_EQ(shape.cell_keys, 3072U);
  EXPECT_EQ(shape.cell_values, 3072U);
}

TEST(GgufShape, HeadsMayDifferByLayerAndHaveTheirOwnLength) {
  GgufWriter writer = half_a_billion();
  writer.u32("llama.block_count", 3).i32s("llama.attention.head_count_kv", {2, 0, 7});
  EXPECT_EQ(of(writer, shape_of).cell_keys, (2U + 7U) * 64);
  writer.u32("llama.attention.key_length", 192).u32("llama.attention.value_length", 128);
  EXPECT_EQ(of(writer, shape_of).cell_keys, (2U + 7U) * 192);
  EXPECT_EQ(of(writer, shape_of).cell_values, (2U + 7U) * 128);
  // Without attention there are no cells.
  writer.i32s("llama.attention.head_count", {14, 14, 0});
  EXPECT_EQ(of(writer, shape_of).cell_keys, 2U * 192);
  EXPECT_EQ(of(writer, shape_of).cell_values, 2U * 128);
  writer.erase("llama.attention.head_count");
  EXPECT_EQ(of(writer, shape_of).cell_keys, 0U);
  EXPECT_EQ(of(writer, shape_of).cell_values, 0U);
}

TEST(GgufShape, ExpertsAreUsedTogether) {
  GgufWriter writer = half_a_billion();
  writer.u32("llama.expert_feed_forward_length", 768).u32("llama.expert_used_count", 8);
  EXPECT_EQ(of(writer, shape_of).inner_width, 8U * 768);
}

TEST(GgufShape, CountsWhatIsCopiedIntoAnotherOrder) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") == 0) GTEST_SKIP() << "nothing is copied without AVX2";
#endif
  GgufWriter writer = half_a_billion();
  const auto copied = [&](GgufWriter::Tensor tensor) {
    GgufWriter with = writer;
    with.tensors.push_back(std::move(tensor));
    return of(with, repacked_bytes);
  };
  EXPECT_EQ(copied({"blk.0.ffn_up.weight", {896, 4864}, GGML_TYPE_Q4_0, "", std::nullopt}),
            896U / 32 * 18 * 4864);
  EXPECT_EQ(copied({"blk.0.ffn_up_exps.weight", {896, 64, 4}, GGML_TYPE_Q4_0, "", std::nullopt}),
            896U / 32 * 18 * 64 * 4);
  // Rows are picked from it; too few rows; a vector; no other order.
  EXPECT_EQ(copied({"token_embd.weight", {896, 4864}, GGML_TYPE_Q4_0, "", std::nullopt}), 0U);
  EXPECT_EQ(copied({"blk.0.ffn_up.weight", {896, 4863}, GGML_TYPE_Q4_0, "", std::nullopt}), 0U);
  EXPECT_EQ(copied({"blk.0.bias", {896}, GGML_TYPE_Q4_0, "", std::nullopt}), 0U);
  EXPECT_EQ(copied({"blk.0.ffn_up.weight", {896, 4864}, GGML_TYPE_F16, "", std::nullopt}), 0U);
}

}  // namespace
}  // namespace weir::model
