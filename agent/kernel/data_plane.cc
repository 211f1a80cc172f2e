// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/data_plane.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "agent/base/build_info.h"
#include "agent/kernel/cgroup2.h"
#include "agent/kernel/decode.h"
#include "agent/kernel/hooks.h"
#include "agent/kernel/libbpf_log.h"
#include "agent/kernel/map_set.h"
#include "agent/kernel/pin_dir.h"
#include "agent/kernel/probe.h"
#include "agent/kernel/tables.h"
#include "weir.skel.h"

namespace weir::kernel {
namespace {

struct DestroySkeleton {
  void operator()(weir_bpf* skeleton) const { weir_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<weir_bpf, DestroySkeleton>;

Result<weir_request_clock> choose_clock(std::optional<weir_request_clock> forced) {
  if (!forced) {
    return has_request_clock(WEIR_CLOCK_TRACEPOINT) ? WEIR_CLOCK_TRACEPOINT : WEIR_CLOCK_SKB;
  }
  if (*forced != WEIR_CLOCK_NONE && !has_request_clock(*forced)) {
    return make_error(Code::kUnsupported, "this kernel does not offer the request clock asked for");
  }
  return *forced;
}

Status check_required(const Capabilities& capabilities) {
  for (const Capability& capability : capabilities) {
    if (capability.required && capability.use == Capability::Use::kMissing) {
      return make_error(Code::kUnsupported,
                        "this kernel lacks " + capability.name + ": " + capability.detail);
    }
  }
  return {};
}

/// Makes the object use a map that is pinned already; false when there is none.
Result<bool> reuse_pinned(bpf_map* map, const std::string& path) {
  const Fd fd(bpf_obj_get(path.c_str()));
  if (!fd.valid()) {
    if (errno == ENOENT) return false;
    return os_error(errno, "cannot open " + path);
  }
  bpf_map_info info{};
  std::uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &bytes) != 0) {
    return os_error(errno, "cannot inspect " + path);
  }
  if (info.type != static_cast<std::uint32_t>(bpf_map__type(map)) ||
      info.key_size != bpf_map__key_size(map) || info.value_size != bpf_map__value_size(map) ||
      info.max_entries != bpf_map__max_entries(map) || info.map_flags != bpf_map__map_flags(map)) {
    return make_error(Code::kUnsupported,
                      path + " has another layout than this build: run `weir detach` first");
  }
  const int error = bpf_map__reuse_fd(map, fd.get());
  if (error != 0) return os_error(-error, "cannot reuse " + path);
  return true;
}

/// Loads the programs over pinned maps, pinning those that are new.
Result<Skeleton> load(const PinDir& pins, weir_request_clock clock) {
  Skeleton skeleton(weir_bpf__open());
  if (!skeleton) return os_error(errno, "cannot open the embedded programs");
  bpf_object* const object = skeleton->obj;
  for (const Hook& hook : kHooks) {
    bpf_program__set_autoload(bpf_object__find_program_by_name(object, hook.program),
                              wanted(hook, clock));
  }
  std::array<bool, kMapCount> reused{};
  for (std::size_t i = 0; i < kMapCount; ++i) {
    bpf_map* const map = bpf_object__find_map_by_name(object, kMapNames[i]);
    auto found = reuse_pinned(map, pins.map_path(kMapNames[i]));
    if (!found) return std::move(found).error();
    reused[i] = *found;
  }
  if (const int error = weir_bpf__load(skeleton.get()); error != 0) {
    return os_error(-error, "the kernel refused the programs (log level debug shows why)");
  }
  for (std::size_t i = 0; i < kMapCount; ++i) {
    if (reused[i]) continue;
    const std::string path = pins.map_path(kMapNames[i]);
    const int error =
        bpf_obj_pin(bpf_map__fd(bpf_object__find_map_by_name(object, kMapNames[i])), path.c_str());
    if (error != 0) return os_error(errno, "cannot pin " + path);
  }
  return skeleton;
}

class KernelDataPlane final : public DataPlane {
 public:
  /// Everything attach() has set up. The programs live on in their links; the skeleton is gone.
  KernelDataPlane(PinDir pins, MapSet maps, Tables tables, Capabilities capabilities, bool adopted)
      : pins_(std::move(pins)),
        maps_(std::move(maps)),
        tables_(std::move(tables)),
        capabilities_(std::move(capabilities)),
        adopted_(adopted) {}

