// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_vetting.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

namespace weir::model {

namespace {

using Outcome = TrialResult::Outcome;

// More files than a process will ever load; when they are that many it begins anew.
constexpr std::size_t kMostVerdicts = 1024;

/// Whether the result says something of the file, rather than of the moment.
bool holds(Outcome outcome) {
  return outcome == Outcome::kPassed || outcome == Outcome::kRefused || outcome == Outcome::kDied;
}

std::uint64_t VettingReading::*counter(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPassed:
      return &VettingReading::passed;
    case Outcome::kRefused:
      return &VettingReading::refused;
    case Outcome::kDied:
      return &VettingReading::died;
    case Outcome::kCut:
      return &VettingReading::cut;
    case Outcome::kUnavailable:
      return &VettingReading::unavailable;
    case Outcome::kStopped:
      break;
  }
  return nullptr;
}

}  // namespace

Result<CheckedGguf> GgufVetting::check(const std::string& path) {
  if (auto known = recall(path)) return *std::move(known);
  auto checked = check_gguf_file(path);
  const std::lock_guard lock(mutex_);
  if (checked) {
    if (passed_.size() >= kMostVerdicts) passed_.clear();
    passed_.insert_or_assign(path, *checked);
  } else if (checked.error().code == Code::kInvalidArgument) {
    ++reading_.refused_by_check;  // one that cannot be read is none that was refused
  }
  return checked;
}

std::optional<CheckedGguf> GgufVetting::recall(const std::string& path) {
  std::optional<CheckedGguf> known;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = passed_.find(path); found != passed_.end()) known = found->second;
  }
  if (!known) return std::nullopt;
  for (std::size_t i = 0; i < known->parts.size(); ++i) {
    if (file_identity(known->paths[i]) != known->parts[i]) return std::nullopt;
  }
  return known;
}

Status GgufVetting::try_out(const CheckedGguf& checked, TrialMode mode,
                            const KeepGoing& keep_going) {
  if (mode == TrialMode::kNever) return {};
  const std::string& path = checked.paths.front();
  if (mode == TrialMode::kAuto) {
    if (const auto known = recall(checked.parts)) return judge(path, mode, *known);
  }
  const TrialResult result = trial_(path, trial_limits(checked.bytes), keep_going);
  keep(checked.parts, result);
  return judge(path, mode, result);
}

Status GgufVetting::judge(const std::string& path, TrialMode mode,
                          const TrialResult& result) const {
  const std::string reason = fmt::format("{}: {}", path, result.reason);
  switch (result.outcome) {
    case Outcome::kPassed:
      return {};
    case Outcome::kRefused:
    case Outcome::kDied:
      return make_error(Code::kInvalidArgument, reason);
    case Outcome::kCut:
      return make_error(Code::kUnavailable, reason);
    case Outcome::kStopped:
      return make_error(Code::kCancelled, reason);
    case Outcome::kUnavailable:
      break;
  }
  if (mode == TrialMode::kAlways) {
    return make_error(Code::kUnavailable, fmt::format("{}: cannot be tried in a child process: {}",
                                                      path, result.reason));
  }
  spdlog::warn("model loads untried path={} reason=\"{}\"", path, result.reason);
  return {};
}

std::optional<TrialResult> GgufVetting::recall(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto found = verdicts_.find(key);
  if (found == verdicts_.end()) return std::nullopt;
  ++reading_.remembered;
  return found->second;
}

void GgufVetting::keep(const Key& key, const TrialResult& result) {
  const std::lock_guard lock(mutex_);
  if (const auto field = counter(result.outcome)) ++(reading_.*field);
  if (!holds(result.outcome)) return;
  if (verdicts_.size() >= kMostVerdicts) verdicts_.clear();
  verdicts_.insert_or_assign(key, result);
}

VettingReading GgufVetting::reading() const {
  const std::lock_guard lock(mutex_);
  return reading_;
}

GgufVetting& gguf_vetting() {
  static GgufVetting vetting;
  return vetting;
}

}  // namespace weir::model
