// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/upgrade.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "agent/kernel/grace.h"
#include "bpf/lib/carry.bpf.h"

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;

constexpr char kCarryProgram[] = "weir_carry";
constexpr char kDetach[] = "; `weir detach` drops what it left";

/// These refer to one another by index, and are the same generation or none is.
constexpr std::array kTableMaps = {kSvc, kPool, kPick, kBe, kTotal, kHist, kCensus};

bool is_table(std::size_t id) {
  return std::find(kTableMaps.begin(), kTableMaps.end(), id) != kTableMaps.end();
}

bpf_map* map_of(bpf_object* object, std::size_t id) {
  return bpf_object__find_map_by_name(object, kMapNames[id]);
}

Status rename_pin(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) return os_error(error.value(), "cannot move " + from + " to " + to);
  return {};
}

Status size_maps(bpf_object* object, std::uint32_t capacity) {
  for (std::size_t i = 0; i < kMapCount; ++i) {
    const auto entries = entries_for(static_cast<MapId>(i), capacity);
    if (!entries) continue;
    const int error = bpf_map__set_max_entries(map_of(object, i), *entries);
    if (error != 0) return os_error(-error, std::string("cannot size ") + kMapNames[i]);
  }
  return {};
}

Status share(bpf_object* object, std::size_t id, const OldMap& old) {
  const int error = bpf_map__reuse_fd(map_of(object, id), old.fd.get());
  if (error != 0) return os_error(-error, "cannot reuse " + old.path);
  return {};
}

/// The shares that weir_be says are in force.
std::vector<BackendDecision> decisions_in(std::span<const weir_be> backends) {
  std::vector<BackendDecision> decisions;
  for (std::uint32_t i = 0; i < backends.size(); ++i) {
    const weir_be& backend = backends[i];
    if (backend.state != WEIR_BE_ACTIVE || backend.weight_q16 == 0) continue;
    BackendDecision decision{i, backend.weight_q16 / 65536.0, std::nullopt};
    if (backend.latency_us != 0) decision.latency = std::chrono::microseconds(backend.latency_us);
    decisions.push_back(decision);
  }
  return decisions;
}

}  // namespace

Result<Upgrade> Upgrade::prepare(bpf_object* object, const PinDir& pins,
                                 std::size_t backends_needed) {
  Upgrade upgrade(object, pins);
  if (Status done = upgrade.recover(); !done) return std::move(done).error();
  if (Status done = upgrade.find_old_maps(); !done) return std::move(done).error();
  Status chosen = upgrade.resumed_ ? upgrade.reuse_next() : upgrade.choose_maps(backends_needed);
  if (!chosen) return std::move(chosen).error();
  bpf_program__set_autoload(bpf_object__find_program_by_name(object, kCarryProgram),
                            upgrade.carries_tables_ || upgrade.carries_stats());
  return upgrade;
}

Upgrade::Upgrade(Upgrade&& other) noexcept = default;

Upgrade::~Upgrade() {
  if (stage_ != Stage::kStaged) return;
  std::error_code error;
  fs::remove_all(pins_->staging_path(), error);
}

/// What an interrupted upgrade has left: new maps that were not in use yet are dropped, those that
/// were are kept.
Status Upgrade::recover() {
  std::error_code error;
  fs::remove_all(pins_->staging_path(), error);
  if (error) return os_error(error.value(), "cannot remove " + pins_->staging_path());
  if (!fs::exists(pins_->next_path())) return {};
  std::size_t waiting = 0;
  for (const char* name : kMapNames) {
    if (fs::exists(pins_->next_path() + "/" + name)) ++waiting;
  }
  // Of a complete set none has taken its place yet; the old maps may still hold something.
  if (waiting == kMapCount) {
    resumed_ = true;
    return {};
  }
  return move_pins();
}

Status Upgrade::find_old_maps() {
  std::vector<std::string> directories = {pins_->path()};
  for (const std::string& former : pins_->former_paths()) directories.push_back(former);
  for (const std::string& directory : directories) {
    if (!fs::exists(directory + "/" + WEIR_MAP_BE)) continue;
    from_ = directory;
    break;
  }
  if (!from_) return {};
  for (std::size_t i = 0; i < kMapCount; ++i) {
    auto old = open_old_map(*from_ + "/" + kMapNames[i]);
    if (!old) return std::move(old).error();
    old_[i] = std::move(*old);
  }
  return {};
}

Status Upgrade::choose_maps(std::size_t backends_needed) {
  std::uint32_t capacity = capacity_for(backends_needed);
  // Never smaller: records keep their index.
  if (from_) capacity = std::max(capacity, std::bit_ceil(old_[kBe]->entries));
  if (capacity > WEIR_MAX_BACKENDS) {
    return make_error(Code::kUnsupported, old_[kBe]->path + ": more backends than this build can");
  }
  if (Status done = size_maps(object_, capacity); !done) return done;
  if (!from_) return {};

  for (std::size_t i = 0; i < kMapCount; ++i) {
    if (!old_[i]) continue;
    auto usable = is_usable(*old_[i], object_, map_of(object_, i));
    if (!usable) return std::move(usable).error();
    reused_[i] = *usable;
  }
  const bool keep =
      std::all_of(kTableMaps.begin(), kTableMaps.end(), [this](MapId id) { return reused_[id]; });
  if (!keep) {
    for (const MapId id : kTableMaps) reused_[id] = false;
    if (Status done = check_tables(); !done) return done;
  }
  carries_tables_ = !keep;
  sockets_kept_ = reused_[kSk];
  for (std::size_t i = 0; i < kMapCount; ++i) {
    if (!reused_[i]) continue;
    if (Status done = share(object_, i, *old_[i]); !done) return done;
  }
  return {};
}

