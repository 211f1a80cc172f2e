// SPDX-License-Identifier: Apache-2.0
//
// The contract between the protocols (agent/serve) and whatever executes a model (agent/model):
// a GenerationRequest goes in, events come out at its Listener.
//
// Thread-safety and ownership: stated per type.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/embedding_input.h"
#include "agent/model/engine_reading.h"
#include "agent/model/memory_reading.h"
#include "agent/schedule/batch_reading.h"
#include "agent/schedule/level.h"
#include "agent/schedule/refusal.h"
#include "agent/schedule/wait_histogram.h"

namespace weir::model {

class Grammar;

/// Added to the logit of one token.
struct LogitBias {
  std::int32_t token = 0;  ///< of the model's vocabulary
  float bias = 0;          ///< -100..100
};

/// How the next token is chosen: biases, penalties and the grammar hold at every temperature.
struct SamplingParams {
  float temperature = 0.8F;  ///< >= 0; 0: greedy
  float top_p = 0.95F;       ///< (0, 1]
  float min_p = 0;           ///< [0, 1]; of the most likely token's probability; 0: off
  std::int32_t top_k = 40;   ///< <= 0: off
  std::optional<std::uint32_t> seed;
  // Of tokens that occur among the last `penalty_window` ones, the prompt's included.
  float repetition_penalty = 1;  ///< 0.1..10; divides positive logits, multiplies others; 1: off
  float frequency_penalty = 0;   ///< -2..2; subtracted once for each occurrence
  float presence_penalty = 0;    ///< -2..2; subtracted once
  std::uint32_t penalty_window = 64;       ///< tokens, at most kMaxPenaltyWindow; 0: off
  std::vector<LogitBias> logit_bias;       ///< no token twice
  std::shared_ptr<const Grammar> grammar;  ///< null: any text
  /// Asks for on_logprobs(), with so many alternatives to each token; at most kMaxLogprobs.
  std::optional<std::uint32_t> logprobs;

  static constexpr std::uint32_t kMaxPenaltyWindow = 65536;
  static constexpr std::uint32_t kMaxLogprobs = 20;
};

/// A token with the logarithm of the probability that the model gave it, before anything that
/// SamplingParams says.
struct ScoredToken {
  std::string bytes;  ///< not necessarily whole UTF-8 characters
  float logprob = 0;
};

/// A token of the answer.
struct TokenLogprob {
  ScoredToken chosen;
  std::vector<ScoredToken> most_likely;  ///< as many as were asked for, most likely first
};

enum class FinishReason {
  kStop,    ///< end-of-generation token or a stop string
  kLength,  ///< max_tokens or the context is full
};

struct Usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t completion_tokens = 0;
  std::uint32_t cached_tokens = 0;  ///< of the prompt: not computed, an earlier one began alike
};

struct Completion {
  FinishReason reason = FinishReason::kStop;
  Usage usage;
  std::chrono::nanoseconds queued{};       ///< accepted to first prefill
  std::chrono::nanoseconds first_token{};  ///< accepted to first token
  std::chrono::nanoseconds total{};        ///< accepted to finished
};

using schedule::Refusal;
using schedule::RefusalReason;
using schedule::to_string;

/// The refusal as a failure, for those who do not tell refusals apart.
[[nodiscard]] Error as_error(const Refusal& refusal);

/// Where an answer came from that no model made.
enum class Degraded {
  kCached,   ///< the answer to the same request, made before
  kDefault,  ///< a configured text
};
[[nodiscard]] std::string_view to_string(Degraded degraded);

