// SPDX-License-Identifier: Apache-2.0
#include "agent/model/sampler.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/model/grammar.h"
#include "agent/model/json_schema_grammar.h"
#include "agent/model/llama_log.h"
#include "agent/model/text_assembler.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

constexpr float kNever = -1e6F;

// The vocabulary of the shipped model, without its weights: the logits are the tests' own.
class SamplerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    init_llama();
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    model_ = new ModelHandle(llama_model_load_from_file(kShippedModel.c_str(), params));
  }
  static void TearDownTestSuite() { delete std::exchange(model_, nullptr); }

  void SetUp() override { ASSERT_NE(model_->get(), nullptr); }

  [[nodiscard]] Vocabulary vocabulary() const {
    return Vocabulary(llama_model_get_vocab(model_->get()));
  }

  /// Everything is out of the question but these.
  [[nodiscard]] std::vector<float> row(const std::map<llama_token, float>& logits) const {
    std::vector<float> all(static_cast<std::size_t>(vocabulary().size()), kNever);
    for (const auto& [token, logit] : logits) all[static_cast<std::size_t>(token)] = logit;
    return all;
  }

  [[nodiscard]] Sampler sampler(const SamplingParams& params,
                                const std::vector<llama_token>& prompt = {}) const {
    auto made = Sampler::create(params, vocabulary(), prompt);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return *std::move(made);
  }

  /// The token that these parameters choose first.
  [[nodiscard]] llama_token first(const SamplingParams& params, const std::vector<float>& logits,
                                  const std::vector<llama_token>& prompt = {}) const {
    Sampler one = sampler(params, prompt);
    auto choice = one.choose(logits);
    EXPECT_TRUE(choice.ok() && choice->token);
    return choice.ok() ? choice->token.value_or(-1) : -1;
  }

  /// How often each was drawn. The parameters must not depend on what was drawn before.
  [[nodiscard]] std::map<llama_token, int> draw(SamplingParams params,
                                                const std::vector<float>& logits, int times) const {
    params.seed = 12345;
    Sampler one = sampler(params);
    std::map<llama_token, int> counts;
    for (int i = 0; i < times; ++i) {
      auto choice = one.choose(logits);
      EXPECT_TRUE(choice.ok() && choice->token);
      if (!choice.ok()) break;
      ++counts[choice->token.value_or(-1)];
    }
    return counts;
  }

  /// The token whose text is exactly this.
  [[nodiscard]] llama_token spelt(const std::string& text) const {
    for (llama_token token = 0; token < vocabulary().size(); ++token) {
      if (vocabulary().piece(token) == text) return token;
    }
    ADD_FAILURE() << "no token " << text;
    return 0;
  }

  static inline ModelHandle* model_ = nullptr;
};

SamplingParams plain() {
  SamplingParams params;
  params.temperature = 1;
  params.top_p = 1;
  params.top_k = 0;
  return params;
}

SamplingParams greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

std::shared_ptr<const Grammar> gbnf(std::string text) {
  auto parsed = Grammar::parse(std::move(text));
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return *parsed;
}

/// Pearson's statistic; what is not expected must not have come.
double chi_square(const std::map<llama_token, int>& counts,
                  const std::map<llama_token, double>& weights, int times) {
  double sum = 0;
  for (const auto& [token, weight] : weights) sum += weight;
  double statistic = 0;
  int seen = 0;
  for (const auto& [token, weight] : weights) {
    const double expected = times * weight / sum;
    const auto found = counts.find(token);
    const int count = found == counts.end() ? 0 : found->second;
    statistic += (count - expected) * (count - expected) / expected;
    seen += count;
  }
  EXPECT_EQ(seen, times) << "a token came that has no weight";
  return statistic;
}

// 0.1 % of honest samples lie above; the seeds are fixed, so a pass stays a pass.
constexpr double kLimitOfOne = 10.83;
constexpr double kLimitOfTwo = 13.82;
constexpr double kLimitOfThree = 16.27;
constexpr int kTimes = 20000;

