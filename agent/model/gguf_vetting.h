// SPDX-License-Identifier: Apache-2.0
//
// What stands between a model file and libllama in this process: the check of its metadata
// (gguf_check.h), then the trial in a child process (load_trial.h), once for each file. A verdict
// on the file is remembered by device, inode, size and time of change of all its parts; one that
// says more about the moment (no time, no child) is not.
//
// Thread-safe: any number of threads vet at the same time; two of them may try the same file.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/gguf_check.h"
#include "agent/model/load_trial.h"

namespace weir::model {

/// What became of files, since the process began. Cumulative.
struct VettingReading {
  std::uint64_t refused_by_check = 0;
  std::uint64_t passed = 0;       ///< trials
  std::uint64_t refused = 0;      ///< trials in which libllama said no
  std::uint64_t died = 0;         ///< trials that ended by a signal
  std::uint64_t cut = 0;          ///< trials that had no end in time, or were killed from outside
  std::uint64_t unavailable = 0;  ///< trials for which no child could be started
  std::uint64_t remembered = 0;   ///< trials spared, because the file had been tried
};

class GgufVetting {
 public:
  using KeepGoing = std::function<bool()>;
  using Trial =
      std::function<TrialResult(const std::string& path, const TrialLimits&, const KeepGoing&)>;

  explicit GgufVetting(Trial trial = try_load) : trial_(std::move(trial)) {}

  /// Whether libllama may see the file. Blocks for the time of a trial, asking `keep_going`
  /// meanwhile. kInvalidArgument: not this file. kUnavailable: not now. kCancelled: keep_going()
  /// said no. The error names the path.
  Status vet(const std::string& path, TrialMode mode, const KeepGoing& keep_going);

  [[nodiscard]] VettingReading reading() const;

 private:
  using Key = std::vector<FileIdentity>;

  Status judge(const std::string& path, TrialMode mode, const TrialResult& result) const;
  [[nodiscard]] std::optional<TrialResult> recall(const Key& key);
  void keep(const Key& key, const TrialResult& result);

  const Trial trial_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<Key, TrialResult> verdicts_;
  VettingReading reading_;
};

/// The one of this process, by which LoadedModel goes.
GgufVetting& gguf_vetting();

}  // namespace weir::model