/// The maps that an interrupted upgrade has made; the programs of some links use them already.
Status Upgrade::reuse_next() {
  for (std::size_t i = 0; i < kMapCount; ++i) {
    auto next = open_old_map(pins_->next_path() + "/" + kMapNames[i]);
    if (!next) return std::move(next).error();
    if (!*next) return make_error(Code::kInternal, "a pin below " + pins_->next_path() + " went");
    if (is_table(i) && i != kPool) {
      (void)bpf_map__set_max_entries(map_of(object_, i), (*next)->entries);
    }
    auto usable = is_usable(**next, object_, map_of(object_, i));
    if (!usable) return std::move(usable).error();
    if (!*usable) {
      return make_error(
          Code::kUnsupported,
          (*next)->path + " was left by an interrupted upgrade of another build" + kDetach);
    }
    if (Status done = share(object_, i, **next); !done) return done;
    reused_[i] = old_[i] && same_map(*old_[i], **next);
  }
  carries_tables_ = from_ && !reused_[kBe];
  sockets_kept_ = reused_[kSk];
  return carries_tables_ ? check_tables() : Status();
}

/// What this build has to understand to carry backends and pools.
Status Upgrade::check_tables() const {
  for (const MapId id : {kBe, kTotal, kPool}) {
    if (id == kTotal && !old_[id]) continue;  // an earlier build had the totals in weir_be
    const auto refuse = [&](const std::string& why) {
      return make_error(
          Code::kUnsupported,
          (old_[id] ? old_[id]->path : *from_ + "/" + kMapNames[id]) + " " + why + kDetach);
    };
    if (!old_[id]) return refuse("is missing");
    if (old_[id]->type != BPF_MAP_TYPE_ARRAY) return refuse("is no array");
    if (old_[id]->key_bytes != sizeof(std::uint32_t)) return refuse("has other keys");
    if ((old_[id]->flags & BPF_F_MMAPABLE) == 0) return refuse("cannot be mapped into memory");
    if (old_[id]->layout.fields.empty()) return refuse("has no BTF to tell its fields by");
  }
  return {};
}

Result<MapSet> Upgrade::open_maps() {
  const bool complete = std::all_of(reused_.begin(), reused_.end(), [](bool kept) { return kept; });
  std::string directory = resumed_ ? pins_->next_path() : pins_->path();
  if (!resumed_ && !complete) {
    directory = pins_->staging_path();
    std::error_code error;
    fs::create_directories(directory, error);
    if (error) return os_error(error.value(), "cannot make " + directory);
    stage_ = Stage::kStaged;
    for (std::size_t i = 0; i < kMapCount; ++i) {
      const std::string path = directory + "/" + kMapNames[i];
      if (bpf_obj_pin(bpf_map__fd(map_of(object_, i)), path.c_str()) != 0) {
        return os_error(errno, "cannot pin " + path);
      }
    }
  }
  auto maps = open_pinned_maps(directory, true);
  if (!maps || !carries_tables_) return maps;

  auto carry = make_carry(*maps);
  if (!carry) return std::move(carry).error().context(*from_);
  carry_ = std::move(*carry);
  if (!resumed_) carry_->copy_owned();
  return maps;
}

Result<UpgradeCarry> Upgrade::make_carry(const MapSet& maps) {
  constexpr std::array kIds = {kBe, kTotal, kPool};
  std::array<RecordMemory, kIds.size()> from;
  std::array<Layout, kIds.size()> theirs;
  std::array<Layout, kIds.size()> ours;
  for (std::size_t i = 0; i < kIds.size(); ++i) {
    auto layout = layout_in(object_, map_of(object_, kIds[i]));
    if (!layout) return std::move(layout).error();
    ours[i] = std::move(*layout);
    const std::optional<OldMap>& old = old_[kIds[i]];
    if (!old) continue;  // an earlier build had the totals in weir_be
    auto memory = MappedBytes::map(*old);
    if (!memory) return std::move(memory).error();
    memory_[i] = std::move(*memory);
    from[i] = {memory_[i].span(), value_stride(old->value_bytes)};
    theirs[i] = old->layout;
  }
  UpgradeCarry::Options options;
  options.from_backends = {from[0], from[1]};
  options.backend_layouts = {theirs[0], theirs[1]};
  options.our_backend_layouts = {ours[0], ours[1]};
  options.from_pools = from[2];
  options.pool_layout = theirs[2];
  options.our_pool_layout = ours[2];
  options.backends = maps.tables().backends;
  options.totals = maps.tables().totals;
  options.pools = maps.tables().pools;
  options.sockets_kept = sockets_kept_;
  return UpgradeCarry::create(std::move(options));
}

