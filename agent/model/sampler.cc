// SPDX-License-Identifier: Apache-2.0
#include "agent/model/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <utility>

#include "agent/model/grammar.h"

namespace weir::model {

namespace {

// Below it the most likely token wins in any case, and logits divided by it would overflow.
constexpr float kGreedyBelow = 1e-5F;

// Of the most likely tokens that must be held against a grammar, before all the others are.
constexpr std::size_t kTriedInOrder = 64;

constexpr float kMaxBias = 100;   // OpenAI's
constexpr float kMaxPenalty = 2;  // OpenAI's
constexpr float kMinRepetition = 0.1F;
constexpr float kMaxRepetition = 10;

Status check_range(const char* name, float value, float min, float max) {
  if (value >= min && value <= max) return {};
  return make_error(Code::kInvalidArgument,
                    fmt::format("{} must be in [{}, {}], not {}", name, min, max, value));
}

Status check(const SamplingParams& params) {
  if (!std::isfinite(params.temperature) || params.temperature < 0) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("temperature must be >= 0, not {}", params.temperature));
  }
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("top_p must be in (0, 1], not {}", params.top_p));
  }
  if (auto s = check_range("min_p", params.min_p, 0, 1); !s) return s;
  if (auto s = check_range("repetition_penalty", params.repetition_penalty, kMinRepetition,
                           kMaxRepetition);
      !s) {
    return s;
  }
  if (auto s =
          check_range("frequency_penalty", params.frequency_penalty, -kMaxPenalty, kMaxPenalty);
      !s) {
    return s;
  }
  if (auto s = check_range("presence_penalty", params.presence_penalty, -kMaxPenalty, kMaxPenalty);
      !s) {
    return s;
  }
  if (params.penalty_window > SamplingParams::kMaxPenaltyWindow) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("penalty_window must be at most {}, not {}",
                                  SamplingParams::kMaxPenaltyWindow, params.penalty_window));
  }
  if (params.logprobs.value_or(0) > SamplingParams::kMaxLogprobs) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("logprobs must be at most {}, not {}",
                                  SamplingParams::kMaxLogprobs, *params.logprobs));
  }
  return {};
}

Status check_biases(const std::vector<LogitBias>& biases, std::int32_t tokens) {
  for (const LogitBias& bias : biases) {
    if (bias.token < 0 || bias.token >= tokens) {
      return make_error(Code::kInvalidArgument,
                        fmt::format("logit_bias must name tokens in 0..{} of this model, not {}",
                                    tokens - 1, bias.token));
    }
    if (auto s = check_range("logit_bias", bias.bias, -kMaxBias, kMaxBias); !s) return s;
  }
  return {};
}

SamplerHandle make_chain() {
  llama_sampler_chain_params params = llama_sampler_chain_default_params();
  params.no_perf = true;
  return SamplerHandle(llama_sampler_chain_init(params));
}

// In lanes, which the compiler makes vectors of: a tenth of the time of std::max_element.
float highest(std::span<const float> logits) {
  std::array<float, 16> lanes;
  lanes.fill(logits.front());
  std::size_t at = 0;
  for (; at + lanes.size() <= logits.size(); at += lanes.size()) {
    for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
      const float logit = logits[at + lane];
      lanes[lane] = logit > lanes[lane] ? logit : lanes[lane];
    }
  }
  for (; at < logits.size(); ++at) lanes[0] = std::max(lanes[0], logits[at]);
  return *std::max_element(lanes.begin(), lanes.end());
}

llama_token most_likely(std::span<const float> logits) {
  return static_cast<llama_token>(std::find(logits.begin(), logits.end(), highest(logits)) -
                                  logits.begin());
}

// As large as the vocabulary, and of use within one call only: one for the thread, not for each
// sequence.
std::vector<llama_token_data>& candidates_of(std::span<const float> logits) {
  thread_local std::vector<llama_token_data> candidates;
  candidates.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    candidates[i] = {static_cast<llama_token>(i), logits[i], 0};
  }
  return candidates;
}

bool less_likely(const llama_token_data& a, const llama_token_data& b) {
  return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

}  // namespace

