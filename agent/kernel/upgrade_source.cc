// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/upgrade_source.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <memory>

namespace weir::kernel {
namespace {

struct FreeBtf {
  void operator()(btf* types) const { btf__free(types); }
};

}  // namespace

Result<std::optional<OldMap>> open_old_map(const std::string& path) {
  OldMap map;
  map.path = path;
  map.fd = Fd(bpf_obj_get(path.c_str()));
  if (!map.fd.valid()) {
    if (errno == ENOENT) return std::optional<OldMap>();
    return os_error(errno, "cannot open " + path);
  }
  bpf_map_info info{};
  std::uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(map.fd.get(), &info, &bytes) != 0) {
    return os_error(errno, "cannot inspect " + path);
  }
  map.id = info.id;
  map.type = info.type;
  map.key_bytes = info.key_size;
  map.value_bytes = info.value_size;
  map.entries = info.max_entries;
  map.flags = info.map_flags;
  if (info.btf_id != 0) {
    const std::unique_ptr<btf, FreeBtf> types(btf__load_from_kernel_by_id(info.btf_id));
    if (!types) return os_error(errno, "cannot read the BTF of " + path);
    auto layout = layout_of(types.get(), info.btf_value_type_id);
    if (!layout) return std::move(layout).error().context(path);
    map.layout = std::move(*layout);
  }
  return std::optional<OldMap>(std::move(map));
}

Result<Layout> layout_in(const bpf_object* object, const bpf_map* map) {
  return layout_of(bpf_object__btf(object), bpf_map__btf_value_type_id(map));
}

Result<bool> is_usable(const OldMap& old, const bpf_object* object, const bpf_map* map) {
  auto ours = layout_in(object, map);
  if (!ours) return std::move(ours).error().context(bpf_map__name(map));
  return old.type == static_cast<std::uint32_t>(bpf_map__type(map)) &&
         old.key_bytes == bpf_map__key_size(map) && old.value_bytes == bpf_map__value_size(map) &&
         old.entries == bpf_map__max_entries(map) && old.flags == bpf_map__map_flags(map) &&
         (old.layout.type.empty() || old.layout.type == ours->type);
}

bool same_map(const OldMap& one, const OldMap& other) { return one.id == other.id; }

Result<MappedBytes> MappedBytes::map(const OldMap& map) {
  const std::size_t bytes = value_stride(map.value_bytes) * map.entries;
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map.fd.get(), 0);
  if (memory == MAP_FAILED) return os_error(errno, "cannot map " + map.path + " into memory");
  MappedBytes mapped;
  mapped.span_ = {static_cast<std::byte*>(memory), bytes};
  return mapped;
}

MappedBytes::~MappedBytes() {
  if (!span_.empty()) munmap(span_.data(), span_.size());
}

Result<std::vector<std::uint64_t>> take_sums(const OldMap& map, std::uint32_t key) {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return os_error(-cpus, "cannot count the CPUs");
  const std::size_t words = value_stride(map.value_bytes) / sizeof(std::uint64_t);
  std::vector<std::uint64_t> values(words * static_cast<std::size_t>(cpus));
  if (bpf_map_lookup_elem(map.fd.get(), &key, values.data()) != 0) {
    return os_error(errno, "cannot read " + map.path);
  }
  std::vector<std::uint64_t> sums(words);
  for (std::size_t i = 0; i < values.size(); ++i) sums[i % words] += values[i];
  if (std::all_of(sums.begin(), sums.end(), [](std::uint64_t sum) { return sum == 0; })) {
    return sums;
  }
  std::fill(values.begin(), values.end(), 0);
  if (bpf_map_update_elem(map.fd.get(), &key, values.data(), BPF_ANY) != 0) {
    return os_error(errno, "cannot clear " + map.path);
  }
  return sums;
}

}  // namespace weir::kernel