/// Receives the events of one request. Called from the engine's thread, possibly before submit()
/// returns; on_error(), of a request that still waits, also from a timer's thread when its deadline
/// passes, from within cancel() and submit(), and from the thread that tokenizes the prompt. One at
/// a time, and never after on_complete(), on_error() or on_refused(), exactly one of which is
/// called once for every accepted request. Must not block and must not throw: implementations post
/// to their own executor.
class Listener {
 public:
  virtual ~Listener() = default;
  /// Before any on_text(): what follows was made by no model.
  virtual void on_degraded(Degraded /*from*/) {}
  /// The tokens that begin in the on_text() that comes next. Only if SamplingParams::logprobs asked
  /// for it.
  virtual void on_logprobs(std::span<const TokenLogprob> /*tokens*/) {}
  /// A piece of the result: valid UTF-8, whole characters. Bytes of the model that are not UTF-8
  /// come as U+FFFD.
  virtual void on_text(std::string_view text) = 0;
  /// In place of on_text(), of a request with `embedding`: the vectors of its texts, all of one
  /// length, one after the other in their order; or a score of each. Once, before on_complete().
  virtual void on_vectors(std::span<const float> /*values*/) {}
  virtual void on_complete(const Completion& completion) = 0;
  /// The request was accepted and cannot be finished. kCancelled after cancel(),
  /// kResourceExhausted when the deadline passed, kInvalidArgument when the prompt is longer than
  /// the context or a sampling parameter is out of range, kUnavailable when the model could not be
  /// loaded or the agent stops.
  virtual void on_error(const Error& error) = 0;
  /// In place of on_error(), where a refusal came after the request had been accepted: as when
  /// every further attempt at it was refused. Unless overridden: on_error(as_error(refusal)).
  virtual void on_refused(const Refusal& refusal);
  /// Whether more text can be taken. While not, the engine may let this sequence rest in favour of
  /// others; text that comes nevertheless is taken.
  [[nodiscard]] virtual bool wants_more() const { return true; }
};

/// One request. Shared by the protocol session and the engine; immutable after submit() but for
/// cancellation. A new field that an executor reads belongs into attempt_request()
/// (agent/upstream/attempt.cc) as well, and one that the answer depends on into cache_key()
/// (agent/upstream/response_cache.cc).
struct GenerationRequest {
  std::string id;
  std::string route;               ///< the path it came by, "/infer"; SLA policies go by it
  std::string tenant = "default";  ///< in whose share it is served
  std::string prompt;
  std::uint32_t max_tokens = 128;  ///< >= 1
  /// Set: what a model that does not generate is given, in place of a prompt; max_tokens is 0 then.
  std::shared_ptr<const EmbeddingInput> embedding;
  std::int32_t priority =
      schedule::kDefaultLevel;  ///< level, 0..schedule::kLevels - 1; lower first
  std::optional<TimePoint> deadline;
  std::vector<std::string> stop;
  SamplingParams sampling;
  std::shared_ptr<Listener> listener;
  /// What admission has set aside for this request; goes back when the request goes.
  std::shared_ptr<void> reservation;

  /// The client went away: a waiting request leaves the queue at once, and its listener hears so
  /// before this returns; a running one leaves at the next step, or sooner. Any thread, but with no
  /// lock held that the listener takes; again to no effect.
  void cancel();
  std::atomic<bool> cancelled{false};

  /// For the executor that accepts the request, in submit(): cancel() calls it once, on its
  /// caller's thread, or set_canceller() does when cancel() came first. Must not block.
  void set_canceller(std::function<void()> canceller);

 private:
  std::mutex mutex_;
  std::function<void()> canceller_;
};

/// Tokens that the queue and the limits reckon with before anything is tokenized: a token for every
/// four bytes of prompt or texts, and all that may be generated.
[[nodiscard]] std::uint64_t estimated_tokens(const GenerationRequest& request);

[[nodiscard]] bool is_past_deadline(const GenerationRequest& request, TimePoint now);

/// Why this request should not go on: cancelled, or past its deadline. Unset: it should.
[[nodiscard]] std::optional<Error> reason_to_leave(const GenerationRequest& request, TimePoint now);

/// Why a version of a model was let go.
enum class UnloadCause {
  kIdle,      ///< nobody asked for it within keep_alive
  kExplicit,  ///< somebody told so
  kEvicted,   ///< another one needed its memory
  kReplaced,  ///< its next version took over
};
inline constexpr std::size_t kUnloadCauses = static_cast<std::size_t>(UnloadCause::kReplaced) + 1;
[[nodiscard]] std::string_view to_string(UnloadCause cause);

