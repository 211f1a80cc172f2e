// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/event_reader.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <numeric>
#include <utility>

#include "agent/kernel/decode.h"
#include "agent/kernel/libbpf_log.h"
#include "agent/kernel/pin_dir.h"

namespace weir::kernel {
namespace {

/// Records taken at once: bounds the memory of a batch, and the time until the lease is renewed.
constexpr std::size_t kMaxBatch = 4096;
/// What on_record() stops libbpf with; any negative number that libbpf itself does not return.
constexpr int kEnough = -E2BIG;

TimePoint now() { return SteadyClock().now(); }

/// Which map a descriptor, or a pin, stands for.
Result<std::uint32_t> map_id(int fd) {
  bpf_map_info info{};
  std::uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd, &info, &bytes) != 0) {
    return os_error(errno, "cannot inspect the event buffer");
  }
  return info.id;
}

Result<Fd> lock_watch(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return os_error(errno, "cannot make " + path);
  }
  Fd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return os_error(errno, "cannot open " + path);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno != EWOULDBLOCK) return os_error(errno, "cannot lock " + path);
  return make_error(Code::kAlreadyExists, "somebody else watches already, holding " + path);
}

void store(weir_u64& knob, std::uint64_t value) {
  __atomic_store_n(&knob, value, __ATOMIC_RELEASE);
}

}  // namespace

std::string watch_path(const std::string& pin_root) { return version_path(pin_root) + "/watch"; }

void EventReader::FreeRing::operator()(ring_buffer* ring) const { ring_buffer__free(ring); }

Result<std::unique_ptr<EventReader>> EventReader::open(const std::string& pin_root,
                                                       const Watch& watch) {
  if (watch.picks && watch.picks->one_in == 0) {
    return make_error(Code::kInvalidArgument, "one_in must be at least 1");
  }
  route_libbpf_log();
  const std::string version_dir = version_path(pin_root);
  auto maps = open_pinned_maps(version_dir, true);
  if (!maps) return std::move(maps).error();
  std::unique_ptr<EventReader> reader(new EventReader(version_dir, std::move(*maps), watch));
  auto lock = lock_watch(watch_path(pin_root));
  if (!lock) return std::move(lock).error();
  reader->lock_ = std::move(*lock);
  if (Status begun = reader->begin(); !begun) return std::move(begun).error();
  return reader;
}

Status EventReader::begin() {
  auto id = map_id(maps_.fd(kEvent));
  if (!id) return std::move(id).error();
  event_id_ = *id;
  ring_.reset(ring_buffer__new(maps_.fd(kEvent), on_record, this, nullptr));
  if (!ring_) return os_error(errno, "cannot map the event buffer");
  auto lost = count_lost();
  if (!lost) return std::move(lost).error();
  lost_before_ = *lost;
  begun_ = now();
  weir_knobs& knobs = maps_.knobs();
  // Before the lease that makes them count. A watcher that was killed may have left one behind.
  store(knobs.explain_until_ns, 0);
  const Watch::Picks picks = watch_.picks.value_or(Watch::Picks{});
  __atomic_store_n(&knobs.explain_pool, picks.pool.value_or(WEIR_NO_POOL), __ATOMIC_RELEASE);
  __atomic_store_n(&knobs.explain_one_in, picks.one_in, __ATOMIC_RELEASE);
  return renew();
}

EventReader::~EventReader() {
  if (!lock_.valid()) return;  // never began: the knobs are somebody else's
  weir_knobs& knobs = maps_.knobs();
  store(knobs.watch_until_ns, 0);
  store(knobs.explain_until_ns, 0);
  store(knobs.trace_until_ns, 0);
}

Status EventReader::renew() {
  // A reader of maps that nothing writes to any more would wait for ever.
  const std::string path = version_dir_ + "/" + WEIR_MAP_EVENT;
  const Fd pinned(bpf_obj_get(path.c_str()));
  if (!pinned.valid() && errno != ENOENT) return os_error(errno, "cannot open " + path);
  if (!pinned.valid()) {
    return make_error(Code::kUnavailable, "the maps were removed from " + version_dir_);
  }
  auto id = map_id(pinned.get());
  if (!id) return std::move(id).error();
  if (*id != event_id_) {
    return make_error(Code::kUnavailable, "an agent has replaced the maps: watch anew");
  }
  const TimePoint time = now();
  if (leased_until_ != TimePoint{} && time > leased_until_) unwatched_ += time - leased_until_;
  leased_until_ = time + watch_.lease;
  const std::uint64_t until_ns = to_kernel_ns(leased_until_);
  weir_knobs& knobs = maps_.knobs();
  store(knobs.watch_until_ns, watch_.connections ? until_ns : 0);
  store(knobs.trace_until_ns, watch_.requests ? until_ns : 0);
  store(knobs.explain_until_ns, watch_.picks ? until_ns : 0);
  return {};
}

int EventReader::on_record(void* self, void* data, std::size_t bytes) {
  auto& reader = *static_cast<EventReader*>(self);
  auto event = decode_event({static_cast<const std::byte*>(data), bytes},
                            {reader.maps_.pools(), reader.maps_.backends()});
  if (event && head_of(*event).time >= reader.begun_) reader.batch_.push_back(std::move(*event));
  return reader.batch_.size() < kMaxBatch ? 0 : kEnough;
}

Result<std::vector<Event>> EventReader::read() {
  batch_.clear();
  const int taken = ring_buffer__consume(ring_.get());
  if (taken < 0 && taken != kEnough) return os_error(-taken, "cannot read the event buffer");
  return std::exchange(batch_, {});
}

Result<EventLosses> EventReader::losses() {
  auto lost = count_lost();
  if (!lost) return std::move(lost).error();
  return EventLosses{*lost - lost_before_, unwatched_};
}

Result<std::uint64_t> EventReader::count_lost() const {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return os_error(-cpus, "cannot count the CPUs");
  std::vector<std::uint64_t> values(static_cast<std::size_t>(cpus));
  const std::uint32_t key = WEIR_STAT_EVENT_LOST;
  if (bpf_map_lookup_elem(maps_.fd(kStat), &key, values.data()) != 0) {
    return os_error(errno, "cannot read the kernel's counters");
  }
  return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
}

}  // namespace weir::kernel
