// SPDX-License-Identifier: Apache-2.0
#include "agent/model/embedding_jobs.h"

#include <algorithm>
#include <utility>

namespace weir::model {

namespace {

// As of the queue's pops, one in four goes by age alone.
constexpr std::uint64_t kByAgeEvery = 4;

std::size_t tokens_of_next(const EmbeddingJob& job) { return job.texts[job.next].size(); }

}  // namespace

EmbeddingJob::EmbeddingJob(Taken of, std::size_t values_per_text)
    : taken(std::move(of)), texts(taken.prompt), values(texts.size() * values_per_text) {}

void EmbeddingJobs::forget(const EmbeddingJob* job) {
  std::erase_if(jobs_, [&](const auto& other) { return other.get() == job; });
}

EmbeddingJobs::Waiting EmbeddingJobs::waiting(const EmbeddingBound& bound) const {
  Waiting waiting;
  for (const auto& job : jobs_) {
    if (!job->waits()) continue;
    const TimePoint accepted = job->taken.accepted;
    if (waiting.texts == 0 || accepted < waiting.oldest) waiting.oldest = accepted;
    const auto& deadline = job->taken.request->deadline;
    if (deadline && (!waiting.deadline || *deadline < *waiting.deadline)) {
      waiting.deadline = deadline;
    }
    for (std::size_t i = job->next; i < job->texts.size() && !waiting.fills(bound); ++i) {
      ++waiting.texts;
      waiting.tokens += job->texts[i].size();
    }
  }
  return waiting;
}

bool EmbeddingJobs::wants(std::int32_t level, const EmbeddingBound& bound) const {
  Waiting heads;
  bool is_urgent = true;
  for (const auto& job : jobs_) {
    if (!job->waits()) continue;
    ++heads.texts;
    heads.tokens += tokens_of_next(*job);
    is_urgent = is_urgent && level < job->taken.request->priority;
  }
  return is_urgent || !heads.fills(bound);
}

std::vector<EmbeddingPiece> EmbeddingJobs::pack(const EmbeddingBound& bound) {
  std::vector<EmbeddingPiece> pieces;
  std::vector<Jobs::iterator> order;
  for (auto job = jobs_.begin(); job != jobs_.end(); ++job) {
    if ((*job)->waits()) order.push_back(job);
  }
  if (++packed_ % kByAgeEvery != 0) {
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return (*a)->taken.request->priority < (*b)->taken.request->priority;
    });
  }
  std::size_t tokens = 0;
  bool took = true;
  while (took && pieces.size() < bound.texts) {
    took = false;
    for (const auto& place : order) {
      EmbeddingJob& job = **place;
      if (pieces.size() == bound.texts) break;
      if (!job.waits()) continue;
      const std::size_t more = tokens_of_next(job);
      if (!pieces.empty() && tokens + more > bound.tokens) continue;
      tokens += more;
      pieces.push_back({*place, job.next++});
      ++job.computing;
      took = true;
    }
  }
  // Who was left out comes before who was not, next time.
  for (const auto& place : order) {
    if ((*place)->next > 0 && pieces.end() != std::find_if(pieces.begin(), pieces.end(),
                                                           [&](const EmbeddingPiece& piece) {
                                                             return piece.job == *place;
                                                           })) {
      jobs_.splice(jobs_.end(), jobs_, place);
    }
  }
  return pieces;
}

}  // namespace weir::model
