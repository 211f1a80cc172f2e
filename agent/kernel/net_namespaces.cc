// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/net_namespaces.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <utility>

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;

/// Cgroups looked through below one; a tree that grows faster than it is read ends here.
constexpr std::size_t kMaxCgroups = 100'000;

/// Namespaces by device and inode: the first process of each is enough.
class Collection {
 public:
  void add(const std::string& path) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) return;  // the process is gone, or not ours to see
    const auto key = std::pair(status.st_dev, status.st_ino);
    if (seen_.contains(key)) return;
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return;
    seen_.insert(key);
    namespaces_.push_back(std::move(fd));
  }
  std::vector<Fd> take() { return std::move(namespaces_); }

 private:
  std::set<std::pair<dev_t, ino_t>> seen_;
  std::vector<Fd> namespaces_;
};

/// Lines of cgroup.procs; 0 stands for a process in another process namespace.
void add_processes(const fs::path& cgroup, const std::string& proc_root, Collection& found) {
  std::ifstream file(cgroup / "cgroup.procs");
  for (std::string pid; std::getline(file, pid);) {
    if (pid != "0") found.add(proc_root + "/" + pid + "/ns/net");
  }
}

}  // namespace

Result<std::vector<Fd>> net_namespaces_below(const std::string& cgroup_path,
                                             const std::string& proc_root) {
  Collection found;
  found.add(proc_root + "/self/ns/net");
  std::error_code error;
  if (!fs::is_directory(cgroup_path, error)) {
    return os_error(error ? error.value() : ENOTDIR, "cannot read the cgroup " + cgroup_path);
  }
  std::vector<fs::path> left = {cgroup_path};
  for (std::size_t read = 0; !left.empty() && read < kMaxCgroups; ++read) {
    const fs::path cgroup = std::move(left.back());
    left.pop_back();
    add_processes(cgroup, proc_root, found);
    // One that is removed meanwhile had no processes left.
    std::error_code gone;
    for (fs::directory_iterator entry(cgroup, gone), end; !gone && entry != end;
         entry.increment(gone)) {
      std::error_code ignored;
      if (entry->is_directory(ignored) && !entry->is_symlink(ignored)) {
        left.push_back(entry->path());
      }
    }
  }
  return found.take();
}

Status in_each_net_namespace(const std::vector<Fd>& namespaces,
                             const std::function<Status()>& work) {
  Status outcome;
  // A namespace belongs to a thread. This one is never used again, so that there is no way back
  // that could fail.
  std::thread visitor([&] {
    for (const Fd& each : namespaces) {
      Status done = setns(each.get(), CLONE_NEWNET) == 0
                        ? work()
                        : os_error(errno, "cannot enter a network namespace");
      if (!done && outcome) outcome = std::move(done);
    }
  });
  visitor.join();
  return outcome;
}

}  // namespace weir::kernel
