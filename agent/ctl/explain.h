// SPDX-License-Identifier: Apache-2.0
//
// `weir explain`: why new connections went where they went.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "agent/base/result.h"
#include "agent/ctl/watch_loop.h"

namespace weir::ctl {

struct ExplainOptions {
  std::string service;
  std::uint64_t count = 10;  ///< picks, then stop; >= 1
  std::uint32_t one_in = 1;  ///< of so many picks one is explained, at random; >= 1
  bool json = false;
};

/// What decided a pick, in words: "it is cold, the other one is hot".
[[nodiscard]] std::string reason_text(const kernel::PickEvent& pick);

/// A few lines per pick; with `json` one object on one line.
class ExplainPrinter final : public EventPrinter {
 public:
  explicit ExplainPrinter(bool json) : json_(json) {}
  std::optional<std::string> print(const kernel::Event& event, WallTime when) override;
  std::string print_losses(const kernel::EventLosses& since_last, WallTime when) override;

 private:
  const bool json_;
};

/// What `weir explain --help` says about its output.
[[nodiscard]] std::string_view explain_help();

/// Runs until it has explained as many picks as asked for, or is stopped. kInvalidArgument when
/// there is no such service, kNotFound when nothing is pinned, kAlreadyExists while another one
/// watches.
Status explain_command(const std::string& pin_root, const ExplainOptions& options);

}  // namespace weir::ctl
