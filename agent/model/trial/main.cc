// SPDX-License-Identifier: Apache-2.0
//
// weir-load-trial: loads a model where that may fail, for load_trial.h, which starts it and reads
// what it says (load_trial_words.h). By hand: weir-load-trial MODEL.gguf

#include <fcntl.h>
#include <ggml.h>
#include <linux/capability.h>
#include <llama.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/model/llama_handles.h"
#include "agent/model/llama_log.h"
#include "agent/model/load_trial_words.h"

namespace {

using namespace weir::model;

constexpr int kUsage = 2;
constexpr int kNoLimits = 3;
constexpr std::uint32_t kSequences = 2;
constexpr std::uint32_t kContextTokens = 512;  // as much as a step of the engine decodes at most
constexpr std::size_t kPromptTokens = 4;

/// One write: nothing of it is lost if the next thing that happens is the end.
void say(std::string_view word, std::string_view text) {
  std::string line(word);
  if (!text.empty()) line.append(" ").append(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  line += '\n';
  // Who does not listen any more will not miss it.
  if (::write(STDOUT_FILENO, line.data(), line.size()) < 0) std::_Exit(kUsage);
}

/// Called by ggml before it aborts; the message begins with the path of its source.
void on_abort(const char* message) {
  std::string_view text = message == nullptr ? "" : message;
  const std::size_t slash = text.substr(0, text.find(':')).rfind('/');
  if (slash != std::string_view::npos) text.remove_prefix(slash + 1);
  say(kTrialDying, text);
}

[[noreturn]] void on_terminate() {
  try {
    if (const std::exception_ptr failure = std::current_exception())
      std::rethrow_exception(failure);
    say(kTrialDying, "terminated");
  } catch (const std::exception& failure) {
    say(kTrialDying, failure.what());
  } catch (...) {
    say(kTrialDying, "an exception of no known type");
  }
  std::abort();
}

// ---- what it may do ---------------------------------------------------------------------------

bool limit(__rlimit_resource resource, rlim_t soft, rlim_t hard) {
  const rlimit bound{soft, hard};
  return ::setrlimit(resource, &bound) == 0;
}

/// How this process ends tells the agent what the file does. A sanitizer's runtime would catch a
/// bad access instead, and exit as if nothing could be said of the file.
void die_by_signals() {
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) std::signal(signal, SIG_DFL);
}

/// The sanitizers reserve more of the address space than any limit leaves.
bool limit_memory(std::uint64_t bytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return bytes > 0;
#else
  return limit(RLIMIT_AS, bytes, bytes);
#endif
}

/// Keeps the right to read files whoever owns them, if it has it, and gives all others away.
bool drop_privileges() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) return false;
  const std::uint32_t kept = data[0].permitted & (1U << CAP_DAC_READ_SEARCH);
  data = {};
  data[0] = {kept, kept, 0};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::syscall(SYS_capset, &header, data.data()) == 0;
}

/// Better this than the agent, when memory is short. Where it cannot be said, it remains unsaid.
void be_killed_first() {
  const int file = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  static_cast<void>(!::write(file, "1000", 4));
  ::close(file);
}

bool confine(std::uint64_t memory_bytes, std::uint64_t cpu_seconds, pid_t parent) {
  be_killed_first();
  const bool limited = limit_memory(memory_bytes) &&
                       limit(RLIMIT_CPU, cpu_seconds, cpu_seconds + 1) &&
                       limit(RLIMIT_CORE, 0, 0) && limit(RLIMIT_FSIZE, 0, 0) && drop_privileges();
  // A parent that ended before this has not killed it.
  return limited && ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && ::getppid() == parent;
}

// ---- what it does -----------------------------------------------------------------------------

/// Has every byte that UTF-8 has: a tokenizer may lack a token for one, and throw.
std::string all_bytes() {
  std::string text = "Once upon a time";
  for (int byte = 1; byte < 0x80; ++byte) text += static_cast<char>(byte);
  for (int lead = 0xC2; lead < 0xE0; ++lead) text.append({static_cast<char>(lead), '\x80'});
  for (int tail = 0x80; tail < 0xC0; ++tail) text.append({'\xC3', static_cast<char>(tail)});
  for (int lead = 0xE1; lead < 0xF0; ++lead) {
    // Surrogates (ED A0..BF) are not UTF-8.
    text.append({static_cast<char>(lead), '\x80', '\x80'});
  }
  text.append("\xE0\xA0\x80");
  text.append("\xF0\x90\x80\x80\xF1\x80\x80\x80\xF2\x80\x80\x80\xF3\x80\x80\x80\xF4\x80\x80\x80");
  return text;
}

std::vector<llama_token> tokens_of(const llama_vocab* vocab, const std::string& text) {
  std::vector<llama_token> tokens(text.size() * 4 + 64);
  const std::int32_t count =
      llama_tokenize(vocab, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                     static_cast<std::int32_t>(tokens.size()), true, true);
  tokens.resize(static_cast<std::size_t>(std::max(count, 0)));
  return tokens;
}

