// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/hooks.h"

#include <bpf/libbpf.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>

namespace weir::kernel {
namespace {

struct DestroyLink {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
using Link = std::unique_ptr<bpf_link, DestroyLink>;

/// A link that an earlier agent has pinned.
struct PinnedLink {
  std::string path;
  Link link;
  bpf_link_info info{};
  bool taken = false;  ///< has a program of this agent, or made room for another link

  [[nodiscard]] bool is_of(const Hook& hook) const {
    return info.type == BPF_LINK_TYPE_CGROUP &&
           info.cgroup.attach_type == static_cast<std::uint32_t>(hook.attach_type);
  }
  [[nodiscard]] bool is_tracing() const {
    return info.type == BPF_LINK_TYPE_RAW_TRACEPOINT || info.type == BPF_LINK_TYPE_TRACING;
  }
};

Result<std::vector<PinnedLink>> open_links(const PinDir& pins) {
  std::vector<PinnedLink> links;
  for (const std::string& path : pins.link_paths()) {
    PinnedLink pinned{path, Link(bpf_link__open(path.c_str())), {}, false};
    std::uint32_t bytes = sizeof(pinned.info);
    if (!pinned.link ||
        bpf_obj_get_info_by_fd(bpf_link__fd(pinned.link.get()), &pinned.info, &bytes) != 0) {
      return os_error(errno, "cannot open " + path);
    }
    links.push_back(std::move(pinned));
  }
  return links;
}

Status remove_pin(const PinnedLink& pinned) {
  if (unlink(pinned.path.c_str()) == 0) return {};
  return os_error(errno, "cannot remove " + pinned.path);
}

/// In place: no connect() meets a moment without a program.
Status replace_program(PinnedLink& pinned, bpf_program* program, const std::string& path) {
  const int error = bpf_link__update_program(pinned.link.get(), program);
  if (error != 0) return os_error(-error, "cannot replace the program of " + pinned.path);
  pinned.taken = true;
  if (pinned.path == path) return {};
  if (rename(pinned.path.c_str(), path.c_str()) != 0) {
    return os_error(errno, "cannot move " + pinned.path + " to " + path);
  }
  return {};
}

Status attach_one(bpf_object* object, const Hook& hook, const PinDir& pins,
                  const AttachTarget& target, std::vector<PinnedLink>& pinned) {
  const std::string path = pins.link_path(hook.program);
  bpf_program* const program = bpf_object__find_program_by_name(object, hook.program);
  if (program == nullptr) {
    return make_error(Code::kInternal, std::string("no program ") + hook.program);
  }
  for (PinnedLink& old : pinned) {
    if (old.taken || !old.is_of(hook)) continue;
    if (old.info.cgroup.cgroup_id == target.cgroup_id) return replace_program(old, program, path);
    // On another cgroup: off before the new one is on, or a connect() would be steered twice.
    (void)bpf_link__detach(old.link.get());
  }
  // The link of a tracepoint cannot be updated or detached; for it, the new one first: what one
  // program counts for a socket, the other finds counted.
  const bool tracing = hook.attach_type == BPF_TRACE_RAW_TP;
  const Link link(tracing ? bpf_program__attach_trace(program)
                          : bpf_program__attach_cgroup(program, target.cgroup_fd));
  if (!link) return os_error(errno, std::string("cannot attach ") + hook.program);
  for (PinnedLink& old : pinned) {
    if (old.path != path) continue;
    if (Status done = remove_pin(old); !done) return done;
    old.taken = true;
  }
  const int error = bpf_link__pin(link.get(), path.c_str());
  if (error != 0) return os_error(-error, "cannot pin " + path);
  return {};
}

}  // namespace

bool wanted(const Hook& hook, const RequestHooks& requests) {
  return (!hook.clock || *hook.clock == requests.clock) &&
         (!hook.copied_payload || *hook.copied_payload == requests.copied_payload);
}

Result<std::vector<std::uint32_t>> attached_programs(const PinDir& pins) {
  auto pinned = open_links(pins);
  if (!pinned) return std::move(pinned).error();
  std::vector<std::uint32_t> ids;
  for (const PinnedLink& link : *pinned) ids.push_back(link.info.prog_id);
  return ids;
}

Result<std::vector<std::uint32_t>> attach_hooks(bpf_object* object, const PinDir& pins,
                                                const AttachTarget& target,
                                                const RequestHooks& requests) {
  auto pinned = open_links(pins);
  if (!pinned) return std::move(pinned).error();
  for (const Hook& hook : kHooks) {
    if (!wanted(hook, requests)) continue;
    if (Status done = attach_one(object, hook, pins, target, *pinned); !done) {
      return std::move(done).error();
    }
  }
  std::vector<std::uint32_t> tracing_programs;
  for (const PinnedLink& old : *pinned) {
    if (old.is_tracing()) tracing_programs.push_back(old.info.prog_id);
    if (old.taken) continue;
    if (Status done = remove_pin(old); !done) return std::move(done).error();
  }
  return tracing_programs;
}

}  // namespace weir::kernel
