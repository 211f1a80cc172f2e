// SPDX-License-Identifier: Apache-2.0
//
// Reads weir_event, which the programs fill only while somebody watches. To watch is to hold a
// lease: three times in weir_knobs until which the programs write. It is renewed as long as the
// watcher lives, given back when it ends, and runs out by itself when the watcher is killed, so
// that nobody's death leaves the programs writing for nothing. Needs no agent.
//
// The buffer has one reader at a time: a watcher locks <pin_root>/v<ABI>/watch.
//
// Thread-safety: one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/event.h"
#include "agent/kernel/event_decode.h"
#include "agent/kernel/fd.h"
#include "agent/kernel/map_set.h"
#include "weir/abi.h"

struct ring_buffer;

namespace weir::kernel {

/// What to have written.
struct Watch {
  bool connections = false;  ///< closes, failures, breaker changes
  bool requests = false;     ///< every request
  struct Picks {
    std::optional<std::uint32_t> pool;  ///< of this service; unset: of all
    std::uint32_t one_in = 1;           ///< of so many picks one, at random; >= 1
  };
  std::optional<Picks> picks = std::nullopt;
  /// How long a watch outlives its watcher; a few times the second after which it is renewed.
  std::chrono::nanoseconds lease = std::chrono::seconds(3);
};

/// "<pin_root>/v<ABI>/watch", the directory that a watcher locks.
[[nodiscard]] std::string watch_path(const std::string& pin_root);

class EventReader final : public EventSource {
 public:
  /// Begins to watch: what happens from now on is read. kNotFound when nothing is pinned below
  /// `pin_root`, kAlreadyExists while another one watches.
  static Result<std::unique_ptr<EventReader>> open(const std::string& pin_root, const Watch& watch);
  /// Ends the watch.
  ~EventReader() override;
  EventReader(const EventReader&) = delete;
  EventReader& operator=(const EventReader&) = delete;

  Result<std::vector<Event>> read() override;
  Status renew() override;
  Result<EventLosses> losses() override;

 private:
  struct FreeRing {
    void operator()(ring_buffer* ring) const;
  };

  EventReader(std::string version_dir, MapSet maps, const Watch& watch)
      : version_dir_(std::move(version_dir)), watch_(watch), maps_(std::move(maps)) {}
  Status begin();
  /// The callback of libbpf; negative: enough for now.
  static int on_record(void* self, void* data, std::size_t bytes);
  [[nodiscard]] Result<std::uint64_t> count_lost() const;

  const std::string version_dir_;
  const Watch watch_;
  MapSet maps_;
  Fd lock_;
  std::uint32_t event_id_ = 0;
  std::unique_ptr<ring_buffer, FreeRing> ring_;

  TimePoint begun_{};         ///< records before this were for an earlier watcher
  TimePoint leased_until_{};  ///< unset before the first lease
  std::uint64_t lost_before_ = 0;
  std::chrono::nanoseconds unwatched_{};
  std::vector<Event> batch_;
};

}  // namespace weir::kernel
