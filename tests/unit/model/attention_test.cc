// SPDX-License-Identifier: Apache-2.0
#include "agent/model/attention.h"

#include <gtest/gtest.h>

#include "agent/model/loaded_model.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

constexpr std::uint32_t kStep = 512;

TEST(Attention, IsByMatricesForHeadsSmallerThanAVector) {
  for (const std::uint32_t size : {8U, 32U, 48U, 63U}) {
    const Attention small = choose_attention(size, 4, 512, kStep);
    EXPECT_EQ(small.flash, LLAMA_FLASH_ATTN_TYPE_DISABLED) << size;
    EXPECT_EQ(small.pass_tokens, 128U) << size;
  }
  for (const std::uint32_t size : {0U, 64U, 80U, 128U}) {
    const Attention other = choose_attention(size, 4, 512, kStep);
    EXPECT_EQ(other.flash, LLAMA_FLASH_ATTN_TYPE_AUTO) << size;
    EXPECT_EQ(other.pass_tokens, kStep) << size;
  }
}

TEST(Attention, IsNotByMatricesThatWouldBeLarge) {
  // 4 heads, 128 tokens, 4 bytes: 2 KiB for each cell.
  const Attention most = choose_attention(32, 4, 32768, kStep);
  EXPECT_EQ(most.flash, LLAMA_FLASH_ATTN_TYPE_DISABLED);
  EXPECT_EQ(most.product_bytes, 32768U * 2048);
  const Attention more = choose_attention(32, 4, 32769, kStep);
  EXPECT_EQ(more.flash, LLAMA_FLASH_ATTN_TYPE_AUTO);
  EXPECT_EQ(more.product_bytes, 0U);
}

TEST(Attention, KeepsKeysInBlocksWhereAHeadIsOne) {
  EXPECT_EQ(choose_attention(32, 4, 512, kStep).keys, GGML_TYPE_Q8_0);
  for (const std::uint32_t size : {0U, 16U, 48U, 64U, 128U}) {
    EXPECT_EQ(choose_attention(size, 4, 512, kStep).keys, GGML_TYPE_F16) << size;
  }
  // Flash attention has no use for it.
  EXPECT_EQ(choose_attention(32, 4, 32769, kStep).keys, GGML_TYPE_F16);
}

TEST(Attention, TakesNoMoreTokensAtOnceThanAStepHas) {
  EXPECT_EQ(choose_attention(32, 4, 512, 64).pass_tokens, 64U);
}

TEST(Attention, OfTheShippedModelIsByMatrices) {
  const auto model = LoadedModel::load(shipped(), [](float) { return true; });
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(head_size(model->weights().get()), 32U);
  EXPECT_EQ(llama_n_ubatch(model->context()), 128U);
}

}  // namespace
}  // namespace weir::model
