// SPDX-License-Identifier: Apache-2.0
//
// How large KV caches are, before a load and after it, with the shipped model.
#include "agent/model/kv_capacity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "agent/model/registry.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

/// Of heads that are kept in half precision.
GgufShape shape(std::uint64_t cell_bytes = 1000) {
  GgufShape made;
  made.trained_tokens = 2048;
  made.heads = 8;
  made.head_size = 128;
  made.cell_keys = made.cell_values = cell_bytes / 4;
  return made;
}

TEST(KvCapacity, IsOneContextForEachSequenceAndBoundedWhenSomebodySaysSo) {
  ModelOptions options;
  options.max_sequences = 4;
  options.instances = 2;
  KvCapacity kv = kv_capacity(options, shape());
  EXPECT_EQ(kv.context_tokens, 2048U);
  EXPECT_EQ(kv.bytes, 8U * 2048 * 1000);
  EXPECT_EQ(kv.bytes_per_token, 1000U);
  EXPECT_EQ(kv.limit_bytes, std::nullopt) << "max_queue bounds it";
  options.max_kv_ratio = 3;
  kv = kv_capacity(options, shape());
  EXPECT_EQ(kv.limit_bytes, 3 * kv.bytes);
}

TEST(KvCapacity, OfAPoolSomeRequestsMayNeedAll) {
  ModelOptions options;
  options.max_sequences = 16;
  options.context_tokens = 1024;
  options.kv_tokens = 2048;
  options.max_queue = 32;
  const KvCapacity kv = kv_capacity(options, shape());
  EXPECT_EQ(kv.context_tokens, 1024U);
  EXPECT_EQ(kv.bytes, 2048U * 1000);
  EXPECT_EQ(kv.limit_bytes, 3 * kv.bytes) << "six whole contexts, or 48 requests of a part each";
  options.max_kv_ratio = 1.5;
  EXPECT_EQ(kv_capacity(options, shape()).limit_bytes, kv.bytes * 3 / 2);
}

TEST(KvCapacity, OneWholeContextAlwaysFits) {
  for (const std::uint32_t context : {32U, 100U, 512U, 1000U}) {
    ModelOptions options;
    options.context_tokens = options.kv_tokens = context;
    options.max_kv_ratio = 1;
    for (const std::uint64_t kv_bytes : {256ULL * 7, 1'000'001ULL, 5'242'880ULL}) {
      const KvCapacity kv = kv_capacity(options, context, kv_bytes);
      EXPECT_LE(kv.bytes_per_token * context, kv.limit_bytes.value_or(0))
          << context << ' ' << kv_bytes;
    }
  }
}

TEST(KvCapacity, WhatNoMachineHasIsNotKnown) {
  const ModelOptions options;
  EXPECT_EQ(kv_capacity(options, shape(0)), KvCapacity());
  EXPECT_EQ(kv_capacity(options, shape(std::uint64_t{1} << 62U)), KvCapacity());
  GgufShape ragged = shape();
  ragged.head_size = 32;
  ragged.cell_keys = ragged.cell_values = 33;
  EXPECT_GT(kv_capacity(options, ragged).bytes_per_token, 66U);
  GgufShape endless = shape();
  endless.trained_tokens = ~std::uint64_t{0};
  EXPECT_EQ(kv_capacity(options, endless).context_tokens, kMostContextTokens);
}

KvCapacity only(const Registry& registry) {
  const auto all = registry.kv_capacities();
  EXPECT_EQ(all.size(), 1U);
  return all.empty() ? KvCapacity() : all.front().kv;
}

TEST(KvCapacity, IsKnownBeforeTheLoadAndTheSameAfterIt) {
  const FakeClock clock;
  ModelOptions options = shipped(2);
  options.context_tokens = 256;
  auto made = Registry::create({options}, clock, workers());
  ASSERT_TRUE(made.ok()) << made.error().message;
  const KvCapacity before = only(**made);
  EXPECT_EQ(before.context_tokens, 256U);
  EXPECT_GT(before.bytes_per_token, 0U);
  EXPECT_EQ(before.bytes, 512 * before.bytes_per_token);
  std::promise<Status> loaded;
  (*made)->load("tiny", [&](Status status) { loaded.set_value(std::move(status)); });
  ASSERT_TRUE(loaded.get_future().get().ok());
  const KvCapacity after = only(**made);
  EXPECT_EQ(after.context_tokens, 256U);
  // libllama's log rounds to a hundredth of a MiB.
  EXPECT_NEAR(static_cast<double>(after.bytes), static_cast<double>(before.bytes), 10'486);
  const ModelInfo info = (*made)->models().front();
  EXPECT_EQ(after.bytes, info.memory.kv_bytes);
}

TEST(KvCapacity, FollowsTheFileUntilItIsLoaded) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("weir-kv-capacity-" + std::to_string(::getpid()) + ".gguf");
  std::ofstream(path) << "no model";
  const FakeClock clock;
  ModelOptions options = shipped(2);
  options.path = path;
  {
    auto made = Registry::create({options}, clock, workers());
    ASSERT_TRUE(made.ok()) << made.error().message;
    EXPECT_EQ(only(**made), KvCapacity());
    std::filesystem::copy_file(kShippedModel, path,
                               std::filesystem::copy_options::overwrite_existing);
    EXPECT_GT(only(**made).bytes, 0U);
    std::filesystem::remove(path);
    EXPECT_GT(only(**made).bytes, 0U) << "what was known stays";
  }
  std::filesystem::remove(path);
}

TEST(KvCapacity, ModelsThatDoNotGenerateHaveNone) {
  const FakeClock clock;
  ModelOptions embeds = shipped(2);
  embeds.task = Task::kEmbed;
  ModelOptions identity;
  identity.name = "same";
  identity.identity.emplace();
  auto made = Registry::create({embeds, identity}, clock, workers());
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(only(**made), KvCapacity());
}

}  // namespace
}  // namespace weir::model
