// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/watch_loop.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

namespace weir::ctl {
namespace {

/// The programs wake nobody (bpf/lib/event.bpf.h). In this time 100,000 records a second fill a
/// tenth of the buffer.
constexpr std::chrono::milliseconds kLookEvery(10);
constexpr std::chrono::seconds kRenewEvery(1);

class Loop {
 public:
  Loop(kernel::EventSource& source, EventPrinter& printer, std::optional<std::uint64_t> count,
       const Clock& clock, const Output& output)
      : source_(source),
        printer_(printer),
        left_(count),
        clock_(clock),
        output_(output),
        renewed_(clock.now()) {}

  [[nodiscard]] bool done() const { return left_ && *left_ == 0; }

  Status renew_when_due() {
    if (clock_.now() - renewed_ < kRenewEvery) return {};
    if (Status renewed = source_.renew(); !renewed) return renewed;
    renewed_ = clock_.now();
    return print_losses();
  }

  /// Reads and prints once; tells how many there were.
  Result<std::size_t> print_events() {
    auto events = source_.read();
    if (!events) return std::move(events).error();
    const WallTime wall = std::chrono::system_clock::now();
    const TimePoint now = clock_.now();
    std::string text;
    for (const kernel::Event& event : *events) {
      if (done()) break;
      const auto age = now - kernel::head_of(event).time;
      const auto line =
          printer_.print(event, wall - std::chrono::duration_cast<WallTime::duration>(age));
      if (!line) continue;
      text += *line;
      if (left_) --*left_;
    }
    if (Status written = write(text); !written) return std::move(written).error();
    return events->size();
  }

  Status print_losses() {
    auto losses = source_.losses();
    if (!losses) return std::move(losses).error();
    const kernel::EventLosses since{losses->records - told_.records,
                                    losses->unwatched - told_.unwatched};
    told_ = *losses;
    if (since.records == 0 && since.unwatched.count() == 0) return {};
    return write(printer_.print_losses(since, std::chrono::system_clock::now()));
  }

 private:
  Status write(const std::string& text) { return text.empty() ? Status() : output_(text); }

  kernel::EventSource& source_;
  EventPrinter& printer_;
  std::optional<std::uint64_t> left_;
  const Clock& clock_;
  const Output& output_;
  TimePoint renewed_;
  kernel::EventLosses told_;
};

Status run(Loop& loop, Pause& pause) {
  for (bool stopping = false; !loop.done();) {
    if (Status renewed = loop.renew_when_due(); !renewed) return renewed;
    auto events = loop.print_events();
    if (!events) return std::move(events).error();
    // Asked to stop, and what had happened by then is printed. A flood does not hold this up: what
    // comes after the request is cut off here.
    if (stopping) break;
    stopping = !pause.wait(*events == 0 ? kLookEvery : std::chrono::milliseconds(0));
  }
  return loop.print_losses();
}

}  // namespace

Result<SignalPause> SignalPause::create() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);
  if (std::signal(SIGPIPE, SIG_IGN) == SIG_ERR) return os_error(errno, "cannot ignore SIGPIPE");
  if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return os_error(errno, "cannot block signals");
  kernel::Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return os_error(errno, "cannot wait for signals");
  return SignalPause(std::move(fd));
}

bool SignalPause::wait(std::chrono::milliseconds time) {
  // A pipe whose reader is gone reports POLLERR unasked; without looking, a watcher of a quiet
  // service would outlive the pipeline it belongs to.
  std::array<pollfd, 2> fds = {pollfd{signals_.get(), POLLIN, 0}, pollfd{STDOUT_FILENO, 0, 0}};
  if (poll(fds.data(), fds.size(), static_cast<int>(time.count())) < 0) return errno == EINTR;
  return fds[0].revents == 0 && (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL)) == 0;
}

Status write_stdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return os_error(errno, "cannot write the output");
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

Status watch(kernel::EventSource& source, EventPrinter& printer, std::optional<std::uint64_t> count,
             Pause& pause, const Clock& clock, const Output& output) {
  Loop loop(source, printer, count, clock, output);
  Status ended = run(loop, pause);
  if (!ended && ended.error().os_errno == EPIPE) return {};
  return ended;
}

}  // namespace weir::ctl
