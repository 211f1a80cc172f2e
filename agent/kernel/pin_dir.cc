// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/pin_dir.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "agent/kernel/map_set.h"
#include "weir/abi.h"

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;

constexpr char kUsualMount[] = "/sys/fs/bpf";

bool is_bpffs(const std::string& path) {
  struct statfs info {};
  return statfs(path.c_str(), &info) == 0 && info.f_type == BPF_FS_MAGIC;
}

Status make_dirs(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return os_error(error.value(), "cannot make " + path);
  return {};
}

/// At the usual place when pin_root is below it, else at pin_root itself.
Status ensure_bpffs(const std::string& pin_root) {
  fs::path existing = pin_root;
  while (!fs::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
  if (is_bpffs(existing)) return {};

  const std::string usual = kUsualMount;
  const bool below_usual = pin_root == usual || pin_root.rfind(usual + "/", 0) == 0;
  const std::string where = below_usual ? usual : pin_root;
  std::error_code ignored;
  if (!below_usual && fs::exists(where) && !fs::is_empty(where, ignored)) {
    return make_error(Code::kInvalidArgument,
                      where +
                          " is not on a bpffs and has other things in it: name a folder below " +
                          usual + ", or an empty one, on which a bpffs is then mounted");
  }
  if (Status made = make_dirs(where); !made) return made;
  if (mount("bpf", where.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") != 0) {
    return os_error(errno, "cannot mount a bpffs at " + where);
  }
  return {};
}

std::vector<std::string> entries(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool is_version(const std::string& name) {
  return name.size() > 1 && name[0] == 'v' &&
         std::all_of(name.begin() + 1, name.end(), [](unsigned char c) { return std::isdigit(c); });
}

/// Of a version directory.
unsigned long version_of(const std::string& path) {
  return std::strtoul(path.c_str() + path.rfind('/') + 2, nullptr, 10);
}

Error locked_by_another(const std::string& directory) {
  std::string who = "a weir-agent";
  if (auto meta = read_pinned_meta(directory)) {
    who += " (pid " + std::to_string(meta->agent_pid) + ", build " + meta->build_id + ")";
  }
  return make_error(Code::kAlreadyExists, who + " is running on " + directory +
                                              ": stop it first, or use another pin root");
}

/// How often a lock is tried that somebody is about to let go.
constexpr std::chrono::milliseconds kLockRetry{10};

Result<Fd> lock(const std::string& directory,
                std::chrono::milliseconds wait = std::chrono::milliseconds(0)) {
  Fd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return os_error(errno, "cannot open " + directory);
  const auto deadline = std::chrono::steady_clock::now() + wait;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return os_error(errno, "cannot lock " + directory);
    if (std::chrono::steady_clock::now() >= deadline) return locked_by_another(directory);
    std::this_thread::sleep_for(kLockRetry);
  }
  return fd;
}

/// Links first: nothing is steered by maps that are going away.
Result<std::size_t> remove_locked(const std::string& pin_root, const std::string& version_dir) {
  std::size_t links = 0;
  std::error_code error;
  for (const std::string& name : entries(version_dir + "/links")) {
    if (!fs::remove(version_dir + "/links/" + name, error)) {
      return os_error(error.value(), "cannot remove the link " + name);
    }
    ++links;
  }
  for (const std::string& name : entries(version_dir)) {
    fs::remove_all(version_dir + "/" + name, error);
    if (error) return os_error(error.value(), "cannot remove " + version_dir + "/" + name);
  }
  fs::remove(version_dir, error);
  if (error) return os_error(error.value(), "cannot remove " + version_dir);
  fs::remove(pin_root, error);  // stays when it is a mount point or holds something else
  return links;
}

}  // namespace

std::string version_path(const std::string& pin_root) {
  return pin_root + "/v" + std::to_string(WEIR_ABI_VERSION);
}

std::vector<std::string> pinned_versions(const std::string& pin_root) {
  std::vector<std::string> paths;
  for (const std::string& name : entries(pin_root)) {
    const std::string path = pin_root + "/" + name;
    if (is_version(name) && !entries(path).empty()) paths.push_back(path);
  }
  return paths;
}

bool agent_is_alive(const std::string& version_dir) {
  const Fd fd(open(version_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd.valid() && flock(fd.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

Result<PinDir> PinDir::prepare(const std::string& pin_root, std::chrono::milliseconds wait) {
  if (Status mounted = ensure_bpffs(pin_root); !mounted) return std::move(mounted).error();
  PinDir dir;
  dir.pin_root_ = pin_root;
  dir.path_ = version_path(pin_root);
  for (const std::string& other : pinned_versions(pin_root)) {
    if (version_of(other) <= WEIR_ABI_VERSION) continue;
    return make_error(Code::kUnsupported,
                      other + " was left by a newer agent (ABI version of this one: " +
                          std::to_string(WEIR_ABI_VERSION) +
                          "): what its maps mean is not known here; run `weir detach` first");
  }
  if (Status made = make_dirs(dir.path_ + "/links"); !made) return std::move(made).error();
  auto locked = lock(dir.path_, wait);
  if (!locked) return std::move(locked).error();
  dir.lock_ = std::move(*locked);
  for (const std::string& other : pinned_versions(pin_root)) {
    if (other == dir.path_) continue;
    auto former = lock(other, wait);
    if (!former) return std::move(former).error();
    dir.former_.push_back({other, std::move(*former)});
  }
  std::sort(dir.former_.begin(), dir.former_.end(), [](const Former& a, const Former& b) {
    return version_of(a.path) > version_of(b.path);
  });
  return dir;
}

std::vector<std::string> PinDir::former_paths() const {
  std::vector<std::string> paths;
  for (const Former& former : former_) paths.push_back(former.path);
  return paths;
}

bool PinDir::is_empty() const {
  return entries(path_) == std::vector<std::string>{"links"} && entries(path_ + "/links").empty();
}

std::vector<std::string> PinDir::link_paths() const {
  std::vector<std::string> directories = former_paths();
  directories.insert(directories.begin(), path_);
  std::vector<std::string> paths;
  for (const std::string& directory : directories) {
    for (const std::string& name : entries(directory + "/links")) {
      paths.push_back(directory + "/links/" + name);
    }
  }
  return paths;
}

Status PinDir::remove_former() {
  while (!former_.empty()) {
    auto removed = remove_locked(pin_root_, former_.back().path);
    if (!removed) return std::move(removed).error();
    former_.pop_back();
  }
  return {};
}

Result<std::size_t> PinDir::remove() { return remove_locked(pin_root_, path_); }

Result<std::size_t> remove_pins(const std::string& pin_root, const std::string& version_dir) {
  auto locked = lock(version_dir);
  if (!locked) return std::move(locked).error();
  return remove_locked(pin_root, version_dir);
}

}  // namespace weir::kernel
