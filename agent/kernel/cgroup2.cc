// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/cgroup2.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <mntent.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <utility>

#include "agent/kernel/capabilities.h"

namespace weir::kernel {

Result<std::string> find_cgroup2_root() {
  const std::unique_ptr<FILE, int (*)(FILE*)> mounts(setmntent("/proc/self/mounts", "re"),
                                                     endmntent);
  if (!mounts) return os_error(errno, "cannot read /proc/self/mounts");
  mntent entry{};
  char text[4096];
  while (getmntent_r(mounts.get(), &entry, text, sizeof(text)) != nullptr) {
    // By magic, not by the name in the table: something else may be mounted over it.
    struct statfs info {};
    if (statfs(entry.mnt_dir, &info) == 0 && info.f_type == CGROUP2_SUPER_MAGIC) {
      return std::string(entry.mnt_dir);
    }
  }
  return make_error(Code::kUnsupported,
                    "no cgroup v2 is mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)");
}

Result<Cgroup> open_cgroup(const std::string& path) {
  std::string where = path;
  if (where.empty()) {
    auto root = find_cgroup2_root();
    if (!root) return std::move(root).error();
    where = *root;
  }
  Cgroup cgroup;
  cgroup.fd = Fd(open(where.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup.fd.valid()) return os_error(errno, "cannot open the cgroup " + where);
  struct statfs info {};
  struct stat status {};
  if (fstatfs(cgroup.fd.get(), &info) != 0 || fstat(cgroup.fd.get(), &status) != 0) {
    return os_error(errno, "cannot inspect the cgroup " + where);
  }
  if (info.f_type != CGROUP2_SUPER_MAGIC) {
    return make_error(Code::kInvalidArgument, where + " is not a directory of cgroup v2");
  }
  cgroup.path = std::move(where);
  cgroup.id = status.st_ino;  // in cgroup v2 the inode number is the id
  return cgroup;
}

}  // namespace weir::kernel
