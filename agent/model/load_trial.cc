// SPDX-License-Identifier: Apache-2.0
#include "agent/model/load_trial.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/load_trial_words.h"
#include "agent/model/printable.h"

extern char** environ;

namespace weir::model {

namespace {

using Outcome = TrialResult::Outcome;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr int kAskEveryMs = 50;
constexpr std::size_t kMostReportBytes = 16'384;  // the child says a few lines
constexpr std::size_t kMostReasonBytes = 1000;

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

/// Attributes and file actions of one posix_spawn().
class SpawnPlan {
 public:
  SpawnPlan() {
    ::posix_spawnattr_init(&attributes_);
    ::posix_spawn_file_actions_init(&actions_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  ~SpawnPlan() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }

  /// The child gets `report` as its output and nothing else that is open here. The agent's blocked
  /// and ignored signals are not its own, nor is a Ctrl-C at the agent's terminal.
  int prepare(int report) {
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    int failed = ::posix_spawnattr_setsigmask(&attributes_, &none);
    if (failed == 0) failed = ::posix_spawnattr_setsigdefault(&attributes_, &all);
    if (failed == 0) {
      failed = ::posix_spawnattr_setflags(
          &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    }
    const auto open_null = [this](int fd, int flags) {
      return ::posix_spawn_file_actions_addopen(&actions_, fd, "/dev/null", flags, 0);
    };
    if (failed == 0) failed = ::posix_spawn_file_actions_adddup2(&actions_, report, STDOUT_FILENO);
    if (failed == 0) failed = open_null(STDIN_FILENO, O_RDONLY);
    if (failed == 0) failed = open_null(STDERR_FILENO, O_WRONLY);
    if (failed == 0) {
      failed = ::posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1);
    }
    return failed;
  }

  [[nodiscard]] const posix_spawnattr_t* attributes() const { return &attributes_; }
  [[nodiscard]] const posix_spawn_file_actions_t* actions() const { return &actions_; }

 private:
  posix_spawnattr_t attributes_{};
  posix_spawn_file_actions_t actions_{};
};

/// A child that is there; killed and waited for at the latest when this goes.
class Child {
 public:
  explicit Child(pid_t pid)
      : pid_(pid), handle_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    ::kill(pid_, SIGKILL);
    static_cast<void>(wait());
  }

  /// Readable once the child has ended.
  [[nodiscard]] int handle() const { return handle_.get(); }

  /// How it ended, as waitpid() says; waits for that.
  int wait() {
    while (!status_) {
      int status = 0;
      const pid_t ended = ::waitpid(pid_, &status, 0);
      if (ended == pid_ || errno != EINTR) status_ = status;
    }
    return *status_;
  }

