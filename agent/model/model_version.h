// SPDX-License-Identifier: Apache-2.0
//
// One version of a model's file, as managed_model.h keeps it: loaded once at most, retired and gone
// when its queue is. An Engine where the model generates, an EmbeddingEngine where it does not.
//
// Thread-safety and failures: as Runner.
#pragma once

#include <memory>
#include <optional>

#include "agent/base/result.h"
#include "agent/model/file_stamp.h"
#include "agent/model/memory_claim.h"
#include "agent/model/request_queue.h"
#include "agent/model/runner.h"

namespace weir::model {

class ModelVersion : public Runner {
 public:
  /// Once it is retired and idle, the thread frees the model and ends.
  [[nodiscard]] virtual const std::shared_ptr<RequestQueue>& queue() const = 0;
  /// Loads, also without a request.
  virtual void begin() = 0;
  /// Ends everything now, a load in progress too. Waits for nothing.
  virtual void abandon() = 0;
  [[nodiscard]] virtual bool abandoned() const = 0;
  /// Of the file that is loaded, or was tried; unset before.
  [[nodiscard]] virtual std::optional<FileStamp> stamp() const = 0;
};

/// Hears what becomes of a version, on its thread, outside its locks; nothing after released().
class VersionHost {
 public:
  virtual ~VersionHost() = default;
  /// The version is about to take this much memory in all, more than it said before. May wait, and
  /// evict others. An error: it cannot have it.
  virtual Status reserve(const ModelVersion& version, const MemoryClaim& claim) = 0;
  virtual void load_progressed(const ModelVersion& version, float progress) = 0;
  virtual void loaded(const ModelVersion& version) = 0;  ///< warms now
  virtual void warmed(const ModelVersion& version) = 0;  ///< serves now
  /// Before those that waited hear of it. `no_memory`: reserve() said so.
  virtual void load_failed(const ModelVersion& version, const Error& error, bool no_memory) = 0;
  /// It has no request, at least had none just now.
  virtual void idle(const ModelVersion& version) = 0;
  /// What it had is freed, its thread ends.
  virtual void released(const ModelVersion& version) = 0;
};

}  // namespace weir::model