TEST_F(SamplerTest, TemperatureScalesTheDistribution) {
  const auto logits = row({{10, 2}, {11, 1}, {12, 0}, {13, -1}});
  for (const double temperature : {0.5, 1.0, 2.0}) {
    SamplingParams params = plain();
    params.temperature = static_cast<float>(temperature);
    std::map<llama_token, double> weights;
    for (int i = 0; i < 4; ++i) weights[10 + i] = std::exp((2 - i) / temperature);
    EXPECT_LT(chi_square(draw(params, logits, kTimes), weights, kTimes), kLimitOfThree)
        << temperature;
  }
  EXPECT_EQ(first(greedy(), logits), 10);
}

TEST_F(SamplerTest, TopKTopPAndMinPCutTheTail) {
  // Probabilities 0.5, 0.25, 0.15, 0.1.
  const auto logits = row(
      {{10, std::log(0.5F)}, {11, std::log(0.25F)}, {12, std::log(0.15F)}, {13, std::log(0.1F)}});
  SamplingParams params = plain();
  params.top_k = 2;
  EXPECT_LT(chi_square(draw(params, logits, kTimes), {{10, 0.5}, {11, 0.25}}, kTimes), kLimitOfOne);
  params = plain();
  params.top_p = 0.8F;
  EXPECT_LT(chi_square(draw(params, logits, kTimes), {{10, 0.5}, {11, 0.25}, {12, 0.15}}, kTimes),
            kLimitOfTwo);
  params = plain();
  params.min_p = 0.4F;  // of 0.5
  EXPECT_LT(chi_square(draw(params, logits, kTimes), {{10, 0.5}, {11, 0.25}}, kTimes), kLimitOfOne);
}

TEST_F(SamplerTest, BiasShiftsForcesAndForbids) {
  const auto logits = row({{10, 1}, {11, 1}});
  SamplingParams params = plain();
  params.logit_bias = {{10, 1.5F}};
  EXPECT_LT(chi_square(draw(params, logits, kTimes), {{10, std::exp(1.5)}, {11, 1}}, kTimes),
            kLimitOfOne);
  SamplingParams still = greedy();
  EXPECT_EQ(first(still, logits), 10);
  still.logit_bias = {{10, -100}};
  EXPECT_EQ(first(still, logits), 11);
  still.logit_bias = {{11, 100}};
  EXPECT_EQ(first(still, logits), 11);
}

TEST_F(SamplerTest, PenaltiesCountThePromptAndWhatWasChosen) {
  const auto logits = row({{10, 3}, {11, 2.5F}, {12, 2}});
  SamplingParams params = greedy();
  params.presence_penalty = 0.75F;
  EXPECT_EQ(first(params, logits), 10);
  EXPECT_EQ(first(params, logits, {10}), 11);
  EXPECT_EQ(first(params, logits, {10, 10, 11, 11}), 10);  // once for each, however often

  params = greedy();
  params.frequency_penalty = 0.4F;
  EXPECT_EQ(first(params, logits, {10}), 10);
  EXPECT_EQ(first(params, logits, {10, 10}), 11);
  Sampler chosen = sampler(params);
  std::vector<llama_token> tokens;
  for (int i = 0; i < 3; ++i) tokens.push_back(*chosen.choose(logits)->token);
  EXPECT_EQ(tokens, (std::vector<llama_token>{10, 10, 11}));

  params = greedy();
  params.repetition_penalty = 1.3F;
  EXPECT_EQ(first(params, logits, {10}), 11);
  EXPECT_EQ(first(params, row({{10, -1}, {11, -1.2F}}), {10}), 11);  // away from 0 below it too

  params.penalty_window = 2;
  EXPECT_EQ(first(params, logits, {10, 7, 8}), 10);
  EXPECT_EQ(first(params, logits, {7, 10, 8}), 11);
  params.penalty_window = 0;
  EXPECT_EQ(first(params, logits, {10, 10, 10}), 10);
}

