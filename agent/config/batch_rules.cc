// SPDX-License-Identifier: Apache-2.0
#include "agent/config/batch_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace weir::config {
namespace {

constexpr std::uint32_t kDefaultMaxBatchSize = 32;
// libllama's bound of sequences in one call.
constexpr std::uint32_t kMostTexts = 256;
/// Of the default table of levels.
constexpr std::uint32_t kDefaultLargestLevel = 100;

void check_levels(const std::string& path, const weir::v1::Batch& batch,
                  const ReportProblem& problem) {
  std::uint32_t below = 0;
  for (int i = 0; i < batch.levels_size(); ++i) {
    const weir::v1::BatchLevel& level = batch.levels(i);
    const std::string level_path = fmt::format("{}.levels[{}]", path, i);
    const bool last = i + 1 == batch.levels_size();
    if (!level.has_max_batch_size()) problem(level_path + ".max_batch_size", "is missing");
    if (!level.has_batch_timeout_micros()) {
      problem(level_path + ".batch_timeout_micros", "is missing");
    }
    if (!last && !level.has_below_waiting()) {
      problem(level_path + ".below_waiting", "is missing: only the last level may do without");
    }
    if (last && level.has_below_waiting()) {
      problem(level_path + ".below_waiting", "must be left out in the last level");
    }
    if (!last && level.has_below_waiting()) {
      if (level.below_waiting() <= below) {
        problem(level_path + ".below_waiting",
                fmt::format("{} does not rise above {}", level.below_waiting(), below));
      }
      below = level.below_waiting();
    }
    if (batch.has_max_batch_size() && level.max_batch_size() > batch.max_batch_size()) {
      problem(level_path + ".max_batch_size",
              fmt::format("{} is more than {}.max_batch_size ({})", level.max_batch_size(), path,
                          batch.max_batch_size()));
    }
  }
}

void check_batch(const std::string& path, const weir::v1::Batch& batch, weir::v1::BatchMode mode,
                 const ReportProblem& problem) {
  if (batch.has_preferred_batch_size()) {
    if (mode != weir::v1::FIXED) {
      problem(path + ".preferred_batch_size", "applies to mode fixed only");
    } else if (batch.preferred_batch_size() > max_batch_size(batch)) {
      problem(path + ".preferred_batch_size",
              fmt::format("{} is more than max_batch_size ({})", batch.preferred_batch_size(),
                          max_batch_size(batch)));
    }
  }
  if (!batch.levels().empty() && mode != weir::v1::LEVELS) {
    problem(path + ".levels", "applies to mode levels only");
    return;
  }
  if (batch.has_batch_timeout_micros() && mode == weir::v1::LEVELS) {
    problem(path + ".batch_timeout_micros", "does not apply to mode levels: each has its own");
  }
  check_levels(path, batch, problem);
}

/// Of a model whose task is to embed or to score.
void check_texts(const std::string& path, const weir::v1::Model& model,
                 const ReportProblem& problem) {
  const auto not_here = [&](bool given, std::string_view field) {
    if (given) problem(fmt::format("{}.{}", path, field), "applies to task generate only");
  };
  if (model.has_instances()) {
    problem(path + ".instances", "applies to task generate only: batch.instances does here");
  }
  not_here(model.has_max_sequences(), "max_sequences");
  not_here(model.has_kv_tokens(), "kv_tokens");
  not_here(model.has_park_bytes(), "park_bytes");
  not_here(model.has_prefix_reuse(), "prefix_reuse");
  not_here(model.has_speculation(), "speculation");
  not_here(model.queue().has_max_kv_ratio(), "queue.max_kv_ratio");
  check_batch(path + ".batch", model.batch(), batch_mode(model), problem);
  if (max_batch_size(model.batch()) > kMostTexts) {
    problem(path + ".batch.max_batch_size",
            fmt::format("is {}: at most {} texts are computed together",
                        max_batch_size(model.batch()), kMostTexts));
  }
}

}  // namespace

weir::v1::BatchMode batch_mode(const weir::v1::Model& model) {
  if (model.batch().has_mode()) return model.batch().mode();
  return model.task() == weir::v1::GENERATE ? weir::v1::FIXED : weir::v1::LEARNED;
}

std::uint32_t max_batch_size(const weir::v1::Batch& batch) {
  if (batch.has_max_batch_size()) return batch.max_batch_size();
  if (batch.mode() != weir::v1::LEVELS) return kDefaultMaxBatchSize;
  if (batch.levels().empty()) return kDefaultLargestLevel;
  std::uint32_t largest = 1;
  for (const auto& level : batch.levels()) largest = std::max(largest, level.max_batch_size());
  return largest;
}

void check_executor(const std::string& path, const weir::v1::Model& model,
                    const ReportProblem& problem) {
  if (model.executor() == weir::v1::IDENTITY) {
    const auto not_here = [&](bool given, std::string_view field) {
      if (given) problem(fmt::format("{}.{}", path, field), "does not apply to executor identity");
    };
    not_here(!model.path().empty(), "path");
    if (model.has_instances()) {
      problem(path + ".instances", "does not apply to executor identity: batch.instances does");
    }
    not_here(model.has_max_sequences(), "max_sequences");
    not_here(model.has_context_tokens(), "context_tokens");
    not_here(model.has_kv_tokens(), "kv_tokens");
    not_here(model.has_park_bytes(), "park_bytes");
    not_here(model.has_prefix_reuse(), "prefix_reuse");
    not_here(model.prefetch() != weir::v1::Model::WILLNEED, "prefetch");
    not_here(model.has_ready_residency(), "ready_residency");
    not_here(model.has_repack(), "repack");
    not_here(model.has_speculation(), "speculation");
    not_here(model.queue().has_max_kv_ratio(), "queue.max_kv_ratio");
    not_here(model.has_threads(), "threads");
    not_here(model.preload(), "preload");
    not_here(model.trial() != weir::v1::Model::AUTO, "trial");
    not_here(model.has_keep_alive_seconds(), "keep_alive_seconds");
    not_here(model.task() != weir::v1::GENERATE, "task");
    not_here(model.batch().has_max_batch_tokens(), "batch.max_batch_tokens");
    check_batch(path + ".batch", model.batch(), batch_mode(model), problem);
    return;
  }
  if (model.path().empty()) problem(path + ".path", "is missing");
  if (model.has_kv_tokens() && model.kv_tokens() < model.context_tokens()) {
    problem(path + ".kv_tokens",
            fmt::format("is {}, less than context_tokens {}: one sequence must fit",
                        model.kv_tokens(), model.context_tokens()));
  }
  if (model.has_ready_residency() && model.prefetch() == weir::v1::Model::NONE) {
    problem(path + ".ready_residency", "does not apply without prefetch");
  }
  const auto& speculation = model.speculation();
  if (speculation.mode() == weir::v1::Speculation::OFF && speculation.has_max_draft_tokens()) {
    problem(path + ".speculation.max_draft_tokens", "applies to mode auto only");
  }
  if (model.has_identity()) problem(path + ".identity", "applies to executor identity only");
  if (model.task() != weir::v1::GENERATE) {
    check_texts(path, model, problem);
  } else if (model.has_batch()) {
    problem(path + ".batch",
            "applies to one-shot work only: executor identity, task embed, task score");
  }
}

}  // namespace weir::config
