// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/watch_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "agent/ctl/agent_state.h"

namespace weir::ctl {

Result<std::uint32_t> find_service(const kernel::Snapshot& snapshot, std::string_view name) {
  std::string known;
  for (const kernel::ServiceReading& service : snapshot.services) {
    if (service.is_backup()) continue;  // picks and connects name the service itself
    if (service.name == name) return service.pool;
    known += (known.empty() ? "" : ", ") + service.name;
  }
  return make_error(Code::kInvalidArgument,
                    fmt::format("no service is called \"{}\"; {}", name,
                                known.empty() ? "none is configured" : "there is: " + known));
}

Result<std::uint32_t> find_service(const std::string& pin_root, std::string_view name) {
  auto reader = kernel::open_pinned(pin_root);
  if (!reader) return std::move(reader).error();
  auto snapshot = (*reader)->read_gauges();
  if (!snapshot) return std::move(snapshot).error();
  return find_service(*snapshot, name);
}

Status watch_command(const std::string& pin_root, const kernel::Watch& wanted,
                     EventPrinter& printer, std::optional<std::uint64_t> count,
                     std::string_view what) {
  auto pause = SignalPause::create();
  if (!pause) return std::move(pause).error();
  auto reader = kernel::EventReader::open(pin_root, wanted);
  if (!reader && reader.error().code == Code::kAlreadyExists) {
    const auto pid = lock_holder(kernel::watch_path(pin_root), "/proc");
    return make_error(Code::kAlreadyExists,
                      fmt::format("{} watches already, and there can be one at a time",
                                  pid ? fmt::format("process {}", *pid) : "another program"));
  }
  if (!reader) return std::move(reader).error();
  std::fprintf(stderr, "weir: watching for %s until Ctrl-C\n", std::string(what).c_str());
  return watch(**reader, printer, count, *pause, SteadyClock(), write_stdout);
}

}  // namespace weir::ctl
