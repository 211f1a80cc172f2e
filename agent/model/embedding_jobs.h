// SPDX-License-Identifier: Apache-2.0
//
// Requests whose texts are being computed, and which of these go into the next batch: pure logic.
//
// A batch takes one text of each request in turn, so that a request with thousands of texts lets
// one with a single text pass: requests of a more urgent level first, and within a level those
// first that have been left out for longest. Every fourth batch goes by the latter alone, so that
// the least urgent get on as well. A batch is bounded in texts and tokens, as its owner says; a
// text that is larger than the bound is a batch of its own.
//
// Thread-compatible: the owner locks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/embedding_tokens.h"
#include "agent/model/request_queue.h"

namespace weir::model {

/// A request that has left the queue. What is in a batch is filled in by the thread that executes
/// it; everything else is the owner's.
struct EmbeddingJob {
  EmbeddingJob(Taken of, std::size_t values_per_text);
  EmbeddingJob(const EmbeddingJob&) = delete;
  EmbeddingJob& operator=(const EmbeddingJob&) = delete;

  Taken taken;
  TokenLists texts;           ///< of taken.prompt
  std::vector<float> values;  ///< of all texts
  std::size_t next = 0;       ///< the first text that was in no batch
  std::size_t computing = 0;  ///< texts that are in one
  std::size_t done = 0;
  std::optional<Error> error;
  std::optional<TimePoint> first_done;

  [[nodiscard]] bool waits() const { return !error && next < texts.size(); }
  [[nodiscard]] bool ended() const { return computing == 0 && (error || done == texts.size()); }
};

/// One text of a batch.
struct EmbeddingPiece {
  std::shared_ptr<EmbeddingJob> job;
  std::size_t text = 0;
};

/// Both >= 1.
struct EmbeddingBound {
  std::size_t texts = 1;
  std::size_t tokens = 1;

  /// Of so many batches, >= 1.
  [[nodiscard]] EmbeddingBound times(std::size_t batches) const {
    return {texts * batches, tokens * batches};
  }
  /// Of one of so many batches, >= 1, among which these tokens are shared out.
  [[nodiscard]] EmbeddingBound share(std::size_t of_tokens, std::size_t batches) const {
    return {texts, std::clamp<std::size_t>((of_tokens + batches - 1) / batches, 1, tokens)};
  }
};

class EmbeddingJobs {
 public:
  void add(std::shared_ptr<EmbeddingJob> job) { jobs_.push_back(std::move(job)); }
  /// Whose end has been told; or will be without another batch.
  void forget(const EmbeddingJob* job);

  /// All that were added and not forgotten.
  [[nodiscard]] const std::list<std::shared_ptr<EmbeddingJob>>& all() const { return jobs_; }

  /// What waits to be put into batches, counted until the bound is reached.
  struct Waiting {
    std::size_t texts = 0;
    std::size_t tokens = 0;
    TimePoint oldest{};  ///< acceptance of its request, where there are texts
    std::optional<TimePoint> deadline;

    [[nodiscard]] bool fills(const EmbeddingBound& bound) const {
      return texts >= bound.texts || tokens >= bound.tokens;
    }
  };
  [[nodiscard]] Waiting waiting(const EmbeddingBound& bound) const;

  /// Whether a request of this level is to be added: one text of each is less than the bound, or
  /// none of them is as urgent.
  [[nodiscard]] bool wants(std::int32_t level, const EmbeddingBound& bound) const;

  /// Takes the texts of a batch out of what waits. Empty: none waits.
  [[nodiscard]] std::vector<EmbeddingPiece> pack(const EmbeddingBound& bound);

 private:
  using Jobs = std::list<std::shared_ptr<EmbeddingJob>>;

  Jobs jobs_;  ///< who has been left out for longest first
  std::uint64_t packed_ = 0;
};

}  // namespace weir::model