 private:
  const pid_t pid_;
  const Fd handle_;
  std::optional<int> status_;
};

Result<std::string> find_program() {
  std::array<char, 4096> self{};
  const ssize_t length = ::readlink("/proc/self/exe", self.data(), self.size() - 1);
  if (length <= 0) return os_error(errno, "/proc/self/exe");
  const std::string_view executable(self.data(), static_cast<std::size_t>(length));
  const std::string folder(executable.substr(0, executable.rfind('/') + 1));
  const std::string beside = folder + std::string(kTrialProgram);
  for (const std::string& path :
       {beside, folder + "../libexec/weir/" + std::string(kTrialProgram)}) {
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return make_error(Code::kNotFound, fmt::format("{} is neither in {} nor in {}../libexec/weir/",
                                                 kTrialProgram, folder, folder));
}

/// What the child has said so far, line by line.
struct Report {
  std::string text;
  std::string stage = "starting";
  std::string last_words;
  std::optional<TrialResult> verdict;

  void read(std::string_view line) {
    const std::size_t space = line.find(' ');
    const std::string_view word = line.substr(0, space);
    const std::string rest =
        space == std::string_view::npos ? "" : printable(line.substr(space + 1), kMostReasonBytes);
    if (word == kTrialAt) {
      stage = rest;
    } else if (word == kTrialDying) {
      last_words = rest;
    } else if (word == kTrialRefused) {
      verdict = {Outcome::kRefused, rest};
    } else if (word == kTrialPassed) {
      verdict = {Outcome::kPassed, ""};
    }
  }

  /// False at the end of what there is to read.
  bool take_from(int fd) {
    std::array<char, 4096> some{};
    const ssize_t got = ::read(fd, some.data(), some.size());
    if (got < 0) return errno == EINTR || errno == EAGAIN;
    if (got == 0 || text.size() > kMostReportBytes) return false;
    text.append(some.data(), static_cast<std::size_t>(got));
    return true;
  }

  void read_lines() {
    std::string_view left = text;
    for (std::size_t end = left.find('\n'); end != std::string_view::npos; end = left.find('\n')) {
      read(left.substr(0, end));
      left.remove_prefix(end + 1);
    }
  }
};

TrialResult unavailable(std::string reason) { return {Outcome::kUnavailable, std::move(reason)}; }

TrialResult verdict(int status, Report& report, const TrialLimits& limits) {
  report.read_lines();
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    if (signal == SIGXCPU) {
      return {Outcome::kDied, fmt::format("libllama was not done with it after {} s of CPU time, "
                                          "while {}",
                                          limits.cpu.count(), report.stage)};
    }
    // Nobody but the system, out of memory, and an operator sends that one.
    if (signal == SIGKILL) {
      return {Outcome::kCut,
              fmt::format("the trial was killed from outside while {}", report.stage)};
    }
    std::string reason = fmt::format("libllama dies of it while {}: signal {} ({})", report.stage,
                                     signal, ::strsignal(signal));
    if (!report.last_words.empty()) reason += "; " + report.last_words;
    return {Outcome::kDied, std::move(reason)};
  }
  if (report.verdict) return *report.verdict;
  return unavailable(fmt::format("{} ended with status {} while {}, without a verdict",
                                 kTrialProgram, WEXITSTATUS(status), report.stage));
}

/// Listens until the child has ended, or for as long as it may take.
TrialResult listen(Child& child, int report_fd, const TrialLimits& limits,
                   const std::function<bool()>& keep_going) {
  Report report;
  const auto deadline = std::chrono::steady_clock::now() + limits.wall;
  std::array<pollfd, 2> waited{pollfd{report_fd, POLLIN, 0}, pollfd{child.handle(), POLLIN, 0}};
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      report.read_lines();
      return {Outcome::kCut,
              fmt::format("libllama was not done with it after {:.1f} s, while {}",
                          static_cast<double>(limits.wall.count()) / 1000, report.stage)};
    }
    if (!keep_going()) return {Outcome::kStopped, "the trial was stopped"};
    const int wait_ms = static_cast<int>(std::min<std::int64_t>(left.count(), kAskEveryMs));
    if (::poll(waited.data(), waited.size(), wait_ms) < 0 && errno != EINTR) {
      return unavailable(os_error(errno, "poll").message);
    }
    if (waited[0].revents != 0 && !report.take_from(report_fd)) {
      waited[0].fd = -1;  // it has closed it, or says too much: now it only has to end
      waited[0].revents = 0;
    }
    if (waited[1].revents != 0 && waited[0].revents == 0) {
      return verdict(child.wait(), report, limits);
    }
  }
}

}  // namespace

TrialLimits trial_limits(std::uint64_t model_bytes) {
  const auto mib = static_cast<std::int64_t>(model_bytes / kMiB);
  return {.wall = std::chrono::seconds(30 + mib / 8),
          .cpu = std::chrono::seconds(10 + mib / 32),
          .memory_bytes = 1024 * kMiB + 3 * model_bytes};
}

TrialResult try_load(const std::string& path, const TrialLimits& limits,
                     const std::function<bool()>& keep_going) {
  const auto program = find_program();
  if (!program) return unavailable(program.error().message);
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return unavailable(os_error(errno, "pipe2").message);
  const Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  // The child's end stays blocking: it must not lose its last words.
  ::fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
  SpawnPlan plan;
  if (const int failed = plan.prepare(write_end.get()); failed != 0) {
    return unavailable(os_error(failed, "posix_spawn").message);
  }
  const std::string parent = std::to_string(::getpid());
  const std::string memory = std::to_string(limits.memory_bytes);
  const std::string cpu = std::to_string(limits.cpu.count());
  std::vector<std::string> words{*program, path, parent, memory, cpu};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  if (const int failed = ::posix_spawn(&pid, program->c_str(), plan.actions(), plan.attributes(),
                                       arguments.data(), environ);
      failed != 0) {
    return unavailable(os_error(failed, *program).message);
  }
  Child child(pid);
  write_end.reset();
  if (child.handle() < 0) return unavailable(os_error(errno, "pidfd_open").message);
  return listen(child, read_end.get(), limits, keep_going);
}

}  // namespace weir::model
