// SPDX-License-Identifier: Apache-2.0
//
// Text to tokens and back, for one loaded model.
//
// Thread-safe: libllama's tokenizer is. Borrows the model, which must outlive it.
#pragma once

#include <llama.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/result.h"

namespace weir::model {

class Vocabulary {
 public:
  /// `vocab` must not be null.
  explicit Vocabulary(const llama_vocab* vocab) : vocab_(vocab) {}

  /// Which tokens come of more than plain text.
  enum class Special {
    kAround,  ///< those that the model wants at the start and end, and those of kInText
    kInText,  ///< control tokens that are written out
    kNone,
  };

  /// The prompt's tokens, with those that the model wants at the start and end. Control tokens
  /// written in the text ("<|im_start|>") become control tokens: a raw completion prompt may hold
  /// them, and chat templates need them. Fails when the text is too long to count.
  [[nodiscard]] Result<std::vector<llama_token>> tokenize(std::string_view text,
                                                          Special special = Special::kAround) const;

  /// The bytes that the token stands for; not necessarily whole UTF-8 characters. Control tokens
  /// have none.
  [[nodiscard]] std::string piece(llama_token token) const;
  /// The same, into `text`, whose memory is used again.
  void piece(llama_token token, std::string& text) const;

  [[nodiscard]] std::int32_t size() const { return llama_vocab_n_tokens(vocab_); }

  [[nodiscard]] bool ends_generation(llama_token token) const {
    return llama_vocab_is_eog(vocab_, token);
  }

 private:
  const llama_vocab* vocab_;
};

}  // namespace weir::model