Sampler::Sampler(const SamplingParams& params, const Vocabulary& vocabulary)
    : vocabulary_(vocabulary),
      greedy_(params.temperature < kGreedyBelow),
      top_k_(params.top_k > 0 ? static_cast<std::size_t>(params.top_k) : 0),
      logprobs_(params.logprobs) {
  if (params.grammar) grammar_.emplace(params.grammar);
}

Result<Sampler> Sampler::create(const SamplingParams& params, const Vocabulary& vocabulary,
                                std::span<const llama_token> prompt) {
  if (auto status = check(params); !status) return std::move(status).error();
  if (auto status = check_biases(params.logit_bias, vocabulary.size()); !status) {
    return std::move(status).error();
  }
  Sampler sampler(params, vocabulary);
  sampler.add_penalties(params, prompt);
  if (!sampler.greedy_) sampler.add_selection(params);
  return sampler;
}

void Sampler::add_penalties(const SamplingParams& params, std::span<const llama_token> prompt) {
  const bool penalties =
      params.penalty_window > 0 && (params.repetition_penalty != 1 ||
                                    params.frequency_penalty != 0 || params.presence_penalty != 0);
  if (params.logit_bias.empty() && !penalties) return;
  adjust_ = make_chain();  // a chain owns what is added to it
  if (!params.logit_bias.empty()) {
    std::vector<llama_logit_bias> biases;
    for (const LogitBias& bias : params.logit_bias) biases.push_back({bias.token, bias.bias});
    llama_sampler_chain_add(
        adjust_.get(),
        llama_sampler_init_logit_bias(vocabulary_.size(), static_cast<std::int32_t>(biases.size()),
                                      biases.data()));
  }
  if (penalties) {
    llama_sampler_chain_add(
        adjust_.get(),
        llama_sampler_init_penalties(
            vocabulary_.size(), static_cast<std::int32_t>(params.penalty_window),
            params.repetition_penalty, params.frequency_penalty, params.presence_penalty));
    for (const llama_token token :
         prompt.last(std::min<std::size_t>(prompt.size(), params.penalty_window))) {
      llama_sampler_accept(adjust_.get(), token);
    }
  }
}

void Sampler::add_selection(const SamplingParams& params) {
  select_ = make_chain();
  if (params.top_k > 0) {
    llama_sampler_chain_add(select_.get(), llama_sampler_init_top_k(params.top_k));
  }
  if (params.top_p < 1) {
    llama_sampler_chain_add(select_.get(), llama_sampler_init_top_p(params.top_p, 1));
  }
  if (params.min_p > 0) {
    llama_sampler_chain_add(select_.get(), llama_sampler_init_min_p(params.min_p, 1));
  }
  llama_sampler_chain_add(select_.get(), llama_sampler_init_temp(params.temperature));
  std::uint32_t seed = params.seed ? *params.seed : std::random_device{}();
  if (seed == LLAMA_DEFAULT_SEED) {
    seed = 0;  // libllama reads this value as "random", and a given seed must repeat
  }
  llama_sampler_chain_add(select_.get(), llama_sampler_init_dist(seed));
}

Result<Sampler::Choice> Sampler::choose(std::span<const float> logits) {
  if (grammar_) {
    if (grammar_->exhausted()) return Choice{};
    grammar_->begin_step();
  }
  std::optional<llama_token> token = choose_freely(logits);
  if (grammar_ && !fits(*token)) token = choose_fitting(logits);
  if (grammar_ && grammar_->gave_up()) {
    return make_error(Code::kInvalidArgument,
                      "grammar: it leaves too many ways to read the text so far: make it less "
                      "ambiguous or ask for less text");
  }
  if (!token) {
    if (grammar_->complete()) return Choice{};
    return make_error(Code::kInvalidArgument,
                      "grammar: no token of this model can follow the text so far");
  }
  Choice choice{token, std::nullopt};
  const bool ends = vocabulary_.ends_generation(*token);
  if (grammar_ && !ends) {
    vocabulary_.piece(*token, piece_);
    (void)grammar_->advance(piece_);  // it fits
  }
  if (adjust_) llama_sampler_accept(adjust_.get(), *token);
  if (select_) llama_sampler_accept(select_.get(), *token);
  if (logprobs_ && !ends) choice.logprob = score(*token, logits);
  return choice;
}

