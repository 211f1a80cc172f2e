// SPDX-License-Identifier: Apache-2.0
#include "agent/model/loaded_model.h"

#include <fmt/format.h>
#include <malloc.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <string_view>
#include <utility>

#include "agent/base/usable_cpus.h"
#include "agent/model/attention.h"
#include "agent/model/gguf_vetting.h"
#include "agent/model/llama_log.h"
#include "agent/model/weights_cache.h"

namespace weir::model {

namespace {

// Of the progress of a load: most of it on a cold file, and quickly passed on a warm one.
constexpr double kPrefetchShare = 0.9;

bool on_progress(float progress, void* user_data) {
  return (*static_cast<const LoadedModel::Progress*>(user_data))(progress);
}

/// Vocabularies are many small pieces, which malloc() would keep for the next one.
void free_and_give_back(llama_model* model) {
  llama_model_free(model);
  ::malloc_trim(0);
}

Error refused(const ModelOptions& options, std::string_view reason) {
  return make_error(Code::kInvalidArgument, fmt::format("{}: {}", options.path, reason));
}

/// Weights without their file.
Result<Weights> map_file(const ModelOptions& options, const LoadedModel::Progress& progress) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.load_mode = LLAMA_LOAD_MODE_MMAP;
  params.use_extra_bufts = options.repack;
  params.progress_callback = on_progress;
  // libllama hands the pointer back as it was given; on_progress() only reads through it.
  params.progress_callback_user_data = const_cast<LoadedModel::Progress*>(&progress);
  const LlamaErrors log;
  ModelHandle model(llama_model_load_from_file(options.path.c_str(), params));
  if (!model) {
    return refused(options, log.reason("libllama cannot load it"));
  }
  const llama_model* loaded = model.get();
  if (llama_vocab_type(llama_model_get_vocab(loaded)) == LLAMA_VOCAB_TYPE_NONE) {
    return refused(options, "no tokenizer in the file");
  }
  if (llama_model_has_encoder(loaded) || !llama_model_has_decoder(loaded) ||
      llama_model_is_diffusion(loaded)) {
    return refused(options, "not a decoder-only language model");
  }
  Weights weights;
  weights.model = {model.release(), free_and_give_back};
  weights.copied_bytes = log.buffers().copied;
  return weights;
}

/// Whether enough of the file is in memory, after another try if not: what was read first may have
/// gone again while the rest was read.
Result<bool> is_resident(const ModelOptions& options, ModelFile& file,
                         const LoadedModel::Progress& progress) {
  if (options.prefetch == Prefetch::kNone) return true;
  const double wanted = options.ready_residency * static_cast<double>(file.bytes());
  const auto enough = [&] {
    const auto there = file.resident();
    return !there || static_cast<double>(*there) >= wanted;
  };
  if (enough()) return true;
  if (Status read = file.prefetch(options.prefetch, [&](double) { return progress(1); }); !read) {
    return std::move(read).error();
  }
  return enough();
}

/// Reads, tries and maps.
Result<Weights> load_new(const ModelOptions& options, const CheckedGguf& file,
                         const LoadedModel::Progress& progress) {
  // What is left when the pages are there: page tables, the vocabulary, copies.
  const double mapping_from = options.prefetch == Prefetch::kNone ? 0 : kPrefetchShare;
  auto pages = ModelFile::open(file.paths);
  if (!pages) return std::move(pages).error();
  Status ready = (*pages)->prefetch(options.prefetch, [&](double done) {
    return progress(static_cast<float>(done * kPrefetchShare));
  });
  if (ready) {
    ready = gguf_vetting().try_out(file, options.trial,
                                   [&] { return progress(static_cast<float>(mapping_from)); });
  }
  if (!ready) return std::move(ready).error();
  auto weights = map_file(options, [&](float done) {
    return progress(static_cast<float>(mapping_from + (1 - mapping_from) * double{done}));
  });
  if (!weights) return weights;
  const auto resident = is_resident(options, **pages, progress);
  if (!resident) return resident.error();
  if (!*resident) {
    weights->thin = true;
    spdlog::warn("model is not all in memory name={} path={} resident={} bytes={}", options.name,
                 options.path, (*pages)->resident().value_or(0), file.bytes);
  }
  weights->file = std::move(*pages);
  weights->file_bytes = file.bytes;
  return weights;
}

struct Contexts {
  ContextHandle context;
  std::unique_ptr<PrefillContext> prefill;  ///< may be null
};

Result<Contexts> make_contexts(const ModelOptions& options, llama_model* model,
                               std::uint32_t context_tokens, std::uint64_t file_bytes,
                               MemoryReading& memory) {
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
  // Of one token per sequence and step, and of what was guessed.
  params.n_outputs_max = options.max_sequences + options.max_draft_tokens.value_or(0);
  params.n_threads = static_cast<std::int32_t>(threads_of(options, file_bytes));
  params.n_threads_batch = params.n_threads;
  params.kv_unified = cells < all;
  const Attention attention = choose_attention(
      head_size(model), static_cast<std::uint32_t>(std::max(1, llama_model_n_head(model))),
      params.kv_unified ? cells : context_tokens, kStepTokens);
  params.n_ubatch = attention.pass_tokens;
  params.flash_attn_type = attention.flash;
  params.type_k = attention.keys;
  params.no_perf = true;
  std::unique_ptr<PrefillContext> prefill;
  const std::uint32_t for_prompts = prefill_cells(options.max_sequences, context_tokens);
  if (for_prompts > 0 && sequences_move(model)) {
    auto made = PrefillContext::create(model, for_prompts, params, memory);
    if (!made) return std::move(made).error().context(options.path);
    prefill = *std::move(made);
  }
  const LlamaErrors log;
  ContextHandle context(llama_init_from_model(model, params));
  if (!context) {
    return make_error(
        Code::kResourceExhausted,
        fmt::format("{}: no context of {} x {} tokens: {}", options.path, options.max_sequences,
                    context_tokens, log.reason("libllama refused")));
  }
  if (llama_get_memory(context.get()) == nullptr) {
    return refused(options, "it generates no text: has it task embed, or score?");
  }
  memory.kv_bytes = log.buffers().kv;
  memory.compute_bytes += log.buffers().compute;
  // It grows when tokens are guessed first.
  const auto vocabulary =
      static_cast<std::uint64_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  memory.output_bytes =
      std::max(log.buffers().output, params.n_outputs_max * vocabulary * sizeof(float));
  return Contexts{std::move(context), std::move(prefill)};
}

}  // namespace