TEST_F(SamplerTest, ASeedRepeats) {
  const auto logits = row({{10, 1}, {11, 1}, {12, 1}, {13, 1}});
  const auto sequence = [&](std::optional<std::uint32_t> seed) {
    SamplingParams params = plain();
    params.seed = seed;
    Sampler one = sampler(params);
    std::vector<llama_token> tokens;
    for (int i = 0; i < 64; ++i) tokens.push_back(*one.choose(logits)->token);
    return tokens;
  };
  EXPECT_EQ(sequence(1), sequence(1));
  EXPECT_NE(sequence(1), sequence(2));
  EXPECT_EQ(sequence(LLAMA_DEFAULT_SEED), sequence(LLAMA_DEFAULT_SEED));
  EXPECT_NE(sequence(std::nullopt), sequence(std::nullopt));
}

TEST_F(SamplerTest, RejectsWithParameterValueAndRange) {
  const std::vector<std::pair<std::function<void(SamplingParams&)>, std::string>> cases = {
      {[](auto& p) { p.temperature = -1; }, "temperature must be >= 0, not -1"},
      {[](auto& p) { p.temperature = std::numeric_limits<float>::quiet_NaN(); },
       "temperature must be >= 0, not nan"},
      {[](auto& p) { p.top_p = 0; }, "top_p must be in (0, 1], not 0"},
      {[](auto& p) { p.min_p = 1.5F; }, "min_p must be in [0, 1], not 1.5"},
      {[](auto& p) { p.repetition_penalty = 0; }, "repetition_penalty must be in [0.1, 10], not 0"},
      {[](auto& p) { p.frequency_penalty = 3; }, "frequency_penalty must be in [-2, 2], not 3"},
      {[](auto& p) { p.presence_penalty = -3; }, "presence_penalty must be in [-2, 2], not -3"},
      {[](auto& p) { p.penalty_window = 65537; },
       "penalty_window must be at most 65536, not 65537"},
      {[](auto& p) { p.logprobs = 21; }, "logprobs must be at most 20, not 21"},
      {[](auto& p) {
         p.logit_bias = {{1, 101}};
       },
       "logit_bias must be in [-100, 100], not 101"},
      {[this](auto& p) {
         p.logit_bias = {{vocabulary().size(), 1}};
       },
       fmt::format("logit_bias must name tokens in 0..{} of this model, not {}",
                   vocabulary().size() - 1, vocabulary().size())},
      {[](auto& p) {
         p.logit_bias = {{-1, 1}};
       },
       fmt::format("logit_bias must name tokens in 0..{} of this model, not -1",
                   vocabulary().size() - 1)},
  };
  for (const auto& [change, message] : cases) {
    SamplingParams params;
    change(params);
    const auto made = Sampler::create(params, vocabulary(), {});
    ASSERT_FALSE(made.ok()) << message;
    EXPECT_EQ(made.error().code, Code::kInvalidArgument);
    EXPECT_EQ(made.error().message, message);
  }
}

TEST_F(SamplerTest, LogprobsAreTheModelsOwn) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(static_cast<std::size_t>(vocabulary().size()));
  for (int round = 0; round < 20; ++round) {
    for (float& logit : logits) logit = normal(random);
    // Whatever else is said, the figures are those of the raw logits.
    SamplingParams params = plain();
    params.temperature = 0.3F + 0.1F * static_cast<float>(round);
    params.top_k = 40;
    params.logit_bias = {{5, 3}};
    params.logprobs = 5;
    Sampler one = sampler(params);
    auto choice = one.choose(logits);
    ASSERT_TRUE(choice.ok() && choice->token);
    if (vocabulary().ends_generation(*choice->token)) continue;
    ASSERT_TRUE(choice->logprob);

    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    const auto chosen = static_cast<std::size_t>(*choice->token);
    EXPECT_NEAR(choice->logprob->chosen.logprob, logits[chosen] - std::log(sum), 1e-4);
    EXPECT_EQ(choice->logprob->chosen.bytes, vocabulary().piece(*choice->token));

    ASSERT_EQ(choice->logprob->most_likely.size(), 5U);
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    double mass = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(choice->logprob->most_likely[i].logprob, sorted[i] - std::log(sum), 1e-4);
      mass += std::exp(choice->logprob->most_likely[i].logprob);
    }
    EXPECT_LE(mass, 1 + 1e-6);
    EXPECT_LE(choice->logprob->chosen.logprob, choice->logprob->most_likely[0].logprob);
  }
}

