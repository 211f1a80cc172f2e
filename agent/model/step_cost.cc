// SPDX-License-Identifier: Apache-2.0
#include "agent/model/step_cost.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace weir::model {

namespace {

// After 20 steps a sample counts a third: streams come and go faster than that, machines change
// slower.
constexpr double kDecay = 0.95;
// Enough for three unknowns; goes on from the last solution.
constexpr int kSweeps = 12;
// A step may seem this much slower than it should be, then it was held up.
constexpr double kMostSurprise = 2.0;
// Until so many samples nothing is a surprise.
constexpr std::size_t kFirstSamples = 3;
// Of the time of a token, what it costs itself at least: a prediction of nothing would make a chunk
// without bounds.
constexpr double kLeastOwnShare = 0.1;
// Positions are counted in these, to have numbers of one size in the sums.
constexpr double kPositions = 1024;

double micros(Duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

Duration duration_of(double microseconds) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double, std::micro>(microseconds));
}

std::array<double, 3> features(std::size_t tokens, std::size_t passes, std::size_t positions) {
  return {static_cast<double>(tokens), static_cast<double>(passes),
          static_cast<double>(positions) / kPositions};
}

std::array<double, 3> decode_features(const StepShape& shape) {
  return features(shape.decode_tokens, shape.decode_tokens > 0 ? 1 : 0, shape.decode_positions);
}

std::array<double, 3> prompt_features(const StepShape& shape) {
  return features(shape.prompt_tokens, shape.prompt_chunks, shape.prompt_positions);
}

}  // namespace

double StepCost::Fit::at(const Features& x) const {
  return per_token() * x[0] + parts_[1] * x[1] + parts_[2] * x[2];
}

double StepCost::Fit::per_token() const {
  return std::max(parts_[0], kLeastOwnShare * token_time_);
}

void StepCost::Fit::learn(const Features& x, double y) {
  if (samples_ >= kFirstSamples) y = std::min(y, kMostSurprise * at(x));
  y = std::max(y, 0.01);
  token_time_ = samples_ == 0 ? y / x[0] : kDecay * token_time_ + (1 - kDecay) * y / x[0];
  ++samples_;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      products_[i][j] = kDecay * products_[i][j] + x[i] * x[j] / (y * y);
    }
    with_time_[i] = kDecay * with_time_[i] + x[i] / y;
  }
  // Gauss-Seidel with no part below zero. The order is the order of belief: what one sample can
  // say is put down to the tokens.
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (std::size_t i = 0; i < 3; ++i) {
      if (products_[i][i] < 1e-12) continue;
      double rest = with_time_[i];
      for (std::size_t j = 0; j < 3; ++j) {
        if (j != i) rest -= products_[i][j] * parts_[j];
      }
      parts_[i] = std::max(0.0, rest / products_[i][i]);
    }
  }
}

void StepCost::learn(const StepShape& shape, Duration took) {
  const double time = micros(took);
  if (shape.prompt_tokens == 0) {
    if (shape.decode_tokens > 0) decode_.learn(decode_features(shape), time);
    return;
  }
  double of_prompts = time;
  if (shape.decode_tokens > 0) {
    if (!decode_.known()) return;
    of_prompts = std::max(time - decode_.at(decode_features(shape)), 0.1 * time);
  }
  prompt_.learn(prompt_features(shape), of_prompts);
}

std::optional<Duration> StepCost::decodes(const StepShape& shape) const {
  if (!decode_.known()) return std::nullopt;
  return duration_of(decode_.at(decode_features(shape)));
}

std::optional<Duration> StepCost::prompts(const StepShape& shape) const {
  if (!prompt_.known()) return std::nullopt;
  return duration_of(prompt_.at(prompt_features(shape)));
}

Duration StepCost::step(const StepShape& shape) const {
  return decodes(shape).value_or(Duration::zero()) + prompts(shape).value_or(Duration::zero());
}

std::optional<std::size_t> StepCost::chunk_within(Duration budget, std::size_t position) const {
  if (!prompt_.known()) return std::nullopt;
  // n tokens from `position` on: their positions sum up to n * position + n^2 / 2.
  const double left = micros(budget) - prompt_.per_pass();
  if (left <= 0) return 0;
  const double square = prompt_.per_position() / (2 * kPositions);
  const double linear =
      prompt_.per_token() + prompt_.per_position() * static_cast<double>(position) / kPositions;
  // The stable form of the quadratic formula: no difference of nearly equal numbers.
  const double tokens = 2 * left / (linear + std::sqrt(linear * linear + 4 * square * left));
  // What is a whole number but for rounding is one.
  return static_cast<std::size_t>(std::min(tokens + 1e-6, 1e9));
}

std::optional<std::size_t> StepCost::chunk_worth(std::size_t share) const {
  if (!prompt_.known()) return std::nullopt;
  const double tokens = static_cast<double>(share - 1) * prompt_.per_pass() / prompt_.per_token();
  return static_cast<std::size_t>(std::ceil(std::min(tokens, 1e9)));
}

}  // namespace weir::model
