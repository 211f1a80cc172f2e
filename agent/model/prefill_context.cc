// SPDX-License-Identifier: Apache-2.0
#include "agent/model/prefill_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "agent/model/kv_store.h"
#include "agent/model/llama_log.h"

namespace weir::model {

namespace {

// Of a sequence; shorter prompts are over within a few steps anyway.
constexpr std::uint32_t kFewestCells = 1024;
// Longer prompts are computed in chunks, rather than that every context has room for them twice.
constexpr std::uint32_t kMostCells = 16384;

// Words of a saved sequence: what it is, its id, the number of streams; then for each stream the
// number of its cells, and what is in them.
constexpr std::size_t kWord = sizeof(std::uint32_t);
constexpr std::size_t kStreams = 2 * kWord;
constexpr std::size_t kFirst = 3 * kWord;

std::uint32_t word(const std::vector<std::uint8_t>& state, std::size_t at) {
  std::uint32_t value = 0;
  std::memcpy(&value, &state[at], kWord);
  return value;
}

void set_word(std::vector<std::uint8_t>& state, std::size_t at, std::uint32_t value) {
  std::memcpy(&state[at], &value, kWord);
}

/// Others are over before one has looked.
bool is_large(const ggml_tensor* node) {
  return node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID ||
         node->op == GGML_OP_FLASH_ATTN_EXT;
}

}  // namespace

bool sequences_move(const llama_model* model) {
  return memory_goes_back(llama_model_is_recurrent(model), llama_model_is_hybrid(model)) &&
         llama_model_n_swa(model) == 0;
}

bool to_one_stream(std::vector<std::uint8_t>& state) {
  if (state.size() < kFirst + kWord) return false;
  const std::size_t streams = word(state, kStreams);
  if (streams == 0 || state.size() < kFirst + streams * kWord) return false;
  std::size_t before = 0;
  while (before + 1 < streams && word(state, kFirst + before * kWord) == 0) ++before;
  const std::size_t after = streams - 1 - before;
  for (std::size_t i = 1; i <= after; ++i) {
    if (word(state, state.size() - i * kWord) != 0) return false;
  }
  state.resize(state.size() - after * kWord);
  const auto first = state.begin() + static_cast<std::ptrdiff_t>(kFirst);
  state.erase(first, first + static_cast<std::ptrdiff_t>(before * kWord));
  set_word(state, kStreams, 1);
  return true;
}

bool to_streams(std::vector<std::uint8_t>& state, std::uint32_t streams) {
  if (state.size() < kFirst + kWord || word(state, kStreams) != 1 || streams == 0) return false;
  set_word(state, kStreams, streams);
  state.resize(state.size() + (streams - 1) * kWord);
  return true;
}

std::uint32_t prefill_cells(std::uint32_t sequences, std::uint32_t context_tokens) {
  if (sequences < 2 || context_tokens < kFewestCells) return 0;
  return std::min(context_tokens, kMostCells);
}

Result<std::unique_ptr<PrefillContext>> PrefillContext::create(llama_model* model,
                                                               std::uint32_t cells,
                                                               llama_context_params like,
                                                               MemoryReading& memory) {
  std::unique_ptr<PrefillContext> made(new PrefillContext);
  like.n_ctx = cells;
  like.n_seq_max = 1;
  like.kv_unified = false;
  like.n_batch = kPrefillPassTokens;
  like.n_ubatch = std::min(like.n_ubatch, kPrefillPassTokens);
  like.n_outputs_max = 1;
  like.cb_eval = on_node;
  like.cb_eval_user_data = made.get();
  const LlamaErrors log;
  made->context_.reset(llama_init_from_model(model, like));
  if (!made->context_) {
    return make_error(Code::kResourceExhausted,
                      fmt::format("no context of {} tokens for prompts: {}", cells,
                                  log.reason("libllama refused")));
  }
  // Not cells that requests have: what they may need is reckoned by those (kv_capacity.h).
  const LlamaBuffers& buffers = log.buffers();
  memory.compute_bytes += buffers.kv + buffers.compute + buffers.output;
  return made;
}

bool PrefillContext::on_node(ggml_tensor* node, bool ask, void* self) {
  auto& context = *static_cast<PrefillContext*>(self);
  if (ask) return context.look_ != nullptr && is_large(node);
  context.stopped_ = context.stopped_ || !(*context.look_)();
  return !context.stopped_;
}

bool PrefillContext::begin(std::vector<std::uint8_t> state) {
  llama_memory_clear(llama_get_memory(context_.get()), false);
  if (state.empty()) return true;
  if (!to_one_stream(state)) return false;
  return llama_state_seq_set_data_ext(context_.get(), state.data(), state.size(), 0, 0) ==
         state.size();
}

bool PrefillContext::compute(std::span<const llama_token> tokens, std::size_t position,
                             const Look& look) {
  batch_.clear();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    batch_.add(tokens[i], static_cast<llama_pos>(position + i), 0, false);
  }
  look_ = &look;
  stopped_ = false;
  bool done = false;
  try {
    done = llama_decode(context_.get(), batch_.get()) == 0;
  } catch (const std::exception&) {  // std::bad_alloc: the prompt is computed in chunks then
  }
  look_ = nullptr;
  return done && !stopped_;
}

std::vector<std::uint8_t> PrefillContext::save(std::uint32_t streams) const {
  const std::size_t bytes = llama_state_seq_get_size_ext(context_.get(), 0, 0);
  std::vector<std::uint8_t> state;
  state.reserve(bytes + std::size_t{streams} * kWord);  // it is large: not to be copied again
  state.resize(bytes);
  const std::size_t written =
      llama_state_seq_get_data_ext(context_.get(), state.data(), bytes, 0, 0);
  if (written != bytes || !to_streams(state, streams)) state.clear();
  return state;
}

}  // namespace weir::model
