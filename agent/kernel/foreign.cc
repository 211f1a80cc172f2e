// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/foreign.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <mntent.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>

#include "agent/kernel/capabilities.h"
#include "agent/kernel/fd.h"
#include "agent/kernel/hooks.h"
#include "agent/kernel/map_set.h"

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;
using Where = ForeignProgram::Where;

/// More programs on one hook of one cgroup than the kernel allows (BPF_CGROUP_MAX_PROGS is 64), and
/// as many again from ancestors.
constexpr std::size_t kMaxPrograms = 256;
/// Of nested cgroups and of pins so many are looked at; a host has hundreds.
constexpr int kMaxEntries = 8192;

std::vector<std::uint32_t> query(int cgroup_fd, bpf_attach_type type, std::uint32_t flags) {
  std::array<std::uint32_t, kMaxPrograms> ids{};
  auto count = static_cast<std::uint32_t>(ids.size());
  if (bpf_prog_query(cgroup_fd, type, flags, nullptr, ids.data(), &count) != 0) return {};
  return {ids.begin(), ids.begin() + count};
}

struct ProgramInfo {
  bpf_prog_info info{};
  std::array<std::uint32_t, 64> maps{};
};

/// Unset for one that is gone meanwhile.
std::optional<ProgramInfo> inspect(std::uint32_t id) {
  const Fd program(bpf_prog_get_fd_by_id(id));
  ProgramInfo result;
  result.info.map_ids = reinterpret_cast<std::uintptr_t>(result.maps.data());
  result.info.nr_map_ids = static_cast<std::uint32_t>(result.maps.size());
  std::uint32_t bytes = sizeof(result.info);
  if (!program.valid() || bpf_obj_get_info_by_fd(program.get(), &result.info, &bytes) != 0) {
    return std::nullopt;
  }
  return result;
}

bool has_weir_name(const char* name) {
  return std::any_of(kHooks.begin(), kHooks.end(), [name](const Hook& hook) {
    return std::strncmp(name, hook.program, BPF_OBJ_NAME_LEN - 1) == 0;
  });
}

std::optional<bpf_map_info> map_info(int fd) {
  bpf_map_info info{};
  std::uint32_t bytes = sizeof(info);
  if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &bytes) != 0) return std::nullopt;
  return info;
}

/// The weir_be that a program uses.
std::optional<std::uint32_t> backends_of(const ProgramInfo& program) {
  const auto count = std::min<std::size_t>(program.info.nr_map_ids, program.maps.size());
  for (std::size_t i = 0; i < count; ++i) {
    const Fd map(bpf_map_get_fd_by_id(program.maps[i]));
    const auto info = map_info(map.get());
    if (info && std::strcmp(info->name, WEIR_MAP_BE) == 0) return info->id;
  }
  return std::nullopt;
}

std::optional<ForeignProgram> describe(std::uint32_t id, const Hook& hook, std::string cgroup,
                                       Where where) {
  const auto program = inspect(id);
  if (!program) return std::nullopt;
  ForeignProgram found;
  found.attach_type = hook.attach_type_name;
  found.program_id = id;
  found.name = program->info.name;
  for (const unsigned char byte : program->info.tag) {
    char hex[3];
    std::snprintf(hex, sizeof(hex), "%02x", byte);
    found.tag += hex;
  }
  found.cgroup = std::move(cgroup);
  found.where = where;
  found.is_weir = has_weir_name(program->info.name);
  if (found.is_weir) found.maps = backends_of(*program);
  return found;
}

/// The hooks on cgroups, each attach type once.
std::vector<Hook> cgroup_hooks() {
  std::vector<Hook> hooks;
  for (const Hook& hook : kHooks) {
    const bool known = std::any_of(hooks.begin(), hooks.end(), [&](const Hook& other) {
      return other.attach_type == hook.attach_type;
    });
    if (!known && hook.attach_type != BPF_TRACE_RAW_TP) hooks.push_back(hook);
  }
  return hooks;
}

/// Where the pins are that have this map, in any bpffs that is mounted.
std::optional<std::string> find_pins(std::uint32_t backends_map) {
  const std::unique_ptr<FILE, int (*)(FILE*)> mounts(setmntent("/proc/self/mounts", "re"),
                                                     endmntent);
  mntent entry{};
  char text[4096];
  int looked_at = 0;
  while (mounts && getmntent_r(mounts.get(), &entry, text, sizeof(text)) != nullptr) {
    if (std::strcmp(entry.mnt_type, "bpf") != 0) continue;
    std::error_code error;
    fs::recursive_directory_iterator pin(entry.mnt_dir,
                                         fs::directory_options::skip_permission_denied, error);
    for (; !error && pin != fs::recursive_directory_iterator(); pin.increment(error)) {
      if (++looked_at > kMaxEntries) return std::nullopt;
      if (pin->path().filename() != WEIR_MAP_BE) continue;
      const Fd map(bpf_obj_get(pin->path().c_str()));
      const auto info = map_info(map.get());
      if (info && info->id == backends_map) return pin->path().parent_path().string();
    }
  }
  return std::nullopt;
}

