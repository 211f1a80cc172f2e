// SPDX-License-Identifier: Apache-2.0
#include "agent/model/loaded_model.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "agent/model/gguf_vetting.h"
#include "agent/model/llama_log.h"

namespace weir::model {

namespace {

std::uint32_t usable_cpus() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    return static_cast<std::uint32_t>(std::max(1, CPU_COUNT(&set)));
  }
  return std::max(1U, std::thread::hardware_concurrency());
}

bool on_progress(float progress, void* user_data) {
  return (*static_cast<const LoadedModel::Progress*>(user_data))(progress);
}

Error refused(const ModelOptions& options, std::string_view reason) {
  return make_error(Code::kInvalidArgument, fmt::format("{}: {}", options.path, reason));
}

Result<ModelHandle> load_file(const ModelOptions& options, const LoadedModel::Progress& progress) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.load_mode = LLAMA_LOAD_MODE_MMAP;
  params.progress_callback = on_progress;
  // libllama hands the pointer back as it was given; on_progress() only reads through it.
  params.progress_callback_user_data = const_cast<LoadedModel::Progress*>(&progress);
  const LlamaErrors errors;
  ModelHandle model(llama_model_load_from_file(options.path.c_str(), params));
  if (!model) {
    return refused(options, errors.reason("libllama cannot load it"));
  }
  const llama_model* loaded = model.get();
  if (llama_vocab_type(llama_model_get_vocab(loaded)) == LLAMA_VOCAB_TYPE_NONE) {
    return refused(options, "no tokenizer in the file");
  }
  if (llama_model_has_encoder(loaded) || !llama_model_has_decoder(loaded) ||
      llama_model_is_diffusion(loaded)) {
    return refused(options, "not a decoder-only language model");
  }
  return model;
}

Result<ContextHandle> make_context(const ModelOptions& options, llama_model* model,
                                   std::uint32_t context_tokens, std::uint64_t file_bytes) {
  const std::uint64_t all = std::uint64_t{context_tokens} * options.max_sequences;
  const std::uint64_t cells = std::min<std::uint64_t>(all, options.kv_tokens.value_or(INT32_MAX));
  if (options.kv_tokens && *options.kv_tokens < context_tokens) {
    return refused(options, fmt::format("kv_tokens {} is less than the {} of one sequence",
                                        *options.kv_tokens, context_tokens));
  }
  if (all > INT32_MAX && !options.kv_tokens) {
    return refused(options, fmt::format("context_tokens {} x max_sequences {} exceeds {} KV cells",
                                        context_tokens, options.max_sequences, INT32_MAX));
  }
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<std::uint32_t>(cells);
  params.n_seq_max = options.max_sequences;
  params.n_batch = kStepTokens;
  params.n_ubatch = kStepTokens;
  params.n_outputs_max = options.max_sequences;  // logits of one token per sequence and step
  params.n_threads = static_cast<std::int32_t>(
      options.threads.value_or(default_threads(file_bytes, usable_cpus())));
  params.n_threads_batch = params.n_threads;
  params.kv_unified = cells < all;
  params.no_perf = true;
  const LlamaErrors errors;
  ContextHandle context(llama_init_from_model(model, params));
  if (!context) {
    return make_error(
        Code::kResourceExhausted,
        fmt::format("{}: no context of {} x {} tokens: {}", options.path, options.max_sequences,
                    context_tokens, errors.reason("libllama refused")));
  }
  if (llama_get_memory(context.get()) == nullptr) {
    return refused(options, "the model has no KV cache (an embedding model?)");
  }
  return context;
}

}  // namespace

std::uint32_t default_threads(std::uint64_t file_bytes, std::uint32_t cpus) {
  const std::uint64_t useful = std::max<std::uint64_t>(1, file_bytes / kBytesPerThread);
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(useful, cpus));
}

LoadedModel::LoadedModel(std::shared_ptr<llama_model> model, ContextHandle context,
                         std::uint32_t context_tokens)
    : model_(std::move(model)),
      context_(std::move(context)),
      vocabulary_(llama_model_get_vocab(model_.get())),
      context_tokens_(context_tokens) {}

Result<Weights> LoadedModel::load_weights(const ModelOptions& options, const CheckedGguf& file,
                                          const Progress& progress) {
  init_llama();
  // libllama catches its own exceptions nearly everywhere; a std::bad_alloc must not end the agent.
  try {
    if (Status fit = gguf_vetting().try_out(file, options.trial, [&] { return progress(0); });
        !fit) {
      return std::move(fit).error();
    }
    auto model = load_file(options, progress);
    if (!model) {
      return std::move(model).error();
    }
    return Weights{std::shared_ptr<llama_model>(std::move(*model)), file.bytes};
  } catch (const std::exception& failure) {
    return refused(options, failure.what());
  }
}

Result<LoadedModel> LoadedModel::make(const Weights& weights, const ModelOptions& options) {
  try {
    llama_model* const model = weights.model.get();
    const auto trained = static_cast<std::uint32_t>(std::max(1, llama_model_n_ctx_train(model)));
    const std::uint32_t context_tokens =
        options.context_tokens.value_or(std::min(trained, kMostContextTokens));
    auto context = make_context(options, model, context_tokens, weights.file_bytes);
    if (!context) {
      return std::move(context).error();
    }
    return LoadedModel(weights.model, std::move(*context), context_tokens);
  } catch (const std::exception& failure) {
    return refused(options, failure.what());
  }
}

Result<LoadedModel> LoadedModel::load(const ModelOptions& options, const Progress& progress) {
  const auto file = gguf_vetting().check(options.path);
  if (!file) {
    return file.error();
  }
  const auto weights = load_weights(options, *file, progress);
  if (!weights) {
    return weights.error();
  }
  return make(*weights, options);
}

}  // namespace weir::model
