// SPDX-License-Identifier: Apache-2.0
//
// Requests whose texts are being computed, and which of these go into the next batch: pure logic.
//
// A batch takes one text of each request in turn, so that a request with thousands of texts lets
// one with a single text pass: requests of a more urgent level first, and within a level those
// first that have been left out for longest. Every fourth batch goes by the latter alone, so that
// the least urgent get on as well. A batch is bounded in texts and tokens; a text that is larger
// than the bound is a batch of its own.
//
// Thread-compatible: the owner locks.
#pragma once

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

class EmbeddingJobs {
 public:
  /// Both >= 1.
  EmbeddingJobs(std::size_t most_texts, std::size_t most_tokens)
      : most_texts_(most_texts), most_tokens_(most_tokens) {}

  void add(std::shared_ptr<EmbeddingJob> job) { jobs_.push_back(std::move(job)); }
  /// Whose end has been told; or will be without another batch.
  void forget(const EmbeddingJob* job);

  /// All that were added and not forgotten.
  [[nodiscard]] const std::list<std::shared_ptr<EmbeddingJob>>& all() const { return jobs_; }

  /// What waits to be put into a batch.
  struct Waiting {
    std::size_t texts = 0;  ///< no more than a batch may have
    bool is_full = false;   ///< a batch of these can take no more
    TimePoint oldest{};     ///< acceptance of its request, where there are texts
    std::optional<TimePoint> deadline;
  };
  [[nodiscard]] Waiting waiting() const;

  /// Whether a request of this level is to be added: a batch of one text of each has room for more,
  /// or none of them is as urgent.
  [[nodiscard]] bool wants(std::int32_t level) const;

  /// Takes the texts of a batch out of what waits, at most `most_texts` of them. Empty: none waits.
  [[nodiscard]] std::vector<EmbeddingPiece> pack(std::size_t most_texts);

 private:
  using Jobs = std::list<std::shared_ptr<EmbeddingJob>>;

  const std::size_t most_texts_;
  const std::size_t most_tokens_;
  Jobs jobs_;  ///< who has been left out for longest first
  std::uint64_t packed_ = 0;
};

}  // namespace weir::model