std::uint32_t default_threads(std::uint64_t file_bytes, std::uint32_t cpus) {
  const std::uint64_t useful = std::max<std::uint64_t>(1, file_bytes / kBytesPerThread);
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(cpus, 1, useful));
}

std::uint32_t threads_of(const ModelOptions& options, std::uint64_t file_bytes) {
  return options.threads.value_or(default_threads(file_bytes, usable_cpus() / options.instances));
}

LoadedModel::LoadedModel(std::shared_ptr<llama_model> model, ContextHandle context,
                         std::unique_ptr<PrefillContext> prefill, std::uint32_t context_tokens,
                         const MemoryReading& context_memory)
    : model_(std::move(model)),
      context_(std::move(context)),
      prefill_(std::move(prefill)),
      vocabulary_(llama_model_get_vocab(model_.get())),
      context_tokens_(context_tokens),
      context_memory_(context_memory) {}

Result<Weights> LoadedModel::load_weights(const ModelOptions& options, const CheckedGguf& file,
                                          const Progress& progress) {
  init_llama();
  // libllama catches its own exceptions nearly everywhere; a std::bad_alloc must not end the agent.
  try {
    return weights_cache().get(
        {file.parts, options.repack}, file.paths, [&] { return progress(0); },
        [&] { return load_new(options, file, progress); });
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
    MemoryReading memory;
    auto made = make_contexts(options, model, context_tokens, weights.file_bytes, memory);
    if (!made) return std::move(made).error();
    return LoadedModel(weights.model, std::move(made->context), std::move(made->prefill),
                       context_tokens, memory);
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
