// SPDX-License-Identifier: Apache-2.0
//
// `weir events`: connections that end or fail, breakers that change, requests, as they happen.
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

/// Which events are wanted.
struct EventKinds {
  bool close = true;
  bool failure = true;
  bool breaker = true;
  bool request = false;
};

/// "close,failure"; kInvalidArgument names what is not a kind.
Result<EventKinds> parse_kinds(std::string_view list);

struct EventsOptions {
  std::string kinds;                   ///< as for parse_kinds(); empty: the default of EventKinds
  bool requests = false;               ///< requests beside these
  std::optional<std::string> service;  ///< only of this one and its backup pool
  std::optional<std::uint64_t> count;  ///< stop after so many
  bool json = false;
};

/// One line per event.
class EventsPrinter final : public EventPrinter {
 public:
  EventsPrinter(const EventKinds& kinds, std::optional<std::string> service, bool json)
      : kinds_(kinds), service_(std::move(service)), json_(json) {}
  std::optional<std::string> print(const kernel::Event& event, WallTime when) override;
  std::string print_losses(const kernel::EventLosses& since_last, WallTime when) override;

 private:
  [[nodiscard]] bool wanted(const kernel::Event& event) const;

  const EventKinds kinds_;
  const std::optional<std::string> service_;
  const bool json_;
};

/// What `weir events --help` says about the lines that it prints.
[[nodiscard]] std::string_view events_help();

/// Runs until it is stopped. kInvalidArgument for a kind or service that does not exist, kNotFound
/// when nothing is pinned, kAlreadyExists while another one watches.
Status events_command(const std::string& pin_root, const EventsOptions& options);

}  // namespace weir::ctl
