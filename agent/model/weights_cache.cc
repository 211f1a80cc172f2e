// SPDX-License-Identifier: Apache-2.0
#include "agent/model/weights_cache.h"

#include <chrono>
#include <string>

namespace weir::model {

namespace {

// keep_going() tells nobody when it changes its mind.
constexpr std::chrono::milliseconds kAskEvery{20};

}  // namespace

std::shared_ptr<WeightsCache::Place> WeightsCache::place_of(const Key& key) {
  const std::lock_guard lock(mutex_);
  std::erase_if(places_, [](const auto& entry) {
    // Nobody else gets at a place that only the map has, so that its model may be looked at.
    return entry.second.use_count() == 1 && entry.second->model.expired();
  });
  auto& place = places_[key];
  if (!place) place = std::make_shared<Place>();
  return place;
}

std::optional<Result<Weights>> WeightsCache::shared_locked(const Place& place,
                                                           const std::vector<std::string>& paths) {
  Weights weights = place.others;
  weights.model = place.model.lock();
  if (!weights.model) return std::nullopt;
  weights.file = place.file.lock();
  if (!weights.file) {
    auto file = ModelFile::open(paths);
    if (!file) return std::move(file).error();
    weights.file = std::move(*file);
  }
  return weights;
}

Result<Weights> WeightsCache::get(const Key& key, const std::vector<std::string>& paths,
                                  const std::function<bool()>& keep_going,
                                  const std::function<Result<Weights>()>& load) {
  const std::shared_ptr<Place> place = place_of(key);
  std::unique_lock lock(place->mutex, std::defer_lock);
  while (!lock.try_lock_for(kAskEvery)) {
    if (!keep_going()) {
      return make_error(Code::kCancelled, paths.front() + ": the load was given up");
    }
  }
  if (auto shared = shared_locked(*place, paths)) return std::move(*shared);
  auto loaded = load();
  if (!loaded) return loaded;
  place->model = loaded->model;
  place->file = loaded->file;
  place->others = {nullptr, nullptr, loaded->file_bytes, loaded->copied_bytes};
  return loaded;
}

WeightsCache& weights_cache() {
  static WeightsCache cache;
  return cache;
}

}  // namespace weir::model
