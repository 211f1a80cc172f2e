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
#include "agent/model/vetting_reading.h"

namespace weir::model {

class GgufVetting {
 public:
  using KeepGoing = std::function<bool()>;
  using Trial =
      std::function<TrialResult(const std::string& path, const TrialLimits&, const KeepGoing&)>;

  explicit GgufVetting(Trial trial = try_load) : trial_(std::move(trial)) {}

  /// The check of its metadata alone; of a file that has passed it, only whether it is the same.
  /// kInvalidArgument, and counted: it is no model.
  Result<CheckedGguf> check(const std::string& path);
  /// What is left to do for a file that passed: the trial. Blocks for its time, asking `keep_going`
  /// meanwhile. kInvalidArgument: not this file. kUnavailable: not now. kCancelled: keep_going()
  /// said no. The error names the path.
  Status try_out(const CheckedGguf& checked, TrialMode mode, const KeepGoing& keep_going);

  [[nodiscard]] VettingReading reading() const;

 private:
  using Key = std::vector<FileIdentity>;

  Status judge(const std::string& path, TrialMode mode, const TrialResult& result) const;
  [[nodiscard]] std::optional<CheckedGguf> recall(const std::string& path);
  [[nodiscard]] std::optional<TrialResult> recall(const Key& key);
  void keep(const Key& key, const TrialResult& result);

  const Trial trial_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, CheckedGguf> passed_;  ///< the check; by path
  std::map<Key, TrialResult> verdicts_;
  VettingReading reading_;
};

/// The one of this process, by which LoadedModel goes.
GgufVetting& gguf_vetting();

}  // namespace weir::model
