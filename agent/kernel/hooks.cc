// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/hooks.h"

#include <bpf/libbpf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

namespace weir::kernel {
namespace {

struct DestroyLink {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
using Link = std::unique_ptr<bpf_link, DestroyLink>;

/// A pinned link that still sits on `target`; tracing links sit on no cgroup and never do.
bool is_on(const bpf_link* link, const Hook& hook, const AttachTarget& target) {
  bpf_link_info info{};
  std::uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(bpf_link__fd(link), &info, &bytes) != 0) return false;
  return info.type == BPF_LINK_TYPE_CGROUP && info.cgroup.cgroup_id == target.cgroup_id &&
         info.cgroup.attach_type == static_cast<std::uint32_t>(hook.attach_type);
}

Status attach_one(bpf_object* object, const Hook& hook, const PinDir& pins,
                  const AttachTarget& target) {
  const std::string name = hook.program;
  const std::string path = pins.link_path(name);
  bpf_program* const program = bpf_object__find_program_by_name(object, hook.program);
  if (program == nullptr) return make_error(Code::kInternal, "no program " + name);

  const Link pinned(bpf_link__open(path.c_str()));
  if (!pinned && errno != ENOENT) return os_error(errno, "cannot open " + path);
  if (pinned && is_on(pinned.get(), hook, target)) {
    const int error = bpf_link__update_program(pinned.get(), program);
    if (error != 0) return os_error(-error, "cannot replace the program of " + path);
    return {};
  }

  const bool tracing = hook.attach_type == BPF_TRACE_RAW_TP;
  // On another cgroup: off before the new one is on, or a connect() would be steered twice. A
  // tracing link cannot be updated or detached; for it, the new one first: what one program counts
  // for a socket, the other finds counted.
  if (pinned && !tracing) (void)bpf_link__detach(pinned.get());
  const Link link(tracing ? bpf_program__attach_trace(program)
                          : bpf_program__attach_cgroup(program, target.cgroup_fd));
  if (!link) return os_error(errno, "cannot attach " + name);
  if (pinned && unlink(path.c_str()) != 0) return os_error(errno, "cannot remove " + path);
  const int error = bpf_link__pin(link.get(), path.c_str());
  if (error != 0) return os_error(-error, "cannot pin " + path);
  return {};
}

}  // namespace

bool wanted(const Hook& hook, weir_request_clock clock) {
  return !hook.clock || *hook.clock == clock;
}

Status attach_hooks(bpf_object* object, const PinDir& pins, const AttachTarget& target,
                    weir_request_clock clock) {
  for (const Hook& hook : kHooks) {
    if (!wanted(hook, clock)) continue;
    if (Status done = attach_one(object, hook, pins, target); !done) return done;
  }
  for (const std::string& name : pins.link_names()) {
    const bool keep = std::any_of(kHooks.begin(), kHooks.end(), [&](const Hook& hook) {
      return name == hook.program && wanted(hook, clock);
    });
    if (!keep && unlink(pins.link_path(name).c_str()) != 0) {
      return os_error(errno, "cannot remove " + pins.link_path(name));
    }
  }
  return {};
}

}  // namespace weir::kernel
