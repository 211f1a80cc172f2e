// SPDX-License-Identifier: Apache-2.0
//
// The network namespaces in which the processes of a cgroup live, and work to be done in each: a
// TCP iterator sees the sockets of one namespace only, that of the thread that opens it.
//
// Thread-safety: callable from any thread. The caller's own namespace never changes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/fd.h"

namespace weir::kernel {

/// One open descriptor per namespace of a process in the cgroup or below it, and that of the
/// calling process. A process or cgroup that is gone by now is passed over; so is one in a process
/// namespace that cannot be seen from here. `proc_root` is "/proc". Fails when the cgroup cannot be
/// read.
Result<std::vector<Fd>> net_namespaces_below(const std::string& cgroup_path,
                                             const std::string& proc_root);

/// Calls `work` once in each namespace, on a thread that is made for it and ends with the call.
/// An error does not keep it from the other namespaces; the first one is returned.
Status in_each_net_namespace(const std::vector<Fd>& namespaces,
                             const std::function<Status()>& work);

}  // namespace weir::kernel