struct ModelInfo {
  enum class State { kUnloaded, kLoading, kWarming, kReady, kFailed, kDraining };
  std::string name;
  std::string kind = "llama";  ///< the executor, as the configuration names it
  Task task = Task::kGenerate;
  std::string path;  ///< empty: has no file
  State state = State::kUnloaded;
  float load_progress = 0;  ///< 0..1
  std::string failure;      ///< why, when kFailed, or of the last load that found no memory
  bool disabled = false;    ///< unloaded explicitly: requests are refused
  /// Of the file's next version, that loads beside this one; unset: none does.
  std::optional<float> successor_progress;
  std::string successor_failure;   ///< why the last one failed; empty: it did not
  std::uint64_t memory_bytes = 0;  ///< set aside for it: reckoned, then what it has; 0: nothing
  MemoryReading memory;            ///< what it has
  std::optional<Duration> since_used{};  ///< since its last request ended; 0 while it has some
  std::uint64_t parameters = 0;          ///< 0 until loaded
  std::uint64_t file_bytes = 0;
  std::uint32_t context_tokens = 0;       ///< per sequence; 0 until loaded
  std::int64_t created_unix_seconds = 0;  ///< file modification time
  // Gauges and cumulative counters.
  std::uint64_t loads = 0;  ///< attempts to load the file
  std::uint64_t load_failures = 0;
  std::uint64_t thin_loads = 0;  ///< ready with less of the file in memory than ready_residency
  std::array<std::uint64_t, kUnloadCauses> unloads{};  ///< by UnloadCause
  std::uint32_t queued = 0;
  std::uint64_t queued_tokens = 0;  ///< estimated
  std::uint32_t overdue = 0;        ///< of those queued: aged through all levels
  std::uint32_t running = 0;
  std::uint32_t resting = 0;  ///< of those running: their client does not read
  std::uint64_t accepted = 0;
  std::uint64_t completed = 0;
  std::uint64_t failed = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t expired = 0;
  std::array<std::uint64_t, schedule::kRefusalReasons> refused{};  ///< by RefusalReason
  std::uint64_t promoted = 0;          ///< levels moved up because of age
  schedule::WaitHistogram queue_wait;  ///< of those that were taken from the queue
  std::uint64_t prompt_tokens = 0;
  std::uint64_t completion_tokens = 0;
  std::uint64_t decode_steps = 0;
  std::uint64_t decode_aborts = 0;                ///< by cancelled or more urgent requests
  EngineReading engine;                           ///< of generation only
  std::vector<InstanceReading> instances;         ///< of generation only, in the order of numbers
  std::optional<schedule::BatchReading> batches;  ///< one-shot work only

  /// Adds what an earlier or another version of the same model counts, requests in progress
  /// included; not loads and unloads. A new counter belongs there as well.
  void add_counts(const ModelInfo& version);
};
[[nodiscard]] std::string_view to_string(ModelInfo::State state);

/// Executes generations for named models. The seam between serve and model: production has
/// model::Registry, the tests of the protocols a scripted one. All methods from any thread.
class Executor {
 public:
  virtual ~Executor() = default;

  /// How long a request of this level that came now would wait at least before it is worked on,
  /// were it the first of its level. What submit() takes is never later than this. Unset: not known
  /// (nothing measured yet, or no such model). Cheap: called before a request's body is read.
  [[nodiscard]] virtual std::optional<Duration> predicted_wait(std::string_view /*model*/,
                                                               std::int32_t /*level*/) const {
    return std::nullopt;
  }

  /// Takes the request into the model's queue, loading the model first if needed (exactly once,
  /// without blocking the caller). Unset: accepted, and the listener will hear the end of it. Set:
  /// refused, the listener hears nothing. Precondition: has_model(model).
  [[nodiscard]] virtual std::optional<Refusal> submit(
      std::string_view model, std::shared_ptr<GenerationRequest> request) = 0;

  [[nodiscard]] virtual bool has_model(std::string_view model) const = 0;
  /// What the model is for. Precondition of submit(): the request is for that. Unless overridden,
  /// looked up in models().
  [[nodiscard]] virtual Task task(std::string_view model) const;
  [[nodiscard]] virtual std::vector<ModelInfo> models() const = 0;
};

}  // namespace weir::model
