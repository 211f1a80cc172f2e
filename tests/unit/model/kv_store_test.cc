// SPDX-License-Identifier: Apache-2.0
//
// The books and libllama's memory together, with the shipped model.
#include "agent/model/kv_store.h"

#include <gtest/gtest.h>

#include <vector>

#include "agent/model/llama_handles.h"
#include "agent/model/loaded_model.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using Tokens = std::vector<llama_token>;

struct KvStoreTest : testing::Test {
  void make(std::uint32_t sequences, std::optional<std::uint32_t> kv_tokens = {}) {
    ModelOptions options = shipped(sequences);
    options.context_tokens = 512;
    options.kv_tokens = kv_tokens;
    auto loaded = LoadedModel::load(options, [](float) { return true; });
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model.emplace(std::move(*loaded));
    kv.emplace(model->context(), /*reuse=*/true);
  }
  /// The logits of the last one, after them all.
  std::vector<float> decode(std::size_t slot, std::span<const llama_token> tokens) {
    Batch batch(64);
    const std::size_t begin = kv->length(slot);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      batch.add(tokens[i], static_cast<llama_pos>(begin + i), static_cast<llama_seq_id>(slot),
                i + 1 == tokens.size());
    }
    EXPECT_EQ(llama_decode(model->context(), batch.get()), 0);
    kv->decoded(slot, tokens);
    const float* logits = llama_get_logits_ith(model->context(), -1);
    return {logits, logits + model->vocabulary().size()};
  }
  Tokens tokens_of(std::string_view text) const { return *model->vocabulary().tokenize(text); }

  std::optional<LoadedModel> model;
  std::optional<KvStore> kv;
};

TEST_F(KvStoreTest, NewOnesComeBesideBusyOnesAndWhatWasKeptThereMovesAside) {
  make(4);
  const Tokens first = tokens_of("One windy day, a little fox went to the park.");
  const Tokens second =
      tokens_of("Lily had a red ball. She took it to her friend Tom, and they played all day");
  ASSERT_GT(second.size(), 17U);
  const Tokens third = tokens_of("Who are you?");
  EXPECT_EQ(kv->take_place(first, first.size()).slot, 0U);
  (void)decode(0, first);
  EXPECT_EQ(kv->take_place(second, second.size()).slot, 1U);
  const std::span<const llama_token> begin = std::span(second).first(second.size() - 1);
  const std::span<const llama_token> last = std::span(second).last(1);
  (void)decode(1, begin);
  const std::vector<float> expected = decode(1, last);
  kv->release(1, /*keep=*/true);

  const auto place = kv->take_place(third, third.size());
  EXPECT_EQ(place.slot, 1U);
  EXPECT_EQ(place.tokens, 0U);
  EXPECT_EQ(kv->length(1), 0U);
  EXPECT_EQ(kv->length(2), second.size());
  (void)decode(1, third);

  const auto again = kv->take_place(second, begin.size());
  EXPECT_EQ(again.slot, 2U);
  EXPECT_EQ(again.tokens, begin.size());
  EXPECT_EQ(decode(2, last), expected);
}

TEST_F(KvStoreTest, InOnePoolNothingMoves) {
  make(4, 1024);
  const Tokens first = tokens_of("One windy day, a little fox went to the park.");
  EXPECT_EQ(kv->take_place(first, first.size()).slot, 0U);
  (void)decode(0, first);
  EXPECT_EQ(kv->take_place({}, 0).slot, 1U);
  (void)decode(1, first);
  kv->release(1, /*keep=*/true);
  EXPECT_EQ(kv->take_place(tokens_of("Who are you?"), 1).slot, 2U);
  EXPECT_EQ(kv->length(1), first.size());
}

}  // namespace
}  // namespace weir::model
