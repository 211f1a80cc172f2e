// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/grace.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "agent/kernel/fd.h"

namespace weir::kernel {

Status wait_for_running_programs() {
  const Fd inner(bpf_map_create(BPF_MAP_TYPE_ARRAY, "weir_grace", 4, 4, 1, nullptr));
  if (!inner.valid()) return os_error(errno, "cannot make a map");
  bpf_map_create_opts options{};
  options.sz = sizeof(options);
  options.inner_map_fd = static_cast<std::uint32_t>(inner.get());
  const Fd outer(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "weir_grace", 4, 4, 1, &options));
  if (!outer.valid()) return os_error(errno, "cannot make a map of maps");
  const std::uint32_t key = 0;
  const int value = inner.get();
  if (bpf_map_update_elem(outer.get(), &key, &value, BPF_ANY) != 0) {
    return os_error(errno, "cannot wait for running programs");
  }
  return {};
}

bool wait_until_gone(const std::vector<std::uint32_t>& program_ids) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  const auto exists = [](std::uint32_t id) {
    return Fd(bpf_prog_get_fd_by_id(id)).valid() || errno != ENOENT;
  };
  while (std::any_of(program_ids.begin(), program_ids.end(), exists)) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace weir::kernel
