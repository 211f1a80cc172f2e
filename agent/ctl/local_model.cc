// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/local_model.h"

#include <utility>
#include <vector>

namespace weir::ctl {
namespace {

constexpr const char* kName = "local";

}  // namespace

Result<std::unique_ptr<LocalModel>> LocalModel::create(const LocalModelOptions& options) {
  std::unique_ptr<LocalModel> local(new LocalModel);
  auto workers = schedule::WorkerPool::create({.name = "worker"});
  if (!workers) return std::move(workers).error();
  local->workers_ = std::move(*workers);
  model::ModelOptions model;
  model.name = kName;
  model.path = options.path;
  model.max_sequences = options.sequences;
  model.context_tokens = options.context_tokens;
  model.threads = options.threads;
  std::vector<model::ModelOptions> models;
  models.push_back(std::move(model));
  auto registry = model::Registry::create(std::move(models), local->clock_, *local->workers_);
  if (!registry) return std::move(registry).error();
  local->registry_ = std::move(*registry);
  return local;
}

std::optional<Error> LocalModel::submit(std::shared_ptr<model::GenerationRequest> request) {
  if (const auto refusal = registry_->submit(kName, std::move(request))) {
    return model::as_error(*refusal);
  }
  return std::nullopt;
}

model::ModelInfo LocalModel::info() const { return registry_->models().front(); }

}  // namespace weir::ctl