llama_token Sampler::choose_freely(std::span<const float> logits) {
  if (greedy_ && !adjust_) return most_likely(logits);
  std::vector<llama_token_data>& candidates = candidates_of(logits);
  if (adjust_) {
    llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
    llama_sampler_apply(adjust_.get(), &array);
  }
  return select(candidates, false);
}

std::optional<llama_token> Sampler::choose_fitting(std::span<const float> logits) {
  std::vector<llama_token_data>& candidates = candidates_of(logits);
  if (adjust_) {
    llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
    llama_sampler_apply(adjust_.get(), &array);
  }
  if (!greedy_ && top_k_ == 0) {
    std::erase_if(candidates, [this](const llama_token_data& each) { return !fits(each.id); });
    if (candidates.empty()) return std::nullopt;
    return select(candidates, false);
  }
  // The most likely first, and no more of them than are asked for.
  const std::size_t wanted = greedy_ ? 1 : top_k_;
  std::vector<llama_token_data> fitting;
  std::make_heap(candidates.begin(), candidates.end(), less_likely);
  auto end = candidates.end();
  for (std::size_t tried = 0;
       tried < kTriedInOrder + wanted && fitting.size() < wanted && end != candidates.begin();
       ++tried, --end) {
    std::pop_heap(candidates.begin(), end, less_likely);
    if (fits((end - 1)->id)) fitting.push_back(*(end - 1));
  }
  // Where few fit, to sort all that do not costs more than to look at them.
  if (fitting.size() < wanted) {
    std::for_each(candidates.begin(), end, [&](const llama_token_data& each) {
      if (fits(each.id)) fitting.push_back(each);
    });
    std::sort(fitting.begin(), fitting.end(),
              [](const auto& a, const auto& b) { return less_likely(b, a); });
    fitting.resize(std::min(fitting.size(), wanted));
  }
  if (fitting.empty()) return std::nullopt;
  return select(fitting, true);
}

llama_token Sampler::select(std::span<llama_token_data> candidates, bool sorted) {
  if (greedy_) return std::max_element(candidates.begin(), candidates.end(), less_likely)->id;
  llama_token_data_array array{candidates.data(), candidates.size(), -1, sorted};
  llama_sampler_apply(select_.get(), &array);
  return array.data[array.selected].id;
}

bool Sampler::fits(llama_token token) {
  if (vocabulary_.ends_generation(token)) return grammar_->complete();
  vocabulary_.piece(token, piece_);
  // Control tokens have no text: nothing that could follow or break a grammar, without end.
  return !piece_.empty() && grammar_->accepts(piece_);
}

TokenLogprob Sampler::score(llama_token token, std::span<const float> logits) const {
  const double most = highest(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
  const double normalizer = most + std::log(sum);
  const auto logprob = [&](llama_token of) {
    return static_cast<double>(logits[static_cast<std::size_t>(of)]) - normalizer;
  };
  TokenLogprob result{scored(token, logprob(token)), {}};
  const std::size_t wanted = std::min<std::size_t>(*logprobs_, logits.size());
  if (wanted == 0) return result;
  std::vector<llama_token_data>& candidates = candidates_of(logits);
  const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::partial_sort(
      candidates.begin(), end, candidates.end(),
      [](const llama_token_data& a, const llama_token_data& b) { return less_likely(b, a); });
  for (auto each = candidates.begin(); each != end; ++each) {
    result.most_likely.push_back(scored(each->id, logprob(each->id)));
  }
  return result;
}

ScoredToken Sampler::scored(llama_token token, double logprob) const {
  // What has no probability at all has the least that a number can say: JSON has no infinity.
  return {vocabulary_.piece(token),
          static_cast<float>(std::max(logprob, static_cast<double>(-9999)))};
}

}  // namespace weir::model