/// Why its vocabulary is of no use; unset when it is fine.
std::optional<std::string> try_vocabulary(const llama_vocab* vocab,
                                          std::vector<llama_token>& some) {
  if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) return std::nullopt;  // for others to judge
  const std::int32_t count = llama_vocab_n_tokens(vocab);
  std::string piece(4096, '\0');
  for (llama_token token = 0; token < count; ++token) {
    static_cast<void>(llama_token_to_piece(vocab, token, piece.data(),
                                           static_cast<std::int32_t>(piece.size()), 0, false));
    static_cast<void>(llama_vocab_is_eog(vocab, token));
  }
  some = tokens_of(vocab, all_bytes());
  for (const llama_token token : some) {
    if (token < 0 || token >= count) {
      return "its tokenizer makes the token " + std::to_string(token) + ", of " +
             std::to_string(count) + " that there are";
    }
  }
  if (some.size() > kPromptTokens) some.resize(kPromptTokens);
  return std::nullopt;
}

bool decode(llama_context* context, std::span<const llama_token> tokens, std::int32_t position) {
  Batch batch(static_cast<std::int32_t>(tokens.size() * kSequences));
  const bool embeds = llama_get_memory(context) == nullptr;
  for (std::uint32_t sequence = 0; sequence < kSequences; ++sequence) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      batch.add(tokens[i], position + static_cast<std::int32_t>(i),
                static_cast<llama_seq_id>(sequence), embeds || i + 1 == tokens.size());
    }
  }
  return llama_decode(context, batch.get()) == 0;
}

/// Draws as a request with temperature would: weights that are not numbers show here.
std::optional<std::string> try_sampling(llama_context* context, std::int32_t tokens,
                                        llama_token& chosen) {
  const float* logits = llama_get_logits_ith(context, -1);
  if (logits == nullptr) return std::nullopt;  // an embedding model
  const std::span<const float> all(logits, static_cast<std::size_t>(tokens));
  if (std::any_of(all.begin(), all.end(), [](float logit) { return std::isnan(logit); })) {
    return "its weights are damaged: it computes logits that are not numbers";
  }
  const SamplerHandle chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
  llama_sampler_chain_add(chain.get(), llama_sampler_init_top_k(40));
  llama_sampler_chain_add(chain.get(), llama_sampler_init_top_p(0.95F, 1));
  llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(0.8F));
  llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(1));
  chosen = llama_sampler_sample(chain.get(), context, -1);
  return std::nullopt;
}

std::optional<std::string> try_decoding(llama_model* model, std::vector<llama_token> tokens) {
  const LlamaErrors errors;
  say(kTrialAt, "making a context");
  llama_context_params params = llama_context_default_params();
  params.n_ctx = kContextTokens;
  params.n_batch = kContextTokens;
  params.n_ubatch = kContextTokens;
  params.n_seq_max = kSequences;
  params.n_threads = 1;
  params.n_threads_batch = 1;
  params.no_perf = true;
  const ContextHandle context(llama_init_from_model(model, params));
  if (!context) return errors.reason("libllama makes no context for it");
  say(kTrialAt, "decoding a few tokens");
  // Without them the context takes nothing but whole batches of outputs.
  if (llama_get_memory(context.get()) == nullptr) llama_set_embeddings(context.get(), true);
  if (tokens.empty()) tokens.push_back(0);
  const std::int32_t count = llama_vocab_n_tokens(llama_model_get_vocab(model));
  if (!decode(context.get(), tokens, 0)) return errors.reason("libllama cannot decode with it");
  if (llama_get_memory(context.get()) == nullptr) return std::nullopt;
  llama_token next = 0;
  if (auto wrong = try_sampling(context.get(), count, next)) return wrong;
  if (!decode(context.get(), std::span(&next, 1), static_cast<std::int32_t>(tokens.size()))) {
    return errors.reason("libllama cannot decode with it");
  }
  return try_sampling(context.get(), count, next);
}

/// Why it cannot be served; unset when nothing speaks against it.
std::optional<std::string> try_model(const char* path) {
  say(kTrialAt, "loading its weights");
  init_llama();
  ggml_set_abort_callback(on_abort);
  ModelHandle model;
  {
    const LlamaErrors errors;
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.load_mode = LLAMA_LOAD_MODE_MMAP;
    model.reset(llama_model_load_from_file(path, params));
    if (!model) return errors.reason("libllama cannot load it");
  }
  say(kTrialAt, "reading its vocabulary");
  std::vector<llama_token> tokens;
  if (auto wrong = try_vocabulary(llama_model_get_vocab(model.get()), tokens)) return wrong;
  // Two models in one; no engine serves them.
  if (llama_model_has_encoder(model.get())) return std::nullopt;
  return try_decoding(model.get(), std::move(tokens));
}

std::uint64_t number(const char* text) {
  std::uint64_t value = 0;
  const std::string_view whole(text);
  std::from_chars(whole.data(), whole.data() + whole.size(), value);
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 5) {
    say(kTrialRefused, "usage: weir-load-trial MODEL.gguf [PARENT MEMORY_BYTES CPU_SECONDS]");
    return kUsage;
  }
  spdlog::set_level(spdlog::level::off);
  std::set_terminate(on_terminate);
  die_by_signals();
  if (argc == 5 &&
      !confine(number(argv[3]), number(argv[4]), static_cast<pid_t>(number(argv[2])))) {
    return kNoLimits;
  }
  try {
    const auto wrong = try_model(argv[1]);
    say(wrong ? kTrialRefused : kTrialPassed, wrong.value_or(""));
  } catch (const std::exception& failure) {
    say(kTrialRefused, failure.what());
  }
  // Not by way of destructors: the verdict is out.
  std::_Exit(0);
}
