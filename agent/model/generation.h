// SPDX-License-Identifier: Apache-2.0
//
// The contract between the protocols (agent/serve) and whatever executes a model (agent/model):
// a GenerationRequest goes in, events come out at its Listener.
//
// Thread-safety and ownership: stated per type.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"

namespace weir::model {

struct SamplingParams {
  float temperature = 0.8F;  ///< >= 0; 0: greedy
  float top_p = 0.95F;       ///< (0, 1]
  std::int32_t top_k = 40;   ///< <= 0: off
  std::optional<std::uint32_t> seed;
};

enum class FinishReason {
  kStop,    ///< end-of-generation token or a stop string
  kLength,  ///< max_tokens or the context is full
};

struct Usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t completion_tokens = 0;
};

struct Completion {
  FinishReason reason = FinishReason::kStop;
  Usage usage;
  std::chrono::nanoseconds queued{};       ///< accepted to first prefill
  std::chrono::nanoseconds first_token{};  ///< accepted to first token
  std::chrono::nanoseconds total{};        ///< accepted to finished
};

/// Why a request was refused: the closed set of DESIGN 5. The names are used in status bodies, logs
/// and metrics alike.
enum class RefusalReason {
  kQueueFull,
  kRateLimited,
  kDeadline,
  kMemory,
  kBreakerOpen,
  kDraining,
  kLoading,
  kCancelled
};
[[nodiscard]] std::string_view to_string(RefusalReason reason);

struct Refusal {
  RefusalReason reason = RefusalReason::kQueueFull;
  std::string message;
  /// When trying again makes sense, from the measured drain rate; unset: never.
  std::optional<std::chrono::seconds> retry_after;
};

/// Receives the events of one request. Called from the engine's thread, never after on_complete()
/// or on_error(), exactly one of which is called once for every accepted request. Must not block
/// and must not throw: implementations post to their own executor.
class Listener {
 public:
  virtual ~Listener() = default;
  /// A piece of the result: valid UTF-8, whole characters. Bytes of the model that are not UTF-8
  /// come as U+FFFD.
  virtual void on_text(std::string_view text) = 0;
  virtual void on_complete(const Completion& completion) = 0;
  /// The request was accepted and cannot be finished. kCancelled after cancel(),
  /// kResourceExhausted when the deadline passed, kInvalidArgument when the prompt is longer than
  /// the context or a sampling parameter is out of range, kUnavailable when the model could not be
  /// loaded or the agent stops.
  virtual void on_error(const Error& error) = 0;
};

/// One request. Shared by the protocol session and the engine; immutable after submit() but for
/// the cancel flag.
struct GenerationRequest {
  std::string id;
  std::string prompt;
  std::uint32_t max_tokens = 128;  ///< >= 1
  std::int32_t priority = 0;       ///< lower first
  std::optional<TimePoint> deadline;
  std::vector<std::string> stop;
  SamplingParams sampling;
  std::shared_ptr<Listener> listener;

  /// The client went away; the engine frees its place at the next step. Any thread.
  void cancel() { cancelled.store(true, std::memory_order_relaxed); }
  std::atomic<bool> cancelled{false};
};

struct ModelInfo {
  enum class State { kUnloaded, kLoading, kReady, kFailed, kDraining };
  std::string name;
  std::string path;
  State state = State::kUnloaded;
  float load_progress = 0;       ///< 0..1
  std::string failure;           ///< why, when kFailed
  std::uint64_t parameters = 0;  ///< 0 until loaded
  std::uint64_t file_bytes = 0;
  std::uint32_t context_tokens = 0;       ///< per sequence; 0 until loaded
  std::int64_t created_unix_seconds = 0;  ///< file modification time
  // Gauges and cumulative counters.
  std::uint64_t loads = 0;  ///< attempts to load the file
  std::uint32_t queued = 0;
  std::uint32_t running = 0;
  std::uint64_t accepted = 0;
  std::uint64_t completed = 0;
  std::uint64_t failed = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t refused_queue_full = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t completion_tokens = 0;
  std::uint64_t decode_steps = 0;
};
[[nodiscard]] std::string_view to_string(ModelInfo::State state);

/// Executes generations for named models. The seam between serve and model: production has
/// model::Registry, the tests of the protocols a scripted one. All methods from any thread.
class Executor {
 public:
  virtual ~Executor() = default;

  /// Takes the request into the model's queue, loading the model first if needed (exactly once,
  /// without blocking the caller). Unset: accepted, and the listener will hear the end of it. Set:
  /// refused, the listener hears nothing. Precondition: has_model(model).
  [[nodiscard]] virtual std::optional<Refusal> submit(
      std::string_view model, std::shared_ptr<GenerationRequest> request) = 0;

  [[nodiscard]] virtual bool has_model(std::string_view model) const = 0;
  [[nodiscard]] virtual std::vector<ModelInfo> models() const = 0;
};

}  // namespace weir::model
