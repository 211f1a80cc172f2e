// SPDX-License-Identifier: Apache-2.0
//
// Sends what libbpf prints to the agent's log, at debug level: its "failed" lines of a probe are
// no failures of ours.
//
// Thread-safe.
#pragma once

namespace weir::kernel {

/// May be called any number of times.
void route_libbpf_log();

}  // namespace weir::kernel
