// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/takeover.h"

#include <bpf/bpf.h>

#include <cerrno>

#include "agent/kernel/fd.h"
#include "agent/kernel/pin_dir.h"

namespace weir::kernel {
namespace {

template <typename T>
T load(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_RELAXED);
}

}  // namespace

Result<TakeoverMailbox> TakeoverMailbox::open(const std::string& pin_root) {
  const std::string path = version_path(pin_root) + "/" WEIR_MAP_META;
  const Fd fd(bpf_obj_get(path.c_str()));
  if (!fd.valid()) {
    if (errno == ENOENT) return make_error(Code::kNotFound, "nothing is pinned at " + path);
    return os_error(errno, "cannot open " + path);
  }
  auto meta = MappedArray<weir_meta>::map(fd.get(), 1, /*writable=*/true);
  if (!meta) return std::move(meta).error();
  return TakeoverMailbox(std::move(*meta));
}

void TakeoverMailbox::ask(std::uint32_t ticket) {
  __atomic_store_n(&meta().takeover_requested, ticket, __ATOMIC_RELAXED);
}

void TakeoverMailbox::withdraw(std::uint32_t ticket) {
  __atomic_compare_exchange_n(&meta().takeover_requested, &ticket, 0U, /*weak=*/false,
                              __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

std::uint32_t TakeoverMailbox::asked() const { return load(meta().takeover_requested); }
std::uint64_t TakeoverMailbox::agent_start_ns() const { return load(meta().agent_start_ns); }
bool TakeoverMailbox::agent_steers() const {
  return load(meta().heartbeat_ns) > load(meta().agent_start_ns);
}
std::uint32_t TakeoverMailbox::agent_pid() const { return load(meta().agent_pid); }

}  // namespace weir::kernel
