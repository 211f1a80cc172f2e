// SPDX-License-Identifier: Apache-2.0
#include "agent/model/sampler.h"

#include <fmt/format.h>

#include <cmath>
#include <random>

namespace weir::model {

namespace {

// Below it the most likely token wins in any case, and logits divided by it would overflow.
constexpr float kGreedyBelow = 1e-5F;

}  // namespace

Result<SamplerHandle> make_sampler(const SamplingParams& params) {
  if (!std::isfinite(params.temperature) || params.temperature < 0) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("temperature must be >= 0, not {}", params.temperature));
  }
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("top_p must be in (0, 1], not {}", params.top_p));
  }
  llama_sampler_chain_params chain_params = llama_sampler_chain_default_params();
  chain_params.no_perf = true;
  SamplerHandle chain(llama_sampler_chain_init(chain_params));
  // The chain owns what is added to it.
  if (params.temperature < kGreedyBelow) {
    llama_sampler_chain_add(chain.get(), llama_sampler_init_greedy());
    return chain;
  }
  if (params.top_k > 0) {
    llama_sampler_chain_add(chain.get(), llama_sampler_init_top_k(params.top_k));
  }
  if (params.top_p < 1) {
    llama_sampler_chain_add(chain.get(), llama_sampler_init_top_p(params.top_p, 1));
  }
  llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(params.temperature));
  std::uint32_t seed = params.seed ? *params.seed : std::random_device{}();
  if (seed == LLAMA_DEFAULT_SEED) {
    seed = 0;  // libllama reads this value as "random", and a given seed must repeat
  }
  llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(seed));
  return chain;
}

}  // namespace weir::model
