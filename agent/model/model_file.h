// SPDX-License-Identifier: Apache-2.0
//
// The files of a model as pages: how much of them is in memory, and how they get there before
// libllama maps them. libllama has the kernel read a file whole while it maps it (MAP_POPULATE),
// in one call that tells nothing and cannot be stopped; of what is in memory by then, that call
// only sets up the page tables.
//
// Thread-safe. Owns a mapping of each file, of which it touches nothing unless told to; a file may
// be cut or replaced meanwhile.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

/// How a file gets into memory before libllama maps it.
enum class Prefetch {
  kNone,        ///< not before
  kWillneed,    ///< read in pieces, while the kernel reads ahead as far as a disk can make use of
  kSequential,  ///< read in pieces, with the read-ahead that the kernel chooses
  kPopulate,    ///< by page faults on a mapping, in pieces: nothing is copied
};

class ModelFile : public std::enable_shared_from_this<ModelFile> {
 public:
  /// 0..1, on the calling thread, at least every kPieceBytes; false stops.
  using Progress = std::function<bool(double)>;
  static constexpr std::uint64_t kPieceBytes = std::uint64_t{4} << 20;
  /// How old what recently_resident() says may be when somebody asks for the first time.
  static constexpr Duration kLookEvery = std::chrono::seconds(2);

  /// `paths`: of the parts, in order. The error names the path.
  static Result<std::shared_ptr<ModelFile>> open(const std::vector<std::string>& paths);
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;
  ~ModelFile();

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

  /// Reads what is not in memory. Takes as long as the disk; of what has been read the kernel may
  /// drop some before the end, when memory is short. kCancelled: `progress` said no. kIo.
  Status prefetch(Prefetch how, const Progress& progress);

  /// How much of it is in memory, to a page. Before Linux 6.5 by looking at each page: some
  /// milliseconds for each 100 MiB. Unset: the kernel does not tell; it tells who owns the files,
  /// or may write to them.
  [[nodiscard]] std::optional<std::uint64_t> resident() const;

  /// What was seen lately; has `workers` look again when that was long ago. Waits for nothing.
  [[nodiscard]] std::optional<std::uint64_t> recently_resident(TimePoint now,
                                                               schedule::WorkerPool& workers);

 private:
  struct Part {
    std::string path;
    int fd = -1;
    std::byte* start = nullptr;
    std::uint64_t bytes = 0;
    bool tells = false;  ///< of residency
  };

  ModelFile() = default;

  Status prefetch(const Part& part, Prefetch how, const std::function<bool(std::uint64_t)>& done);
  [[nodiscard]] static std::optional<std::uint64_t> resident(const Part& part, std::uint64_t from,
                                                             std::uint64_t bytes);

  std::vector<Part> parts_;  ///< constant once it is open
  std::uint64_t bytes_ = 0;  ///< likewise

  std::atomic<bool> looking_{false};
  std::atomic<TimePoint> looked_at_{TimePoint::min()};
  std::atomic<std::int64_t> seen_{-1};  ///< resident bytes; below 0: not known
};

}  // namespace weir::model
