// SPDX-License-Identifier: Apache-2.0
//
// The kernel program that chooses among the listeners of a port (bpf/listen.bpf.c): loads it,
// attaches it to the sockets, keeps what it decides by. The maps are pinned by listening address,
//
//   <pin directory>/listen/<network namespace>-<port>-<address>/{weir_listen,weir_depth}
//
// so that two agents share them while one hands over to the other.
//
// Thread-safety: every method may be called from any thread; seats as base/listener_group.h says.
// Ownership: seats keep the maps alive; they may outlive this object.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "agent/base/endpoint.h"
#include "agent/base/listener_group.h"
#include "agent/base/result.h"

namespace weir::kernel {

class ListenSteering : public ListenerGroup {
 public:
  struct Options {
    std::string directory;  ///< of the version: PinDir::path()
    Endpoint address;       ///< the bound one, with its port
    /// Whether queued connections move to another listener when theirs closes. Unset: when this
    /// kernel can (Linux 5.14).
    std::optional<bool> migrate;
  };

  /// For the agent that owns the pin directory: makes the maps or adopts those that an earlier
  /// agent left, and removes those of other addresses.
  static Result<std::unique_ptr<ListenSteering>> open(const Options& options);

  /// For a successor: shares the maps of the agent that listens there now. kNotFound when none
  /// does, in this network namespace.
  static Result<std::unique_ptr<ListenSteering>> open_running(const Options& options);

  /// Not 0; different for each agent.
  [[nodiscard]] virtual std::uint32_t owner() const = 0;
  /// Whether a listener of that agent takes connections.
  [[nodiscard]] virtual bool has_listener_of(std::uint32_t owner) const = 0;
  [[nodiscard]] virtual bool migrates() const = 0;
};

/// Whether this kernel moves queued connections to another listener.
[[nodiscard]] bool has_listener_migration();

}  // namespace weir::kernel