class Search {
 public:
  explicit Search(const std::vector<std::uint32_t>& own)
      : own_(own.begin(), own.end()), hooks_(cgroup_hooks()) {}

  void look_at(const std::string& cgroup, Where where) {
    const Fd fd(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid()) return;  // gone meanwhile
    for (const Hook& hook : hooks_) add(query(fd.get(), hook.attach_type, 0), hook, cgroup, where);
  }

  /// What runs in the cgroup besides.
  void look_at_effective(const std::string& cgroup) {
    const Fd fd(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (const Hook& hook : hooks_) {
      add(query(fd.get(), hook.attach_type, BPF_F_QUERY_EFFECTIVE), hook, "", Where::kAncestor);
    }
  }

  std::vector<ForeignProgram> take() { return std::move(found_); }

 private:
  void add(const std::vector<std::uint32_t>& ids, const Hook& hook, const std::string& cgroup,
           Where where) {
    for (const std::uint32_t id : ids) {
      if (own_.contains(id)) continue;
      if (cgroup.empty() && seen_.contains({hook.attach_type, id})) continue;
      if (auto program = describe(id, hook, cgroup, where)) found_.push_back(std::move(*program));
      seen_.insert({hook.attach_type, id});
    }
  }

  std::set<std::uint32_t> own_;
  std::vector<Hook> hooks_;
  std::set<std::pair<bpf_attach_type, std::uint32_t>> seen_;
  std::vector<ForeignProgram> found_;
};

}  // namespace

const char* to_string(Where where) {
  switch (where) {
    case Where::kHere:
      return "same cgroup";
    case Where::kAncestor:
      return "ancestor";
    case Where::kDescendant:
      return "descendant";
  }
  return "unknown";
}

Result<std::vector<ForeignProgram>> foreign_programs(
    const std::string& cgroup_path, const std::vector<std::uint32_t>& own_programs) {
  auto root = find_cgroup2_root();
  if (!root) return std::move(root).error();
  const fs::path here = cgroup_path.empty() ? fs::path(*root) : fs::path(cgroup_path);
  Search search(own_programs);
  search.look_at(here, Where::kHere);
  std::error_code error;
  for (fs::path above = here; !fs::equivalent(above, *root, error) && above.has_relative_path();) {
    above = above.parent_path();
    search.look_at(above, Where::kAncestor);
  }
  search.look_at_effective(here);
  fs::recursive_directory_iterator below(here, fs::directory_options::skip_permission_denied,
                                         error);
  int looked_at = 0;
  for (; !error && below != fs::recursive_directory_iterator() && looked_at < kMaxEntries;
       below.increment(error)) {
    std::error_code gone;  // cgroups come and go while we look
    if (!below->is_directory(gone)) continue;
    ++looked_at;
    search.look_at(below->path(), Where::kDescendant);
  }
  return search.take();
}

Status check_no_other_weir(const std::vector<ForeignProgram>& programs) {
  const ForeignProgram* other = nullptr;
  for (const ForeignProgram& program : programs) {
    if (!program.is_weir || program.where != Where::kHere) continue;
    // Not each of its programs knows its backends.
    if (other == nullptr || program.maps) other = &program;
  }
  if (other == nullptr) return {};
  std::string who = "another Weir";
  std::string how = "stop it first, or steer another cgroup";
  if (const auto pins = other->maps ? find_pins(*other->maps) : std::nullopt) {
    if (auto meta = read_pinned_meta(*pins)) {
      who += " (pid " + std::to_string(meta->agent_pid) + ", build " + meta->build_id + ")";
    }
    who += ", pinned at " + *pins + ",";
    how =
        "stop it first, or `weir detach --pin-root " + fs::path(*pins).parent_path().string() + "`";
  }
  return make_error(Code::kAlreadyExists, who + " steers the cgroup " + other->cgroup +
                                              " already (program " + other->name + ", id " +
                                              std::to_string(other->program_id) + "): " + how);
}

Capability describe_hooks(const std::vector<ForeignProgram>& programs) {
  if (programs.empty()) return {"hooks of our own", Capability::Use::kUsed, false, "no others"};
  return {"hooks of our own", Capability::Use::kFallback, false,
          "shared; before us or after us may change what we see: " + describe(programs)};
}

std::string describe(const std::vector<ForeignProgram>& programs) {
  std::string text;
  for (const ForeignProgram& program : programs) {
    if (!text.empty()) text += ", ";
    text += program.name + " (id " + std::to_string(program.program_id) + ", tag " + program.tag +
            ") on " + program.attach_type + " of " +
            (program.cgroup.empty() ? "an ancestor" : program.cgroup);
  }
  return text;
}

}  // namespace weir::kernel
