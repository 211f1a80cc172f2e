// SPDX-License-Identifier: Apache-2.0
//
// What can be done with pins when there is no agent: the part of data_plane.h that `weir` uses.
#include <bpf/bpf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "agent/kernel/data_plane.h"
#include "agent/kernel/hooks.h"
#include "agent/kernel/libbpf_log.h"
#include "agent/kernel/map_set.h"
#include "agent/kernel/pin_dir.h"

namespace weir::kernel {
namespace {

class PinnedReader final : public MapReader {
 public:
  explicit PinnedReader(MapSet maps) : maps_(std::move(maps)) {}
  Result<Snapshot> read() override { return maps_.read(); }
  Result<Snapshot> read_gauges() override { return maps_.read_gauges(); }

 private:
  MapSet maps_;
};

Error nothing_pinned(const std::string& pin_root) {
  return make_error(Code::kNotFound, "nothing is pinned below " + pin_root);
}

}  // namespace

Result<std::unique_ptr<MapReader>> open_pinned(const std::string& pin_root) {
  route_libbpf_log();
  auto maps = open_pinned_maps(version_path(pin_root), false);
  if (!maps) return std::move(maps).error();
  return std::unique_ptr<MapReader>(std::make_unique<PinnedReader>(std::move(*maps)));
}

Result<std::vector<LinkInfo>> pinned_links(const std::string& pin_root) {
  route_libbpf_log();
  std::vector<LinkInfo> links;
  for (const Hook& hook : kHooks) {
    const std::string path = version_path(pin_root) + "/links/" + hook.program;
    const Fd fd(bpf_obj_get(path.c_str()));
    if (!fd.valid()) {
      if (errno == ENOENT) continue;
      return os_error(errno, "cannot open " + path);
    }
    bpf_link_info info{};
    std::uint32_t bytes = sizeof(info);
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &bytes) != 0) {
      return os_error(errno, "cannot inspect " + path);
    }
    links.push_back({hook.program, info.id, info.prog_id, hook.attach_type_name});
  }
  return links;
}

Result<std::size_t> detach_pinned(const std::string& pin_root) {
  // One that may not be read is not empty: "nothing there" would be taken for "gone".
  std::error_code error;
  const std::filesystem::directory_iterator readable(pin_root, error);
  if (error && error != std::errc::no_such_file_or_directory) {
    return os_error(error.value(), "cannot read " + pin_root);
  }
  const std::vector<std::string> versions = pinned_versions(pin_root);
  if (versions.empty()) return nothing_pinned(pin_root);
  std::size_t links = 0;
  for (const std::string& version : versions) {
    auto removed = remove_pins(pin_root, version);
    if (!removed) return std::move(removed).error();
    links += *removed;
  }
  return links;
}

}  // namespace weir::kernel
