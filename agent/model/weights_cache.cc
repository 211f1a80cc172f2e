// SPDX-License-Identifier: Apache-2.0
#include "agent/model/weights_cache.h"

#include <chrono>
#include <string>

namespace weir::model {

namespace {

// keep_going() tells nobody when it changes its mind.
constexpr std::chrono::milliseconds kAskEvery{20};

}  // namespace

class WeightsCache::Loading {
 public:
  Loading(WeightsCache& cache, Place& place) : cache_(cache), place_(place) {}
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;
  ~Loading() {
    const std::lock_guard lock(cache_.mutex_);
    place_.loading = false;
    cache_.ended_.notify_all();
  }

  void succeeded(const Weights& weights) {
    const std::lock_guard lock(cache_.mutex_);
    place_.model = weights.model;
    place_.file = weights.file;
    place_.others = {nullptr, nullptr, weights.file_bytes, weights.copied_bytes};
  }

 private:
  WeightsCache& cache_;
  Place& place_;
};

std::optional<Weights> WeightsCache::held_locked(const Place& place) {
  Weights weights = place.others;
  weights.model = place.model.lock();
  if (!weights.model) return std::nullopt;
  weights.file = place.file.lock();
  return weights;
}

Result<Weights> WeightsCache::get(const Key& key, const std::vector<std::string>& paths,
                                  const std::function<bool()>& keep_going,
                                  const std::function<Result<Weights>()>& load) {
  std::unique_lock lock(mutex_);
  while (places_[key].loading) {
    ended_.wait_for(lock, kAskEvery);
    lock.unlock();
    if (!keep_going()) {
      return make_error(Code::kCancelled, paths.front() + ": the load was given up");
    }
    lock.lock();
  }
  auto held = held_locked(places_[key]);
  if (held) {
    lock.unlock();
    if (!held->file) {
      auto file = ModelFile::open(paths);
      if (!file) return std::move(file).error();
      held->file = std::move(*file);
    }
    return *std::move(held);
  }
  std::erase_if(places_, [](const auto& entry) {
    return !entry.second.loading && entry.second.model.expired();
  });
  Place& place = places_[key];
  place.loading = true;
  lock.unlock();
  Loading loading(*this, place);
  auto loaded = load();
  if (loaded) loading.succeeded(*loaded);
  return loaded;
}

WeightsCache& weights_cache() {
  static WeightsCache cache;
  return cache;
}

}  // namespace weir::model
