// SPDX-License-Identifier: Apache-2.0
#include "agent/model/kv_store.h"

#include <algorithm>

namespace weir::model {

namespace {

// Fewer tokens are computed in less time than it takes to find and move them.
constexpr std::size_t kFewestReused = 16;
// Takes 30 ms or so: as long as some steps of the models that have such states.
constexpr std::size_t kMostMovedBytes = std::size_t{64} << 20;

llama_seq_id id_of(std::size_t slot) { return static_cast<llama_seq_id>(slot); }

bool goes_back(const llama_context* context) {
  const llama_model* model = llama_get_model(context);
  return memory_goes_back(llama_model_is_recurrent(model), llama_model_is_hybrid(model));
}

// With one pool the bound of a sequence is that of all.
bool is_pooled(const llama_context* context) {
  return llama_n_seq_max(context) > 1 && llama_n_ctx_seq(context) == llama_n_ctx(context);
}

}  // namespace

KvStore::KvStore(llama_context* context, bool reuse)
    : context_(context),
      memory_(llama_get_memory(context)),
      goes_back_(model::goes_back(context)),
      reuse_(reuse && goes_back_),
      pooled_(is_pooled(context)),
      cells_(llama_n_seq_max(context), llama_n_ctx(context)) {}

std::size_t KvStore::length(std::size_t slot) const {
  return static_cast<std::size_t>(llama_memory_seq_pos_max(memory_, id_of(slot)) + 1);
}

void KvStore::evict(std::size_t slot) {
  llama_memory_seq_rm(memory_, id_of(slot), -1, -1);  // removing all of it never fails
  cells_.truncate(slot, 0);
}

KvStore::Place KvStore::take_place(std::span<const llama_token> tokens, std::size_t most) {
  std::size_t slot = *cells_.place_for(reuse_ ? tokens : std::span<const llama_token>{});
  std::size_t there = std::min(common_prefix(cells_.tokens(slot), tokens), most);
  if (there < kFewestReused) slot = beside_busy(slot);
  if (there < kFewestReused || !cut(slot, there)) {
    evict(slot);
    there = 0;
  }
  cells_.set_busy(slot, true);
  return {slot, there};
}

std::size_t KvStore::beside_busy(std::size_t instead) {
  if (pooled_) return instead;
  // With cells of their own, libllama decodes neighbouring ids together, and each gap between them
  // costs another pass over the weights.
  const auto nearer = cells_.nearer_place(instead);
  if (!nearer) return instead;
  const bool keeps = !cells_.tokens(*nearer).empty();
  return keeps && !move_kept(*nearer, instead) ? instead : *nearer;
}

bool KvStore::move_kept(std::size_t from, std::size_t to) {
  if (state_bytes(from) > kMostMovedBytes) return false;
  const std::vector<std::uint8_t> state = save(from);
  if (state.empty()) return false;
  evict(to);
  cells_.swap(from, to);
  llama_memory_seq_rm(memory_, id_of(from), -1, -1);
  const std::size_t read =
      llama_state_seq_set_data_ext(context_, state.data(), state.size(), id_of(to), 0);
  if (read != state.size()) evict(to);
  return true;
}

std::size_t KvStore::adopt(std::size_t slot, std::span<const llama_token> tokens,
                           std::size_t most) {
  const std::size_t own = cells_.tokens(slot).size();
  if (!reuse_) return own;
  const auto match = cells_.longest_match(tokens);
  const std::size_t length = match ? std::min(match->length, most) : 0;
  if (!match || match->slot == slot || length < own + kFewestReused) return own;
  if (pooled_) {
    evict(slot);
    llama_memory_seq_cp(memory_, id_of(match->slot), id_of(slot), 0,
                        static_cast<llama_pos>(length));
    cells_.share(match->slot, slot, length);
    return length;
  }
  // Cells of another slot are copied by way of the host: libllama copies slots whole only, also
  // what is empty in them.
  const auto held = cells_.tokens(match->slot);
  const std::vector<std::uint8_t> state = save(match->slot);
  evict(slot);
  if (state.empty() || !load(slot, state, held)) return 0;
  if (cut(slot, length)) return length;
  evict(slot);
  return 0;
}

bool KvStore::make_room(std::size_t cells) {
  while (cells_.free() < cells) {
    const auto oldest = cells_.oldest_kept();
    if (!oldest) return false;
    evict(*oldest);
    ++evictions_;
  }
  return true;
}

void KvStore::decoded(std::size_t slot, std::span<const llama_token> tokens) {
  if (!cells_.append(slot, tokens)) clear();  // against the precondition: the books are wrong
}

bool KvStore::cut(std::size_t slot, std::size_t length) {
  const bool shorter = this->length(slot) > length;
  if (shorter && length > 0 && !goes_back_) return false;
  if (shorter && !llama_memory_seq_rm(memory_, id_of(slot), static_cast<llama_pos>(length), -1)) {
    return false;
  }
  cells_.truncate(slot, length);
  return true;
}

void KvStore::release(std::size_t slot, bool keep) {
  if (!keep || !reuse_) evict(slot);
  cells_.set_busy(slot, false);
}

std::size_t KvStore::state_bytes(std::size_t slot) const {
  return llama_state_seq_get_size_ext(context_, id_of(slot), 0);
}

std::vector<std::uint8_t> KvStore::save(std::size_t slot) const {
  std::vector<std::uint8_t> state(state_bytes(slot));
  const std::size_t written =
      llama_state_seq_get_data_ext(context_, state.data(), state.size(), id_of(slot), 0);
  if (written != state.size()) state.clear();
  return state;
}

bool KvStore::load(std::size_t slot, std::span<const std::uint8_t> state,
                   std::span<const llama_token> tokens) {
  if (!make_room(tokens.size())) return false;
  const std::size_t read =
      llama_state_seq_set_data_ext(context_, state.data(), state.size(), id_of(slot), 0);
  if (read == state.size() && cells_.append(slot, tokens)) return true;
  evict(slot);
  return false;
}

void KvStore::clear() {
  llama_memory_clear(memory_, true);
  for (std::size_t slot = 0; slot < cells_.slots(); ++slot) cells_.truncate(slot, 0);
}

}  // namespace weir::model
