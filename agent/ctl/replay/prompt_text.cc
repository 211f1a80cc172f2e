// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/prompt_text.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "agent/ctl/replay/random.h"

namespace weir::replay {
namespace {

constexpr std::size_t kWordBytes = 4;
constexpr unsigned kWordBits = 6;
// 64 words, so that six bits choose one.
constexpr std::string_view kWords =
    "the and you was for are not had her him his she one two all any our out who why "
    "how see say saw got get put let run ran sat sun sky sea day dog cat hen fox bee "
    "cow pig toy box big red old new hot wet dry top end way man boy eat ate fly cry "
    "try ask far off ";
static_assert(kWords.size() == kWordBytes << kWordBits);

// Prompts of no block and blocks must not draw from one stream.
constexpr std::uint64_t kRequestStream = std::uint64_t{1} << 63U;

void append_words(std::string& out, Random random, std::uint32_t words) {
  const std::size_t before = out.size();
  out.resize(before + words * kWordBytes);
  char* to = out.data() + before;
  std::uint64_t bits = 0;
  unsigned left = 0;
  for (std::uint32_t i = 0; i < words; ++i) {
    if (left < kWordBits) {
      bits = random.next();
      left = 64;
    }
    constexpr std::uint64_t kMask = (1U << kWordBits) - 1;
    std::memcpy(to, kWords.data() + (bits & kMask) * kWordBytes, kWordBytes);
    to += kWordBytes;
    bits >>= kWordBits;
    left -= kWordBits;
  }
}

}  // namespace

PromptText::PromptText(std::uint64_t seed, double scale_lengths)
    : seed_(seed),
      block_tokens_(static_cast<std::uint32_t>(
          std::clamp(std::round(kBlockTokens * scale_lengths), 1.0, 1e9))) {}

void PromptText::append(std::string& out, const Arrival& arrival) const {
  std::uint32_t left = arrival.prompt_tokens;
  for (const std::uint64_t block : arrival.blocks) {
    const std::uint32_t words = std::min(left, block_tokens_);
    append_words(out, Random(seed_, block), words);
    left -= words;
    if (left == 0) break;
  }
  append_words(out, Random(seed_, kRequestStream + arrival.serial), left);
  out.back() = '.';
}

}  // namespace weir::replay
