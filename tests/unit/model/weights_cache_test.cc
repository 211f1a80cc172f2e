// SPDX-License-Identifier: Apache-2.0
#include "agent/model/weights_cache.h"

#include <gtest/gtest.h>

#include <future>
#include <latch>
#include <new>
#include <thread>

#include "agent/model/loaded_model.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

/// The cache asks nothing of a model: what it hands out need not be one.
std::shared_ptr<llama_model> some_model() {
  auto owner = std::make_shared<int>(0);
  return {owner, reinterpret_cast<llama_model*>(owner.get())};
}

class Cache : public testing::Test {
 protected:
  const std::vector<std::string> paths_{kShippedModel};
  const WeightsCache::Key key_{{FileIdentity{1, 2, 3, 4}}, true};

  Result<Weights> load() {
    ++loads_;
    auto file = ModelFile::open(paths_);
    if (!file) return std::move(file).error();
    return Weights{some_model(), *file, 3, 5};
  }
  Result<Weights> get(const WeightsCache::Key& key) {
    return cache_.get(
        key, paths_, [] { return true; }, [this] { return load(); });
  }

  WeightsCache cache_;
  int loads_ = 0;
};

TEST_F(Cache, WhoHasTheSameFileSharesTheWeights) {
  auto first = get(key_);
  auto second = get(key_);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(first->model, second->model);
  EXPECT_EQ(first->file, second->file);
  EXPECT_EQ(second->file_bytes, 3U);
  EXPECT_EQ(second->copied_bytes, 5U);
  // The pages are looked at by somebody new.
  first->file.reset();
  second->file.reset();
  const auto third = get(key_);
  ASSERT_TRUE(third.ok());
  EXPECT_EQ(third->model, first->model);
  EXPECT_NE(third->file, nullptr);
  EXPECT_EQ(loads_, 1);
}

TEST_F(Cache, OtherFilesAndOrdersAreOtherWeights) {
  const auto first = get(key_);
  WeightsCache::Key other = key_;
  other.repack = false;
  const auto second = get(other);
  other = key_;
  ++other.parts[0].modified_ns;
  const auto third = get(other);
  ASSERT_TRUE(first.ok() && second.ok() && third.ok());
  EXPECT_EQ(loads_, 3);
}

TEST_F(Cache, TheLastWhoLetsGoFreesThem) {
  auto first = get(key_);
  ASSERT_TRUE(first.ok());
  const std::weak_ptr<llama_model> model = first->model;
  first = make_error(Code::kInternal, "let go");
  EXPECT_TRUE(model.expired());
  const auto second = get(key_);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(loads_, 2);
}

TEST_F(Cache, OneLoadsWhileTheOthersWait) {
  std::latch begun(1);
  std::promise<void> go_on;
  auto gate = go_on.get_future().share();
  auto first = std::async(std::launch::async, [&] {
    return cache_.get(
        key_, paths_, [] { return true; },
        [&] {
          begun.count_down();
          gate.wait();
          return load();
        });
  });
  begun.wait();
  // Who is asked to stop waits no longer.
  const auto gives_up = cache_.get(
      key_, paths_, [] { return false; }, [this] { return load(); });
  ASSERT_FALSE(gives_up.ok());
  EXPECT_EQ(gives_up.error().code, Code::kCancelled);
  std::latch waits(1);
  auto second = std::async(std::launch::async, [&] {
    bool told = false;
    return cache_.get(
        key_, paths_,
        [&] {
          if (!std::exchange(told, true)) waits.count_down();
          return true;
        },
        [this] { return load(); });
  });
  waits.wait();
  go_on.set_value();
  const auto one = first.get();
  const auto two = second.get();
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(one->model, two->model);
}

TEST_F(Cache, AFailedLoadIsNobodyElses) {
  const auto failed = cache_.get(
      key_, paths_, [] { return true; },
      []() -> Result<Weights> { return make_error(Code::kInvalidArgument, "torn"); });
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "torn");
  EXPECT_TRUE(get(key_).ok());
  EXPECT_EQ(loads_, 1);
}

TEST_F(Cache, WhoWaitedForALoadThatThrewLoadsItself) {
  EXPECT_THROW(
      static_cast<void>(cache_.get(
          key_, paths_, [] { return true; }, []() -> Result<Weights> { throw std::bad_alloc(); })),
      std::bad_alloc);
  // Else it would wait until it is told to stop.
  const auto second = cache_.get(
      key_, paths_, [] { return false; }, [this] { return load(); });
  EXPECT_TRUE(second.ok());
  EXPECT_EQ(loads_, 1);
}

TEST(SharedWeights, TwoModelsOfOneFileMapItOnce) {
  const auto first = LoadedModel::load(shipped(1), [](float) { return true; });
  const auto second = LoadedModel::load(shipped(2), [](float) { return true; });
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->weights(), second->weights());
  EXPECT_NE(first->context(), second->context());
}

}  // namespace
}  // namespace weir::model