TEST_F(SamplerTest, WhoDidNotAskGetsNoLogprobs) {
  Sampler one = sampler(greedy());
  EXPECT_EQ(one.choose(row({{spelt("a"), 1}}))->logprob, std::nullopt);
  SamplingParams none = greedy();
  none.logprobs = 0;
  Sampler only_chosen = sampler(none);
  const auto choice = only_chosen.choose(row({{spelt("a"), 1}}));
  ASSERT_TRUE(choice->logprob);
  EXPECT_TRUE(choice->logprob->most_likely.empty());
}

// ---- grammars -----------------------------------------------------------------------------------

TEST_F(SamplerTest, AGrammarHoldsAtEveryTemperature) {
  const llama_token a = spelt("a");
  const llama_token b = spelt("b");
  const llama_token c = spelt("c");
  const auto logits = row({{a, 3}, {b, 1}, {c, 0}});
  const auto only_bc = gbnf("root ::= [bc]*");
  SamplingParams params = greedy();
  params.grammar = only_bc;
  EXPECT_EQ(first(params, logits), b);
  params.logit_bias = {{b, -100}};
  EXPECT_EQ(first(params, logits), c);

  // What is left has the proportions that the model gave it, with and without top-k.
  params = plain();
  params.grammar = gbnf("root ::= [bc]*");
  EXPECT_LT(chi_square(draw(params, logits, kTimes / 4), {{b, std::exp(1)}, {c, 1}}, kTimes / 4),
            kLimitOfOne);
  params.top_k = 2;
  const auto counts = draw(params, logits, kTimes / 4);
  EXPECT_EQ(counts.count(a), 0U);
  EXPECT_GT(counts.at(b), counts.at(c));
}

TEST_F(SamplerTest, AGrammarEndsTheText) {
  const llama_token a = spelt("a");
  llama_token end = -1;
  for (llama_token token = 0; token < vocabulary().size() && end < 0; ++token) {
    if (vocabulary().ends_generation(token)) end = token;
  }
  ASSERT_GE(end, 0);
  SamplingParams params = greedy();
  params.grammar = gbnf("root ::= \"aa\" \"a\"?");
  Sampler one = sampler(params);
  // The model would rather end, and may not before the grammar does.
  const auto logits = row({{end, 9}, {a, 1}});
  EXPECT_EQ(one.choose(logits)->token, a);
  EXPECT_EQ(one.choose(logits)->token, a);
  EXPECT_EQ(one.choose(logits)->token, end);

  // Where nothing may follow, the text ends whatever the model wants.
  params.grammar = gbnf("root ::= \"a\"");
  Sampler exact = sampler(params);
  EXPECT_EQ(exact.choose(logits)->token, a);
  const auto last = exact.choose(logits);
  ASSERT_TRUE(last.ok());
  EXPECT_EQ(last->token, std::nullopt);
}

TEST_F(SamplerTest, WhatCannotBeSpeltOrFollowedIsAnError) {
  SamplingParams params = greedy();
  params.grammar = gbnf("root ::= root root root | root root | [a-z ]");
  Sampler ambiguous = sampler(params);
  const auto logits = row({{spelt("a"), 1}});
  std::string message;
  for (int i = 0; i < 5000 && message.empty(); ++i) {
    const auto choice = ambiguous.choose(logits);
    if (!choice.ok()) message = choice.error().message;
  }
  EXPECT_TRUE(message.starts_with("grammar: it leaves too many ways")) << message;
}

/// Draws from a model that knows nothing until the grammar ends the text.
std::string random_text(Sampler one, const Vocabulary& vocabulary, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(static_cast<std::size_t>(vocabulary.size()));
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    for (std::size_t token = 0; token < logits.size(); ++token) {
      logits[token] = normal(random);
      if (vocabulary.ends_generation(static_cast<llama_token>(token))) logits[token] += 6;
      // Quotes and brackets end what else would go on for long.
      if (vocabulary.piece(static_cast<llama_token>(token)).find_first_of("\"]}") !=
          std::string::npos) {
        logits[token] += 6;
      }
    }
    const auto choice = one.choose(logits);
    EXPECT_TRUE(choice.ok()) << choice.error().message << " after " << text;
    if (!choice.ok() || !choice->token || vocabulary.ends_generation(*choice->token)) return text;
    text += vocabulary.piece(*choice->token);
  }
  ADD_FAILURE() << "no end: " << text.substr(0, 200);
  return text;
}

