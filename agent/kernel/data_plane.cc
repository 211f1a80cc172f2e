// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/data_plane.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "agent/base/build_info.h"
#include "agent/kernel/census.h"
#include "agent/kernel/cgroup2.h"
#include "agent/kernel/decode.h"
#include "agent/kernel/foreign.h"
#include "agent/kernel/hooks.h"
#include "agent/kernel/housekeeping.h"
#include "agent/kernel/libbpf_log.h"
#include "agent/kernel/map_set.h"
#include "agent/kernel/pin_dir.h"
#include "agent/kernel/probe.h"
#include "agent/kernel/socket_sweeps.h"
#include "agent/kernel/tables.h"
#include "agent/kernel/upgrade.h"
#include "bpf/lib/breaker.bpf.h"
#include "weir.skel.h"

namespace weir::kernel {
namespace {

struct DestroySkeleton {
  void operator()(weir_bpf* skeleton) const { weir_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<weir_bpf, DestroySkeleton>;

Result<weir_request_clock> choose_clock(std::optional<weir_request_clock> forced,
                                        const KernelProbe& kernel) {
  if (!forced) {
    for (const weir_request_clock clock : {WEIR_CLOCK_TRACEPOINT, WEIR_CLOCK_SKB}) {
      if (has_request_clock(clock, kernel)) return clock;
    }
    return WEIR_CLOCK_NONE;
  }
  if (*forced != WEIR_CLOCK_NONE && !has_request_clock(*forced, kernel)) {
    return make_error(Code::kUnsupported,
                      *forced == WEIR_CLOCK_TRACEPOINT
                          ? "kernel.request_clock: this kernel does not offer tracepoint, which "
                            "needs Linux 6.3; auto takes what there is"
                          : "kernel.request_clock: this kernel does not offer skb; auto takes what "
                            "there is");
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

/// The programs that an agent which sees requests in this way uses, not loaded yet.
Result<Skeleton> open_programs(const RequestHooks& requests, const KernelProbe& kernel) {
  Skeleton skeleton(weir_bpf__open());
  if (!skeleton) return os_error(errno, "cannot open the embedded programs");
  for (const Hook& hook : kHooks) {
    bpf_program__set_autoload(bpf_object__find_program_by_name(skeleton->obj, hook.program),
                              wanted(hook, requests));
  }
  SocketSweeps::select(skeleton->obj);
  if (!kernel.has(Feature::kSockDestroy)) {
    bpf_program__set_autoload(skeleton->progs.weir_end_idle, false);
  }
  return skeleton;
}

Status validate(const BreakerOptions& breaker) {
  const auto invalid = [](const char* text) {
    return make_error(Code::kInvalidArgument, std::string("BreakerOptions::") + text);
  };
  if (breaker.open_after_failures < 1) return invalid("open_after_failures must be >= 1");
  if (breaker.open.count() < 1) return invalid("open must be >= 1 ms");
  if (breaker.max_open < breaker.open) return invalid("max_open must be >= open");
  if (breaker.max_open > std::chrono::hours(24)) return invalid("max_open must be <= 24 h");
  return {};
}

/// What the third failed connect does in the kernel (bpf/lib/breaker.bpf.h), done from here.
void trip_breaker(MapSet& maps, std::uint32_t index) {
  weir_be& backend = maps.backends()[index];
  weir_breaker_change change{};
  const auto now_ms = to_kernel_ns(std::chrono::steady_clock::now()) / 1'000'000;
  const auto random = static_cast<std::uint32_t>(std::random_device{}());
  weir_breaker_failure(&backend.breaker, 0, maps.knobs().open_after_failures, now_ms, random,
                       &maps.knobs(), &change);
  if (change.changed == 0) return;
  __atomic_fetch_add(&maps.totals()[index].breaker_opens, 1, __ATOMIC_RELAXED);
  if (weir_is_member(&backend) && backend.pool < maps.pools().size()) {
    __atomic_fetch_add(&maps.pools()[backend.pool].open, 1, __ATOMIC_RELAXED);
  }
}

class KernelDataPlane final : public DataPlane {
 public:
  /// Everything attach() has set up. The programs live on in their links; the skeleton is gone.
  KernelDataPlane(PinDir pins, MapSet maps, Tables tables, SocketSweeps sweeps,
                  Capabilities capabilities, bool adopted)
      : pins_(std::move(pins)),
        maps_(std::move(maps)),
        tables_(std::move(tables)),
        sweeps_(std::move(sweeps)),
        capabilities_(std::move(capabilities)),
        adopted_(adopted) {}

  Result<Snapshot> read() override { return with_census(maps_.read()); }
  Result<Snapshot> read_gauges() override { return with_census(maps_.read_gauges()); }

  Status publish(const std::vector<BackendDecision>& decisions) override {
    const TimePoint now = std::chrono::steady_clock::now();
    if (Status done = tables_.publish(decisions, now); !done) return done;
    __atomic_store_n(&maps_.meta().heartbeat_ns, to_kernel_ns(now), __ATOMIC_RELAXED);
    return {};
  }

  Status set_rif_limits(const std::vector<PoolLimit>& limits) override {
    return tables_.set_rif_limits(limits);
  }

  Status open_breaker(std::uint32_t backend) override {
    if (backend >= maps_.backends().size()) {
      return make_error(Code::kInvalidArgument, "no backend " + std::to_string(backend));
    }
    trip_breaker(maps_, backend);
    return {};
  }

  Result<std::size_t> end_idle_connections(std::uint32_t backend) override {
    if (backend >= maps_.backends().size()) {
      return make_error(Code::kInvalidArgument, "no backend " + std::to_string(backend));
    }
    if (maps_.meta().request_clock == WEIR_CLOCK_NONE) {
      return make_error(Code::kUnsupported, "without a request clock no connection is known idle");
    }
    auto swept = sweeps_.end_idle(backend, std::chrono::steady_clock::now());
    if (!swept) return std::move(swept).error();
    return static_cast<std::size_t>(swept->ended);
  }

  Status housekeeping(TimePoint now) override { return housekeeping_.tick(now); }

  [[nodiscard]] bool adopted() const override { return adopted_; }
  [[nodiscard]] const Capabilities& capabilities() const override { return capabilities_; }

  Status detach() override {
    auto removed = pins_.remove();
    if (!removed) return std::move(removed).error();
    maps_.meta().agent_pid = 0;
    return {};
  }

 private:
  Result<Snapshot> with_census(Result<Snapshot> snapshot) const {
    if (!snapshot) return snapshot;
    snapshot->census = census_.report();
    snapshot->census.adopted = taken_in_.adopted;
    snapshot->census.unwatched = taken_in_.unwatched;
    return snapshot;
  }

  Status adopt(TimePoint now) {
    auto swept = sweeps_.adopt(now);
    if (!swept) return std::move(swept).error().context("adopting connections");
    taken_in_.adopted += swept->adopted;
    taken_in_.unwatched += swept->unwatched;
    return {};
  }

  Status take_census(TimePoint now) {
    Status done = census_.run(sweeps_, now);
    if (!done) return std::move(done).error().context("taking the census");
    return {};
  }

  PinDir pins_;
  MapSet maps_;
  Tables tables_;
  SocketSweeps sweeps_;
  SweepResult taken_in_;
  Census census_{
      {maps_.pools(), maps_.backends(), maps_.totals(), maps_.tables().slots, maps_.census()}};
  Housekeeping housekeeping_{{[this](TimePoint now) { return adopt(now); },
                              [this](TimePoint now) { return take_census(now); }},
                             std::chrono::steady_clock::now()};
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

/// Programs of others on our hooks. Another Weir there is an error.
Result<std::vector<ForeignProgram>> look_for_others(const PinDir& pins, const Cgroup& cgroup) {
  auto own = attached_programs(pins);
  if (!own) return std::move(own).error();
  auto foreign = foreign_programs(cgroup.path, *own);
  if (!foreign) return foreign;
  if (Status alone = check_no_other_weir(*foreign); !alone) return std::move(alone).error();
  if (!foreign->empty()) {
    spdlog::warn("foreign programs on our hooks programs=\"{}\"", describe(*foreign));
  }
  return foreign;
}

Capabilities describe(weir_request_clock clock, const KernelProbe& kernel,
                      const std::vector<ForeignProgram>& foreign) {
  Capabilities table = describe_kernel(clock, kernel);
  table.push_back(describe_hooks(foreign));
  return table;
}

/// The steps that leave traces below `pins`.
Result<std::unique_ptr<DataPlane>> attach_at(PinDir& pins, const DataPlane::Options& options,
                                             weir_request_clock clock, const Cgroup& cgroup,
                                             bool adopted, const KernelProbe& kernel) {
  auto foreign = look_for_others(pins, cgroup);
  if (!foreign) return std::move(foreign).error();
  const RequestHooks requests{clock, kernel.has(Feature::kTracepointPayload)};
  auto skeleton = open_programs(requests, kernel);
  if (!skeleton) return std::move(skeleton).error();
  bpf_object* const object = (*skeleton)->obj;
  auto upgrade = Upgrade::prepare(object, pins, backends_needed(options.services));
  if (!upgrade) return std::move(upgrade).error();
  if (const int error = weir_bpf__load(skeleton->get()); error != 0) {
    return os_error(-error, "the kernel refused the programs (log level debug shows why)");
  }
  auto maps = upgrade->open_maps();
  if (!maps) return std::move(maps).error();

  Tables tables(maps->tables());
  auto changes = tables.configure(options.services, std::chrono::steady_clock::now());
  if (!changes) return std::move(changes).error();
  for (const std::uint32_t backend : changes->new_backends) {
    if (Status done = maps->zero_histograms(backend); !done) return std::move(done).error();
  }
  if (Status done = maps->set_routes(changes->routes); !done) return std::move(done).error();
  maps->meta() = describe_agent(clock, cgroup);
  // Whoever watches goes on watching: only what the configuration decides is written.
  maps->knobs().open_after_failures = options.breaker.open_after_failures;
  maps->knobs().open_ms = static_cast<std::uint32_t>(options.breaker.open.count());
  maps->knobs().max_open_ms = static_cast<std::uint32_t>(options.breaker.max_open.count());

  auto sweeps = SocketSweeps::open(object, cgroup.path);
  if (!sweeps) return std::move(sweeps).error();

  // Last: a program never runs before its tables are there.
  if (Status begun = upgrade->begin(*maps, tables); !begun) return std::move(begun).error();
  const AttachTarget target{cgroup.fd.get(), cgroup.id};
  auto replaced = attach_hooks(object, pins, target, requests);
  if (!replaced) return std::move(replaced).error();
  if (Status done = upgrade->finish(*maps, *replaced); !done) return std::move(done).error();
  if (Status done = pins.remove_former(); !done) return std::move(done).error();
  return std::unique_ptr<DataPlane>(std::make_unique<KernelDataPlane>(
      std::move(pins), std::move(*maps), std::move(tables), std::move(*sweeps),
      describe(clock, kernel, *foreign), adopted));
}

}  // namespace

Result<std::unique_ptr<DataPlane>> DataPlane::attach(const Options& options) {
  return attach(options, running_kernel());
}

Result<std::unique_ptr<DataPlane>> DataPlane::attach(const Options& options,
                                                     const KernelProbe& kernel) {
  route_libbpf_log();
  if (Status valid = validate(options.breaker); !valid) return std::move(valid).error();
  auto cgroup = open_cgroup(options.cgroup_path);
  if (!cgroup) return std::move(cgroup).error();
  auto capabilities = probe_capabilities(kernel);
  if (!capabilities) return std::move(capabilities).error();
  if (Status there = check_required(*capabilities); !there) return std::move(there).error();
  auto clock = choose_clock(options.request_clock, kernel);
  if (!clock) return std::move(clock).error();
  auto pins = PinDir::prepare(options.pin_root, options.wait_for_lock);
  if (!pins) return std::move(pins).error();

  const bool adopted = !pins->link_paths().empty();
  auto plane = attach_at(*pins, options, *clock, *cgroup, adopted, kernel);
  // What an earlier agent left goes on steering; what this attempt made is taken away again.
  if (!plane && (!adopted || pins->is_empty())) (void)pins->remove();
  return plane;
}

}  // namespace weir::kernel
