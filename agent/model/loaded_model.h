// SPDX-License-Identifier: Apache-2.0
//
// A model in memory, ready to decode: the mmap'd weights, one context with its KV cache, and the
// vocabulary. The weights are shared: by other contexts over them, and by who still tokenizes.
//
// Thread-compatible: one engine thread loads, uses and frees it; the weights are only read, by any.
// Owns everything libllama allocated for it. A file that cannot be served is an error with path and
// reason.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/embedding_input.h"
#include "agent/model/gguf_check.h"
#include "agent/model/identity.h"
#include "agent/model/llama_handles.h"
#include "agent/model/load_trial.h"
#include "agent/model/memory_reading.h"
#include "agent/model/model_file.h"
#include "agent/model/prefill_context.h"
#include "agent/model/vocabulary.h"
#include "agent/model/weights.h"
#include "agent/schedule/batch_former.h"
#include "agent/schedule/queue_options.h"

namespace weir::model {

inline constexpr std::uint64_t kDefaultParkBytes = std::uint64_t{256} << 20;

/// About where a text costs least: in thousands of tokens/s for calls of 128, 256, 512 and 1024
/// tokens, a model of 0.5 M parameters on one thread computes 112, 101, 85 and 70, one of 22 M on
/// two threads 10.2, 10.5, 10.3 and 9.5.
inline constexpr std::uint32_t kDefaultBatchTokens = 256;

struct ModelOptions {
  std::string name;  ///< 1..128 characters of [A-Za-z0-9._-]
  /// Set: executed by Identity, in batches; of the rest only max_queue, queue and batch count then.
  std::optional<IdentityOptions> identity;
  schedule::BatchOptions batch;
  /// Any but kGenerate: executed by an EmbeddingEngine; max_sequences, kv_tokens, park_bytes and
  /// prefix_reuse do not count then, and batch does.
  Task task = Task::kGenerate;
  std::uint32_t max_batch_tokens = kDefaultBatchTokens;  ///< of the texts computed together; >= 1
  bool instance_per_thread =
      false;         ///< in place of batch.instances: with task other than kGenerate
  std::string path;  ///< a GGUF file; need not exist before the load
  /// Contexts over the file, each with a thread and sequences of its own; 1..64. Task other than
  /// kGenerate: 1, that is batch.instances then.
  std::uint32_t instances = 1;
  std::uint32_t max_sequences = 8;              ///< decoded together, by each instance; 1..256
  std::optional<std::uint32_t> context_tokens;  ///< per sequence, 32..1048576; unset: as trained
  /// KV cells of an instance, >= context_tokens. Unset, or as many as max_sequences x
  /// context_tokens: these, reserved by sequence; fewer: one pool (kv_store.h).
  std::optional<std::uint32_t> kv_tokens;
  /// For copies of sequences that make room, of all instances together.
  std::uint64_t park_bytes = kDefaultParkBytes;
  bool prefix_reuse = true;  ///< do not compute again what prompts have in common
  /// Guessed tokens that one step computes, 1..64; unset: none (speculation.h).
  std::optional<std::uint32_t> max_draft_tokens;
  std::uint32_t max_queue = 256;  ///< requests waiting for a sequence; 1..1048576
  /// Of the KV cache, what admission lets requests in progress need together; >= 1. Unset: a
  /// bound where cells are in one pool, none elsewhere (kv_capacity.h).
  std::optional<double> max_kv_ratio;
  /// Of each instance; 1..1024. Unset: its share of the CPUs this process may use, at least one,
  /// but no more than one per kBytesPerThread of the file.
  std::optional<std::uint32_t> threads;
  bool preload = false;  ///< load at start, not at the first request
  /// Unload after so long without a request; zero: as soon as there is none. Unset: never.
  std::optional<Duration> keep_alive;
  TrialMode trial = TrialMode::kAuto;       ///< of the file, in a child process, before a load
  Prefetch prefetch = Prefetch::kWillneed;  ///< of the file, before a load
  /// Share of the file that is to be in memory before it counts as loaded; 0..1. Not without
  /// prefetch.
  double ready_residency = 0.9;
  bool repack = true;  ///< let libllama copy weights into the order in which they are computed
  /// Order and further bounds of the queue; of `queue.all.max_requests` max_queue is in force.
  schedule::QueueOptions queue;
};

/// Bound of ModelOptions::context_tokens, also where the model says more.
inline constexpr std::uint32_t kMostContextTokens = 1048576;

/// Threads meet at a barrier after every node of the graph; with less work than this for each, they
/// mostly wait for each other. Measured with the shipped 1.2 MB model on 2 CPUs busy otherwise: 1
/// thread decodes 3200 tokens/s, 2 threads 30..1100.
inline constexpr std::uint64_t kBytesPerThread = std::uint64_t{16} << 20;

/// The most tokens of one decode: what each generating sequence needs, and chunks of prompts in the
/// rest; of these fewer when something generates (batch_runner.cc).
inline constexpr std::uint32_t kStepTokens = 512;

/// The default for ModelOptions::threads, on a machine with `cpus` usable CPUs; at least 1.
[[nodiscard]] std::uint32_t default_threads(std::uint64_t file_bytes, std::uint32_t cpus);

/// ModelOptions::threads, or the default for it on this machine.
[[nodiscard]] std::uint32_t threads_of(const ModelOptions& options, std::uint64_t file_bytes);

class LoadedModel {
 public:
  /// Progress 0..1 on the calling thread; false stops the load.
  using Progress = std::function<bool(float)>;

  /// Of a file that has passed the check (gguf_vetting()): reads it into memory, tries it out, and
  /// has libllama map it; or those that another model has of the same file.
  static Result<Weights> load_weights(const ModelOptions& options, const CheckedGguf& file,
                                      const Progress& progress);
  /// A context of its own over the weights.
  static Result<LoadedModel> make(const Weights& weights, const ModelOptions& options);
  /// All of it, from the check on.
  static Result<LoadedModel> load(const ModelOptions& options, const Progress& progress);

  [[nodiscard]] llama_context* context() const { return context_.get(); }
  [[nodiscard]] llama_memory_t memory() const { return llama_get_memory(context_.get()); }
  [[nodiscard]] const std::shared_ptr<llama_model>& weights() const { return model_; }
  /// For long prompts beside those who generate; null: there is none (prefill_cells()).
  [[nodiscard]] PrefillContext* prefill() const { return prefill_.get(); }
  /// Valid as long as the weights.
  [[nodiscard]] const Vocabulary& vocabulary() const { return vocabulary_; }
  /// KV cells that one sequence may use.
  [[nodiscard]] std::uint32_t context_tokens() const { return context_tokens_; }
  /// What both contexts have, without the weights.
  [[nodiscard]] const MemoryReading& context_memory() const { return context_memory_; }
  [[nodiscard]] std::uint64_t parameters() const { return llama_model_n_params(model_.get()); }

 private:
  LoadedModel(std::shared_ptr<llama_model> model, ContextHandle context,
              std::unique_ptr<PrefillContext> prefill, std::uint32_t context_tokens,
              const MemoryReading& context_memory);

  std::shared_ptr<llama_model> model_;
  ContextHandle context_;  // after model_: freed first
  std::unique_ptr<PrefillContext> prefill_;
  Vocabulary vocabulary_;
  std::uint32_t context_tokens_;
  MemoryReading context_memory_;
};

}  // namespace weir::model
