// SPDX-License-Identifier: Apache-2.0
//
// A load of a model file where it may fail: in a child process. libllama answers damage that it
// does not foresee with abort(), an exception across its C interface, or a bad access; no check of
// the metadata finds all of that. The child loads the file as the engine would, tokenizes, decodes
// and samples a few tokens, and tells how that went; when it dies, the file is refused.
//
// The child is a small program of its own, `weir-load-trial`, found beside the executable that runs
// (as in a build folder) or in ../libexec/weir (as installed). A fork() of this process would not
// do: it has threads, and after fork() their locks, that of malloc among them, stay held for ever.
// To execute /proc/self/exe with a hidden sub-command would not need a file, but every program that
// loads models, those of the tests too, would have to know the sub-command, and the child would
// begin by loading all libraries of the agent.
//
// The child can do little harm: bounds on memory, CPU time and file size, no core, no privilege but
// reading, first to be killed when the system is out of memory. It ends with the thread that waits
// for it. Cost: README of the configuration, `trial`.
//
// Thread-safe: free functions without state.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace weir::model {

enum class TrialMode {
  kAuto,    ///< files that this process has not tried; loads without, when no child can be started
  kAlways,  ///< at each load; no load without
  kNever,
};

struct TrialLimits {
  std::chrono::milliseconds wall;  ///< from start to end
  std::chrono::seconds cpu;
  std::uint64_t memory_bytes;  ///< address space: the mapped file counts
};

/// Limits for a model of so many bytes: generous, for they hold off what never ends. A trial reads
/// the whole file once, from a disk with 8 MiB/s at least; besides the mapping it may need copies
/// of all weights in another layout.
[[nodiscard]] TrialLimits trial_limits(std::uint64_t model_bytes);

struct TrialResult {
  enum class Outcome {
    kPassed,
    kRefused,      ///< libllama says no, with a reason
    kDied,         ///< the child was killed by a signal: abort(), bad access, CPU time
    kCut,          ///< not done in time, or killed from outside: it may go better next time
    kUnavailable,  ///< the child could not be started, or spoke gibberish
    kStopped,      ///< keep_going() said no
  };
  Outcome outcome = Outcome::kUnavailable;
  std::string reason;  ///< unless kPassed; a clause about "it", the file
};

/// Waits for the child, asking `keep_going` meanwhile, on this thread, twenty times a second.
TrialResult try_load(const std::string& path, const TrialLimits& limits,
                     const std::function<bool()>& keep_going);

}  // namespace weir::model
