// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/response_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <list>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "agent/model/grammar.h"

namespace weir::upstream {
namespace {

using model::GenerationRequest;

std::unique_ptr<GenerationRequest> plain_request() {
  auto request = std::make_unique<GenerationRequest>();
  request->prompt = "Once";
  request->sampling.temperature = 0;
  return request;
}

TEST(CacheKey, EachFieldOfTheAnswerIsInIt) {
  const std::vector<std::function<void(GenerationRequest&)>> changes = {
      [](GenerationRequest&) {},
      [](GenerationRequest& r) { r.tenant = "other"; },
      [](GenerationRequest& r) { r.prompt = "Twice"; },
      [](GenerationRequest& r) { r.prompt = std::string("Once\0", 5); },
      [](GenerationRequest& r) { r.max_tokens = 7; },
      [](GenerationRequest& r) { r.sampling.temperature = 0.5F; },
      [](GenerationRequest& r) { r.sampling.top_p = 0.5F; },
      [](GenerationRequest& r) { r.sampling.top_k = 1; },
      [](GenerationRequest& r) { r.sampling.min_p = 0.5F; },
      [](GenerationRequest& r) { r.sampling.repetition_penalty = 1.5F; },
      [](GenerationRequest& r) { r.sampling.frequency_penalty = 1.5F; },
      [](GenerationRequest& r) { r.sampling.presence_penalty = 1.5F; },
      [](GenerationRequest& r) { r.sampling.penalty_window = 1; },
      [](GenerationRequest& r) {
        r.sampling.logit_bias = {{1, 2}};
      },
      [](GenerationRequest& r) {
        r.sampling.logit_bias = {{2, 1}};
      },
      [](GenerationRequest& r) { r.sampling.grammar = *model::Grammar::parse("root ::= [a]"); },
      [](GenerationRequest& r) { r.sampling.grammar = *model::Grammar::parse("root ::= [b]"); },
      [](GenerationRequest& r) { r.sampling.seed = 0; },
      [](GenerationRequest& r) { r.sampling.seed = 1; },
      [](GenerationRequest& r) { r.stop = {"ab"}; },
      [](GenerationRequest& r) {
        r.stop = {"a", "b"};
      },
      [](GenerationRequest& r) {
        r.stop = {"b", "a"};
      },
      [](GenerationRequest& r) {
        r.stop = {"", "ab"};
      },
  };
  std::set<std::string> keys;
  for (const auto& change : changes) {
    auto request = plain_request();
    change(*request);
    keys.insert(cache_key("m", *request));
  }
  keys.insert(cache_key("other", *plain_request()));
  EXPECT_EQ(keys.size(), changes.size() + 1);
}

TEST(CacheKey, FieldsDoNotRunIntoEachOther) {
  auto one = plain_request();
  auto other = plain_request();
  one->tenant = "ab";
  one->prompt = "c";
  other->tenant = "a";
  other->prompt = "bc";
  EXPECT_NE(cache_key("m", *one), cache_key("m", *other));
}

TEST(CacheKey, WhoAsksWhenAndHowDoesNotMatter) {
  auto one = plain_request();
  auto other = plain_request();
  other->id = "2";
  other->route = "/infer";
  other->priority = 0;
  other->deadline = TimePoint(std::chrono::hours(1));
  EXPECT_EQ(cache_key("m", *one), cache_key("m", *other));
}

TEST(CacheKey, OnlyGreedyOrSeededTextCanBeKept) {
  auto request = plain_request();
  EXPECT_TRUE(is_cacheable(*request));
  request->sampling.temperature = 0.8F;
  EXPECT_FALSE(is_cacheable(*request));
  request->sampling.seed = 0;
  EXPECT_TRUE(is_cacheable(*request));
  request->sampling.logprobs = 0;
  EXPECT_FALSE(is_cacheable(*request));
}

CachedAnswer text_of(std::string text) { return {std::move(text), {}, {}}; }

TEST(ResponseCache, GivesBackWhatWasPut) {
  ResponseCache cache(2, 1 << 20);
  cache.put("k", {"text", model::FinishReason::kLength, {3, 4}});
  const auto answer = cache.get("k");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->text, "text");
  EXPECT_EQ(answer->reason, model::FinishReason::kLength);
  EXPECT_EQ(answer->usage.completion_tokens, 4U);
  EXPECT_FALSE(cache.get("K"));
}

TEST(ResponseCache, LeastRecentlyUsedLeavesFirst) {
  ResponseCache cache(2, 1 << 20);
  cache.put("a", text_of("1"));
  cache.put("b", text_of("2"));
  EXPECT_TRUE(cache.get("a"));
  cache.put("c", text_of("3"));
  EXPECT_FALSE(cache.get("b"));
  EXPECT_EQ(cache.get("a")->text, "1");
  EXPECT_EQ(cache.get("c")->text, "3");
}

TEST(ResponseCache, ANewAnswerTakesThePlaceOfTheOld) {
  ResponseCache cache(2, 1 << 20);
  cache.put("a", text_of("old"));
  cache.put("a", text_of("newer"));
  EXPECT_EQ(cache.size().entries, 1U);
  EXPECT_EQ(cache.size().bytes, 1 + 5 + ResponseCache::kEntryOverheadBytes);
  EXPECT_EQ(cache.get("a")->text, "newer");
}

TEST(ResponseCache, IsBoundedInBytes) {
  constexpr std::uint64_t kOne = 10 + ResponseCache::kEntryOverheadBytes;
  ResponseCache cache(100, 3 * kOne);
  for (const char* key : {"1", "2", "3", "4"}) cache.put(key, text_of("123456789"));
  EXPECT_EQ(cache.size().entries, 3U);
  EXPECT_EQ(cache.size().bytes, 3 * kOne);
  EXPECT_FALSE(cache.get("1"));
  // One that is larger than everything pushes nobody out.
  EXPECT_FALSE(cache.can_hold(1, 3 * kOne));
  cache.put("big", text_of(std::string(3 * kOne, 'x')));
  EXPECT_EQ(cache.size().entries, 3U);
}

TEST(ResponseCache, NoBoundMeansNothingIsKept) {
  ResponseCache no_entries(0, 1 << 20);
  no_entries.put("a", text_of(""));
  EXPECT_FALSE(no_entries.get("a"));
  ResponseCache no_bytes(10, 0);
  no_bytes.put("a", text_of(""));
  EXPECT_FALSE(no_bytes.get("a"));
}

// Against the simplest thing that could be right.
TEST(ResponseCache, AgreesWithAModelUnderRandomUse) {
  constexpr std::size_t kEntries = 8;
  constexpr std::uint64_t kBytes = 8 * (ResponseCache::kEntryOverheadBytes + 20);
  for (unsigned seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    ResponseCache cache(kEntries, kBytes);
    std::list<std::pair<std::string, std::string>> model;  // most recently used first
    const auto find = [&](const std::string& key) {
      return std::find_if(model.begin(), model.end(),
                          [&](const auto& e) { return e.first == key; });
    };
    for (int step = 0; step < 5000; ++step) {
      const std::string key = "k" + std::to_string(random() % 16);
      if (random() % 2 == 0) {
        const std::string text(random() % 60, 'x');
        cache.put(key, text_of(text));
        if (const auto old = find(key); old != model.end()) model.erase(old);
        model.emplace_front(key, text);
        const auto bytes = [&] {
          std::uint64_t sum = 0;
          for (const auto& [k, t] : model) {
            sum += k.size() + t.size() + ResponseCache::kEntryOverheadBytes;
          }
          return sum;
        };
        while (model.size() > kEntries || bytes() > kBytes) model.pop_back();
        ASSERT_EQ(cache.size().bytes, bytes());
      } else {
        const auto expected = find(key);
        const auto got = cache.get(key);
        ASSERT_EQ(got.has_value(), expected != model.end()) << seed << " " << step;
        if (!got) continue;
        ASSERT_EQ(got->text, expected->second);
        model.splice(model.begin(), model, expected);
      }
      ASSERT_EQ(cache.size().entries, model.size());
    }
  }
}

}  // namespace
}  // namespace weir::upstream
