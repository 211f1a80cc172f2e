// SPDX-License-Identifier: Apache-2.0
//
// The weights that are in memory, by the file that they come from: models with the same file share
// them, whatever their names.
//
// Thread-safe. Owns no weights: they go with the last who holds them.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/gguf_reader.h"
#include "agent/model/model_file.h"
#include "agent/model/weights.h"

namespace weir::model {

class WeightsCache {
 public:
  struct Key {
    std::vector<FileIdentity> parts;
    bool repack = true;
    auto operator<=>(const Key&) const = default;
  };

  /// Those that somebody has, or what `load` makes; of two that want the same one loads, the other
  /// waits, asking `keep_going` meanwhile. Both are called outside the lock. `paths`: of the parts.
  /// kCancelled: it said no. After a load that failed, who waited tries it too.
  Result<Weights> get(const Key& key, const std::vector<std::string>& paths,
                      const std::function<bool()>& keep_going,
                      const std::function<Result<Weights>()>& load);

 private:
  struct Place {
    bool loading = false;  ///< by one, who alone may change the rest
    std::weak_ptr<llama_model> model;
    std::weak_ptr<ModelFile> file;
    Weights others;  ///< without model and file; thin was told to who loaded
  };

  /// Says that a load has ended, however it did.
  class Loading;

  /// Unset: nobody has them, and the caller is to load. Its file is null where nobody has that.
  static std::optional<Weights> held_locked(const Place& place);

  std::mutex mutex_;
  std::condition_variable ended_;  ///< somebody's load
  std::map<Key, Place> places_;    ///< guarded by mutex_; one that is loading stays where it is
};

/// The one of this process, by which LoadedModel goes.
WeightsCache& weights_cache();

}  // namespace weir::model
