// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/map_set.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <set>

#include "agent/kernel/decode.h"

namespace weir::kernel {
namespace {

struct Layout {
  std::uint32_t key_bytes;
  std::uint32_t value_bytes;
};

constexpr std::array<Layout, kMapCount> kLayouts = {{
    {4, sizeof(weir_meta)},
    {4, sizeof(weir_knobs)},
    {sizeof(weir_endpoint), sizeof(weir_target)},
    {4, sizeof(weir_pool)},
    {4, sizeof(weir_pick_slot)},
    {4, sizeof(weir_be)},
    {4, sizeof(weir_total)},
    {4, sizeof(weir_note)},
    {4, sizeof(weir_sk)},
    {4, sizeof(weir_hist)},
    {4, sizeof(std::uint64_t)},
    {0, 0},
    {4, sizeof(weir_census)},
}};

Result<bpf_map_info> inspect(int fd, const std::string& what) {
  bpf_map_info info{};
  std::uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd, &info, &bytes) != 0) {
    return os_error(errno, "cannot inspect " + what);
  }
  return info;
}

/// Values of a per-CPU map for one key, one per possible CPU.
template <typename T>
Result<std::vector<T>> read_per_cpu(int fd, std::uint32_t key) {
  static_assert(sizeof(T) % 8 == 0, "the kernel rounds per-CPU values up to 8 bytes");
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return os_error(-cpus, "cannot count the CPUs");
  std::vector<T> values(static_cast<std::size_t>(cpus));
  if (bpf_map_lookup_elem(fd, &key, values.data()) != 0) {
    return os_error(errno, "cannot read a per-CPU map");
  }
  return values;
}

}  // namespace