  Result<Snapshot> read() override { return maps_.read(); }

  Status publish(const std::vector<BackendDecision>& decisions) override {
    const TimePoint now = std::chrono::steady_clock::now();
    if (Status done = tables_.publish(decisions, now); !done) return done;
    __atomic_store_n(&maps_.meta().heartbeat_ns, to_kernel_ns(now), __ATOMIC_RELAXED);
    return {};
  }

  [[nodiscard]] bool adopted() const override { return adopted_; }
  [[nodiscard]] const Capabilities& capabilities() const override { return capabilities_; }

  Status detach() override {
    auto removed = pins_.remove();
    if (!removed) return std::move(removed).error();
    maps_.meta().agent_pid = 0;
    return {};
  }

 private:
  PinDir pins_;
  MapSet maps_;
  Tables tables_;
  const Capabilities capabilities_;
  const bool adopted_;
};

weir_meta describe_agent(weir_request_clock clock, const Cgroup& cgroup) {
  weir_meta meta{};
  meta.abi_version = WEIR_ABI_VERSION;
  meta.agent_pid = static_cast<std::uint32_t>(getpid());
  meta.agent_start_ns = to_kernel_ns(std::chrono::steady_clock::now());
  meta.heartbeat_ns = meta.agent_start_ns;
  meta.cgroup_id = cgroup.id;
  meta.request_clock = clock;
  const std::string_view build = build_id();
  std::memcpy(meta.build_id, build.data(), std::min(build.size(), sizeof(meta.build_id) - 1));
  return meta;
}

/// The steps that leave traces below `pins`.
Result<std::unique_ptr<DataPlane>> attach_at(PinDir& pins, const DataPlane::Options& options,
                                             weir_request_clock clock, const Cgroup& cgroup,
                                             bool adopted) {
  auto skeleton = load(pins, clock);
  if (!skeleton) return std::move(skeleton).error();
  auto maps = open_pinned_maps(pins.path(), true);
  if (!maps) return std::move(maps).error();

  Tables tables(maps->tables());
  auto changes = tables.configure(options.services, std::chrono::steady_clock::now());
  if (!changes) return std::move(changes).error();
  for (const std::uint32_t backend : changes->new_backends) {
    if (Status done = maps->zero_histograms(backend); !done) return std::move(done).error();
  }
  if (Status done = maps->set_routes(changes->routes); !done) return std::move(done).error();
  maps->meta() = describe_agent(clock, cgroup);

  // Last: a program never runs before its tables are there.
  const AttachTarget target{cgroup.fd.get(), cgroup.id};
  Status attached = attach_hooks((*skeleton)->obj, pins, target, clock);
  if (!attached) return std::move(attached).error();
  return std::unique_ptr<DataPlane>(std::make_unique<KernelDataPlane>(
      std::move(pins), std::move(*maps), std::move(tables), describe_kernel(clock), adopted));
}

}  // namespace

Result<std::unique_ptr<DataPlane>> DataPlane::attach(const Options& options) {
  route_libbpf_log();
  auto cgroup = open_cgroup(options.cgroup_path);
  if (!cgroup) return std::move(cgroup).error();
  auto capabilities = probe_capabilities();
  if (!capabilities) return std::move(capabilities).error();
  if (Status there = check_required(*capabilities); !there) return std::move(there).error();
  auto clock = choose_clock(options.request_clock);
  if (!clock) return std::move(clock).error();
  auto pins = PinDir::prepare(options.pin_root);
  if (!pins) return std::move(pins).error();

  const bool adopted = !pins->link_names().empty();
  auto plane = attach_at(*pins, options, *clock, *cgroup, adopted);
  // What an earlier agent left goes on steering; what this attempt made is taken away again.
  if (!plane && !adopted) (void)pins->remove();
  return plane;
}

}  // namespace weir::kernel