Status Upgrade::begin(MapSet& maps, Tables& tables) {
  if (!carries_tables_) lower_gauges(maps.backends());
  if (carry_) {
    const auto now = std::chrono::steady_clock::now();
    if (Status done = tables.publish(decisions_in(maps.backends()), now); !done) return done;
    carry_->raise_gauges();
  }
  if (stage_ == Stage::kStaged) {
    if (Status done = rename_pin(pins_->staging_path(), pins_->next_path()); !done) return done;
  }
  stage_ = Stage::kBegun;
  begun_ = std::chrono::steady_clock::now();
  // What the new programs meet is what the old ones have left.
  if (carry_) carry_->transfer();
  return {};
}

Status Upgrade::finish(MapSet& maps, const std::vector<std::uint32_t>& tracing_programs) {
  if (carry_ || carries_stats()) {
    if (!wait_until_gone(tracing_programs)) {
      spdlog::warn(
          "upgrade: somebody holds programs of the earlier agent; what they count is lost");
    }
    if (Status done = wait_for_running_programs(); !done) return done;
    if (carry_) carry_->transfer();
    if (Status done = carry_per_cpu(maps); !done) return done;
    const std::size_t negative = carry_ ? carry_->lower_gauges() : 0;
    if (negative != 0) spdlog::warn("upgrade: gauges below zero count={}", negative);
  }
  if (Status done = move_pins(); !done) return done;
  if (carries_tables_) {
    using std::chrono::duration_cast, std::chrono::microseconds;
    const auto took = duration_cast<microseconds>(std::chrono::steady_clock::now() - begun_);
    spdlog::info("maps copied forward from={} room={} sockets={} took_us={}", *from_,
                 maps.backends().size(), sockets_kept_ ? "kept" : "adopted", took.count());
  }
  carry_.reset();
  return {};
}

/// Histograms and counters per CPU. Stats are numbered the same in all versions, as far as both
/// have them, and so are the kinds of histograms.
Status Upgrade::carry_per_cpu(const MapSet& maps) const {
  weir_carry sums{};
  sums.hist_key = WEIR_NO_BACKEND;
  if (carries_stats() && old_[kStat]->value_bytes == sizeof(std::uint64_t)) {
    const std::uint32_t known = std::min<std::uint32_t>(old_[kStat]->entries, WEIR_STAT_COUNT);
    for (std::uint32_t id = 0; id < known; ++id) {
      auto sum = take_sums(*old_[kStat], id);
      if (!sum) return std::move(sum).error();
      sums.stat[id] = sum->front();
    }
    if (Status done = add_sums(sums); !done) return done;
  }
  if (!carry_ || !old_[kHist]) return {};
  auto ours = layout_in(object_, map_of(object_, kHist));
  if (!ours) return std::move(ours).error();
  if (old_[kHist]->layout.type != ours->type) {
    spdlog::warn("upgrade: histograms of another shape begin empty map={}", old_[kHist]->path);
    return {};
  }
  const std::uint32_t old_kinds = old_[kHist]->entries / old_[kBe]->entries;
  sums = {};
  for (std::uint32_t i = 0; i < maps.tables().backends.size(); ++i) {
    if (!carry_->carries(i)) continue;
    for (std::uint32_t kind = 0; kind < std::min<std::uint32_t>(old_kinds, WEIR_HIST_KINDS);
         ++kind) {
      auto sum = take_sums(*old_[kHist], i * old_kinds + kind);
      if (!sum) return std::move(sum).error();
      if (std::all_of(sum->begin(), sum->end(), [](std::uint64_t n) { return n == 0; })) continue;
      std::memcpy(&sums.hist, sum->data(), sizeof(sums.hist));
      sums.hist_key = i * WEIR_HIST_KINDS + kind;
      if (Status done = add_sums(sums); !done) return done;
    }
  }
  return {};
}

Status Upgrade::add_sums(const weir_carry& sums) const {
  const bpf_program* const program = bpf_object__find_program_by_name(object_, kCarryProgram);
  weir_carry context = sums;
  bpf_test_run_opts options{};
  options.sz = sizeof(options);
  options.ctx_in = &context;
  options.ctx_size_in = sizeof(context);
  if (bpf_prog_test_run_opts(bpf_program__fd(program), &options) != 0) {
    return os_error(errno, "cannot add up the counters of the earlier agent");
  }
  return {};
}

/// From next/ to their places; then the directories of other versions go.
Status Upgrade::move_pins() const {
  for (const char* name : kMapNames) {
    const std::string from = pins_->next_path() + "/" + name;
    if (!fs::exists(from)) continue;
    if (Status done = rename_pin(from, pins_->map_path(name)); !done) return done;
  }
  std::error_code error;
  fs::remove_all(pins_->next_path(), error);
  if (error) return os_error(error.value(), "cannot remove " + pins_->next_path());
  return {};
}

}  // namespace weir::kernel