template <typename T>
Result<MappedArray<T>> MappedArray<T>::map(int fd, std::size_t count, bool writable) {
  static_assert(sizeof(T) % 8 == 0, "the kernel rounds array elements up to 8 bytes");
  void* const memory = mmap(nullptr, count * sizeof(T),
                            writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return os_error(errno, "cannot map a BPF array into memory");
  MappedArray array;
  array.span_ = {static_cast<T*>(memory), count};
  return array;
}

template <typename T>
MappedArray<T>::~MappedArray() {
  if (!span_.empty()) munmap(span_.data(), span_.size_bytes());
}

template class MappedArray<weir_meta>;
template class MappedArray<weir_knobs>;
template class MappedArray<weir_pool>;
template class MappedArray<weir_pick_slot>;
template class MappedArray<weir_be>;
template class MappedArray<weir_total>;
template class MappedArray<weir_census>;
template class MappedArray<weir_sweep>;

std::optional<std::uint32_t> entries_for(MapId id, std::uint32_t backends) {
  switch (id) {
    case kSvc:
      return WEIR_MAX_POOLS + backends;
    case kPick:
      return WEIR_MAX_POOLS * 2 * backends;
    case kBe:
    case kTotal:
    case kCensus:
      return backends;
    case kHist:
      return backends * WEIR_HIST_KINDS;
    default:
      return std::nullopt;
  }
}

std::uint32_t capacity_for(std::size_t needed) {
  const std::size_t with_draining = needed + needed / 4;
  return static_cast<std::uint32_t>(
      std::clamp<std::size_t>(std::bit_ceil(with_draining), WEIR_MIN_BACKENDS, WEIR_MAX_BACKENDS));
}

Result<MapSet> MapSet::open(Fds fds, bool writable) {
  auto info = inspect(fds[kBe].get(), WEIR_MAP_BE);
  if (!info) return std::move(info).error();
  const std::uint32_t capacity = info->max_entries;

  auto meta = MappedArray<weir_meta>::map(fds[kMeta].get(), 1, writable);
  if (!meta) return std::move(meta).error();
  auto knobs = MappedArray<weir_knobs>::map(fds[kKnobs].get(), 1, writable);
  if (!knobs) return std::move(knobs).error();
  auto pools = MappedArray<weir_pool>::map(fds[kPool].get(), WEIR_MAX_POOLS, writable);
  if (!pools) return std::move(pools).error();
  auto slots =
      MappedArray<weir_pick_slot>::map(fds[kPick].get(), *entries_for(kPick, capacity), writable);
  if (!slots) return std::move(slots).error();
  auto backends = MappedArray<weir_be>::map(fds[kBe].get(), capacity, writable);
  if (!backends) return std::move(backends).error();
  auto totals = MappedArray<weir_total>::map(fds[kTotal].get(), capacity, writable);
  if (!totals) return std::move(totals).error();
  auto census = MappedArray<weir_census>::map(fds[kCensus].get(), capacity, writable);
  if (!census) return std::move(census).error();

  MapSet set;
  set.fds_ = std::move(fds);
  set.cache_.resize(capacity);
  set.meta_ = std::move(*meta);
  set.knobs_ = std::move(*knobs);
  set.pools_ = std::move(*pools);
  set.slots_ = std::move(*slots);
  set.backends_ = std::move(*backends);
  set.totals_ = std::move(*totals);
  set.census_ = std::move(*census);
  return set;
}

Result<Snapshot> MapSet::read_gauges() const {
  Snapshot snapshot;
  snapshot.taken = std::chrono::steady_clock::now();
  snapshot.meta = meta_.span()[0];
  const std::span<weir_pool> pools = pools_.span();
  std::vector<std::string> names(pools.size());
  for (std::uint32_t i = 0; i < pools.size(); ++i) {
    if (pools[i].in_use == 0) continue;
    snapshot.services.push_back(decode(pools[i], i));
    names[i] = snapshot.services.back().name;
  }
  for (std::uint32_t i = 0; i < backends_.span().size(); ++i) {
    const weir_be& record = backends_.span()[i];
    if (record.state == WEIR_BE_FREE) continue;
    BackendReading reading = decode(record, totals_.span()[i], i);
    if (reading.pool < pools.size()) reading.service = names[reading.pool];
    snapshot.backends.push_back(std::move(reading));
  }
  return snapshot;
}

Result<Snapshot> MapSet::read() {
  auto snapshot = read_gauges();
  if (!snapshot) return snapshot;
  for (BackendReading& reading : snapshot->backends) {
    if (Status done = read_histograms(reading); !done) return std::move(done).error();
  }
  for (std::uint32_t id = 0; id < WEIR_STAT_COUNT; ++id) {
    auto values = read_per_cpu<std::uint64_t>(fds_[kStat].get(), id);
    if (!values) return std::move(values).error();
    for (const std::uint64_t value : *values) snapshot->stats[id] += value;
  }
  return snapshot;
}

/// One system call per kind and backend: only for those of which something may have been recorded
/// since. What a backend counts moves with every sample, but for the time requests wait unread,
/// which is measured at the backend's own end.
Status MapSet::read_histograms(BackendReading& reading) {
  CachedHistograms& cached = cache_[reading.index];
  const std::uint64_t counted = 1 + reading.established + reading.requests + reading.closes +
                                reading.waiting + reading.streaming;
  const bool unchanged = cached.counted == counted;
  Histograms fresh{};
  if (unchanged && cached.histograms) fresh = *cached.histograms;
  for (std::uint32_t kind = 0; kind < WEIR_HIST_KINDS; ++kind) {
    if (unchanged && kind != WEIR_HIST_UNREAD) continue;
    fresh[kind] = {};
    auto values =
        read_per_cpu<weir_hist>(fds_[kHist].get(), reading.index * WEIR_HIST_KINDS + kind);
    if (!values) return std::move(values).error();
    for (const weir_hist& value : *values) fresh[kind].add(value);
  }
  cached.counted = counted;
  // Most backends of a large configuration may never have had a connection.
  const bool empty = std::all_of(fresh.begin(), fresh.end(),
                                 [](const Histogram& each) { return each.count() == 0; });
  cached.histograms = empty ? nullptr : std::make_shared<const Histograms>(fresh);
  reading.histograms = cached.histograms;
  return {};
}

Status MapSet::zero_histograms(std::uint32_t backend) {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return os_error(-cpus, "cannot count the CPUs");
  const std::vector<weir_hist> zero(static_cast<std::size_t>(cpus));
  for (std::uint32_t kind = 0; kind < WEIR_HIST_KINDS; ++kind) {
    const std::uint32_t key = backend * WEIR_HIST_KINDS + kind;
    if (bpf_map_update_elem(fds_[kHist].get(), &key, zero.data(), BPF_ANY) != 0) {
      return os_error(errno, "cannot clear a histogram");
    }
  }
  return {};
}

Status MapSet::set_routes(const std::vector<Route>& routes) {
  std::set<Endpoint> wanted;
  for (const Route& route : routes) wanted.insert(decode(route.address));
  // Collected first: a hash that changes while it is walked may repeat or skip keys.
  std::vector<weir_endpoint> present;
  weir_endpoint next{};
  while (bpf_map_get_next_key(fds_[kSvc].get(), present.empty() ? nullptr : &present.back(),
                              &next) == 0) {
    present.push_back(next);
  }
  for (const weir_endpoint& old : present) {
    const bool kept = wanted.contains(decode(old));
    if (!kept && bpf_map_delete_elem(fds_[kSvc].get(), &old) != 0 && errno != ENOENT) {
      return os_error(errno, "cannot remove an address");
    }
  }
  for (const Route& route : routes) {
    if (bpf_map_update_elem(fds_[kSvc].get(), &route.address, &route.target, BPF_ANY) != 0) {
      return os_error(errno, "cannot add an address");
    }
  }
  return {};
}

Result<MapSet> open_pinned_maps(const std::string& version_dir, bool writable) {
  MapSet::Fds fds;
  for (std::size_t i = 0; i < kMapCount; ++i) {
    const std::string path = version_dir + "/" + kMapNames[i];
    fds[i] = Fd(bpf_obj_get(path.c_str()));
    if (!fds[i].valid()) {
      if (errno == ENOENT) return make_error(Code::kNotFound, "nothing is pinned at " + path);
      return os_error(errno, "cannot open " + path);
    }
    auto info = inspect(fds[i].get(), path);
    if (!info) return std::move(info).error();
    if (info->key_size != kLayouts[i].key_bytes || info->value_size != kLayouts[i].value_bytes) {
      return make_error(Code::kUnsupported,
                        path + " has another layout than this build: run `weir detach` first");
    }
  }
  return MapSet::open(std::move(fds), writable);
}

Result<weir_meta> read_pinned_meta(const std::string& version_dir) {
  auto maps = open_pinned_maps(version_dir, false);
  if (!maps) return std::move(maps).error();
  return maps->meta();
}

}  // namespace weir::kernel