TEST_F(SamplerTest, GeneratedTextIsJsonOfTheSchema) {
  const auto schema = boost::json::parse(R"({
    "type": "object",
    "properties": {
      "name": {"type": "string", "maxLength": 12},
      "age": {"type": "integer", "minimum": 0, "maximum": 150},
      "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 3},
      "note": {"type": ["string", "null"]}
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": false
  })");
  const auto text_of_grammar = json_schema_grammar(schema);
  ASSERT_TRUE(text_of_grammar.ok());
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    SamplingParams params = plain();
    params.seed = seed;
    params.grammar = gbnf(*text_of_grammar);
    const std::string text = random_text(sampler(params), vocabulary(), seed);
    boost::json::error_code failure;
    const auto value = boost::json::parse(text, failure);
    ASSERT_FALSE(failure) << text;
    const auto& object = value.as_object();
    EXPECT_LE(object.at("name").as_string().size(), 12U * 4) << text;
    EXPECT_GE(object.at("age").as_int64(), 0);
    EXPECT_LE(object.at("age").as_int64(), 150);
    const auto& tags = object.at("tags").as_array();
    EXPECT_TRUE(tags.size() >= 1 && tags.size() <= 3) << text;
    for (const auto& tag : tags) EXPECT_TRUE(tag == "x" || tag == "y") << text;
    if (const auto* note = object.if_contains("note")) {
      EXPECT_TRUE(note->is_null() || note->is_string());
      EXPECT_EQ(object.size(), 4U);
    } else {
      EXPECT_EQ(object.size(), 3U);
    }
  }
}

// The same texts as libllama's own reading of the same grammar, where that is safe to ask.
TEST_F(SamplerTest, FollowsGrammarsAsLibllamaDoes) {
  const std::vector<std::string> grammars = {
      "root ::= [a-m]+ (\" \" [a-z]{2,5})* \".\"?",
      "root ::= (\"th\" | \"the\" | \"a\") \" \" [^aeiou]{0,4} \"s\"*",
      "root ::= \"(\" root \")\" | [a-c] root | \"\"",
      json_object_grammar(),
  };
  std::mt19937 random(5);
  for (const std::string& text : grammars) {
    const SamplerHandle theirs(
        llama_sampler_init_grammar(llama_model_get_vocab(model_->get()), text.c_str(), "root"));
    ASSERT_NE(theirs, nullptr) << text;
    GrammarMatcher ours(gbnf(text));
    for (int step = 0; step < 12; ++step) {
      std::vector<llama_token_data> all;
      for (llama_token token = 0; token < vocabulary().size(); ++token)
        all.push_back({token, 0, 0});
      llama_token_data_array array{all.data(), all.size(), -1, false};
      llama_sampler_apply(theirs.get(), &array);
      std::vector<llama_token> fitting;
      for (const llama_token_data& each : all) {
        const bool fits = each.logit == 0;
        const std::string piece = vocabulary().piece(each.id);
        if (vocabulary().ends_generation(each.id)) {
          EXPECT_EQ(fits, ours.complete()) << text;
        } else if (!piece.empty()) {
          // libllama leaves the later bytes of a character unchecked within a token, and takes no
          // NUL wherever it stands.
          if (replace_invalid_utf8(piece) != piece || piece.front() == '\0') continue;
          EXPECT_EQ(fits, ours.accepts(piece)) << text << " on " << piece << " in step " << step;
          if (fits) fitting.push_back(each.id);
        }
      }
      if (fitting.empty()) break;
      const llama_token next = fitting[random() % fitting.size()];
      llama_sampler_accept(theirs.get(), next);
      ASSERT_TRUE(ours.advance(vocabulary().piece(next)));
    }
  }
}

}  // namespace
}  // namespace weir::model
