// SPDX-License-Identifier: Apache-2.0
//
// Requests as they go over the wire. Model, priority and deadline stand in header fields as well as
// in the body: an agent admits by the head alone, and OpenAI's body has no deadline. Other servers
// ignore them.
//
// Thread-safe: constant after construction.
#pragma once

#include <string>
#include <vector>

#include "agent/ctl/replay/arrival_plan.h"
#include "agent/ctl/replay/options.h"
#include "agent/ctl/replay/prompt_text.h"

namespace weir::replay {

class RequestText {
 public:
  explicit RequestText(const Options& options);

  /// Puts head and body in the place of what `out` had.
  void write(std::string& out, const Arrival& arrival) const;

 private:
  PromptText prompts_;
  std::size_t tenants_;
  std::vector<std::string> heads_;  ///< by class, then tenant; up to the value of Content-Length
  std::string body_begin_;          ///< up to the prompt
  std::vector<std::string> body_ends_;  ///< by class, behind max_tokens
};

}  // namespace weir::replay
