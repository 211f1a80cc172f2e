// SPDX-License-Identifier: Apache-2.0
//
// The life of a version, whatever its engine computes: it waits until somebody wants the model,
// loads the file and asks for its memory before, fails or is ready, and gives everything back at
// the end. Keeps what is told of all that, and tells the host.
//
// Thread-safe where it says so; the rest is for the version's own thread, in the order in which it
// stands here. Borrows all that it is given, and shares the queue.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/file_stamp.h"
#include "agent/model/generation.h"
#include "agent/model/gguf_check.h"
#include "agent/model/loaded_model.h"
#include "agent/model/memory_reading.h"
#include "agent/model/model_file.h"
#include "agent/model/model_version.h"
#include "agent/model/request_queue.h"
#include "agent/model/weights.h"
#include "agent/schedule/queue_options.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

/// Of the queue of a version.
[[nodiscard]] schedule::QueueOptions queue_options(const ModelOptions& options);

/// Of the calling thread; the kernel keeps 15 characters.
void name_this_thread(const std::string& name);

class VersionLife {
 public:
  /// `host` may be null.
  VersionLife(const ModelVersion& version, const ModelOptions& options, const Clock& clock,
              std::shared_ptr<RequestQueue> queue, schedule::WorkerPool& workers,
              VersionHost* host);
  VersionLife(const VersionLife&) = delete;
  VersionLife& operator=(const VersionLife&) = delete;

  // ---- from any thread ----
  void begin();
  void abandon();
  /// For abort callbacks: becomes true with abandon().
  [[nodiscard]] const std::atomic<bool>& stopping() const { return stopping_; }
  [[nodiscard]] bool abandoned() const { return stopping_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::optional<FileStamp> stamp() const;
  /// All but what the engine knows of its requests.
  [[nodiscard]] ModelInfo info() const;
  /// Nothing is asked for just now.
  void idle();

  // ---- from the version's thread ----
  /// False: nobody wants it any more.
  [[nodiscard]] bool wait_until_wanted();
  /// The load begins: the file, checked.
  Result<CheckedGguf> open();
  /// What the version is about to have in all.
  Status reserve(const MemoryReading& memory);
  /// The weights of the file.
  Result<Weights> load_weights(const CheckedGguf& file);
  /// Everything is in memory, and is warmed next.
  void loaded(const Weights& weights, const MemoryReading& memory);
  /// It serves from now on. Returns what is to be told of it.
  ModelInfo ready(std::uint64_t parameters, std::uint32_t context_tokens);
  /// To be called after ready() when others may know.
  void warmed();
  /// Ends the requests that waited for the load.
  void fail(const Error& error);
  /// The queue takes nothing any more. Returns what the requests that are left are to be told.
  Error retire();
  /// Everything the version had is freed, and nobody waits.
  void end();

 private:
  [[nodiscard]] bool take_load_wanted();
  bool on_progress(float progress);

  const ModelVersion& version_;
  const ModelOptions& options_;
  const Clock& clock_;
  const std::shared_ptr<RequestQueue> queue_;  // not null
  schedule::WorkerPool& workers_;
  VersionHost* const host_;  ///< may be null

  // The version's thread only.
  bool no_memory_ = false;  ///< why the load failed
  int logged_tenths_ = 0;   ///< of the load in progress
  std::string weights_;     ///< names those of the file, as weights_cache.h tells them apart

  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  ModelInfo info_;  ///< all but what queue and engine know
  std::optional<FileStamp> stamp_;
  std::shared_ptr<ModelFile> file_;  ///< null: nothing is loaded
  bool load_wanted_;                 ///< load without a request
};

}  // namespace weir::model
