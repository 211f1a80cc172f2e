// SPDX-License-Identifier: Apache-2.0
//
// A batch of one-shot requests on its way through the executor, and what its listeners hear.
//
// Thread-compatible: one instance's thread uses it, again and again, so that its memory is
// allocated once. Owns its requests until tell().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/schedule/batch_executor.h"

namespace weir::model {

/// A token for every four bytes, as estimated_tokens() has it.
[[nodiscard]] std::uint32_t tokens_of(std::string_view text);

// What listeners of requests hear that nobody executed.
[[nodiscard]] Error cancelled_error();
[[nodiscard]] Error late_error();
[[nodiscard]] Error stopping_error();

class OneShotBatch {
 public:
  /// How its members ended.
  struct Ends {
    std::uint64_t completed = 0, failed = 0, cancelled = 0, expired = 0;
    std::uint64_t prompt_tokens = 0, completion_tokens = 0;
  };

  explicit OneShotBatch(std::size_t largest);

  void add(std::shared_ptr<GenerationRequest> request, TimePoint accepted) {
    members_.push_back({std::move(request), accepted});
  }

  void execute(schedule::BatchExecutor& executor, std::size_t instance, const Clock& clock);

  /// Tells the listeners and lets go of the requests. Who was cancelled or has become late
  /// meanwhile hears that.
  Ends tell();

  /// Of the last execute().
  [[nodiscard]] Duration took() const { return ended_ - started_; }

 private:
  struct Member {
    std::shared_ptr<GenerationRequest> request;
    TimePoint accepted;
  };
  std::vector<Member> members_;
  std::vector<schedule::BatchJob> jobs_;  ///< of members_, in execute() and until tell()
  TimePoint started_;
  TimePoint ended_;
};

}  // namespace weir::model
