// SPDX-License-Identifier: Apache-2.0
#include "agent/model/model_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace weir::model {

namespace {

// What a kernel before 5.14 does not know: it answers EINVAL.
constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, linux/mman.h

// Read ahead of what is being read: enough for a disk with much latency to have its queue full.
constexpr std::uint64_t kAheadBytes = std::uint64_t{64} << 20;
// One piece of advice reads no more than the device takes at once (mm/readahead.c,
// force_page_cache_ra), which is this much at least.
constexpr std::uint64_t kAdviceBytes = std::uint64_t{128} << 10;
constexpr std::uint64_t kReadBytes = std::uint64_t{256} << 10;

std::uint64_t page_bytes() {
  static const auto bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

// linux/mman.h of 6.5 and later.
constexpr long kCachestat = 451;  // everywhere but on Alpha
struct CachestatRange {
  std::uint64_t from;
  std::uint64_t bytes;
};
struct Cachestat {
  std::uint64_t cached;  // pages, as all of them
  std::uint64_t dirty;
  std::uint64_t under_writeback;
  std::uint64_t evicted;
  std::uint64_t recently_evicted;
};

/// By one look at each folio of the page cache, which is hundreds of times faster than one at each
/// page. Unset: this kernel cannot, or will not.
std::optional<std::uint64_t> cached_bytes(int fd, std::uint64_t from, std::uint64_t bytes) {
  static std::atomic<bool> can{true};
  if (!can.load(std::memory_order_relaxed)) return std::nullopt;
  const CachestatRange range{from, bytes};
  Cachestat found{};
  if (::syscall(kCachestat, fd, &range, &found, 0U) != 0) {
    if (errno == ENOSYS) can.store(false, std::memory_order_relaxed);
    return std::nullopt;
  }
  return std::min(bytes, found.cached * page_bytes());
}

/// To the last byte of [from, from + bytes), or as far as the file goes by now.
Status read_through(int fd, std::uint64_t from, std::uint64_t bytes) {
  std::vector<char> buffer(kReadBytes);
  const std::uint64_t end = from + bytes;
  while (from < end) {
    const ssize_t got =
        ::pread(fd, buffer.data(), std::min(kReadBytes, end - from), static_cast<off_t>(from));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error(errno, "read");
    if (got == 0) return {};
    from += static_cast<std::uint64_t>(got);
  }
  return {};
}

/// By page faults that leave nothing mapped, or by reading where the kernel cannot.
Status populate(int fd, std::byte* start, std::uint64_t from, std::uint64_t bytes) {
  if (::madvise(start + from, bytes, kPopulateRead) != 0) return read_through(fd, from, bytes);
  ::madvise(start + from, bytes, MADV_DONTNEED);  // the page tables alone: it is a file's
  return {};
}

}  // namespace

Result<std::shared_ptr<ModelFile>> ModelFile::open(const std::vector<std::string>& paths) {
  const std::shared_ptr<ModelFile> file(new ModelFile());
  for (const std::string& path : paths) {
    Part& part = file->parts_.emplace_back();
    part.path = path;
    part.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (part.fd < 0 || ::fstat(part.fd, &status) != 0) return os_error(errno, path);
    part.bytes = static_cast<std::uint64_t>(status.st_size);
    if (part.bytes == 0) {
      return make_error(Code::kInvalidArgument, path + ": the file is empty");
    }
    void* const start = ::mmap(nullptr, part.bytes, PROT_READ, MAP_SHARED, part.fd, 0);
    if (start == MAP_FAILED) return os_error(errno, path + ": mmap");
    part.start = static_cast<std::byte*>(start);
    // mincore(2) tells others that all is resident (mm/mincore.c, can_do_mincore()).
    part.tells = status.st_uid == ::geteuid() || ::geteuid() == 0 ||
                 ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
    file->bytes_ += part.bytes;
  }
  return file;
}

ModelFile::~ModelFile() {
  for (const Part& part : parts_) {
    if (part.start != nullptr) ::munmap(part.start, part.bytes);
    if (part.fd >= 0) ::close(part.fd);
  }
}

// ---- what is there ------------------------------------------------------------------------------

std::optional<std::uint64_t> ModelFile::resident(const Part& part, std::uint64_t from,
                                                 std::uint64_t bytes) {
  if (!part.tells) return std::nullopt;
  if (const auto cached = cached_bytes(part.fd, from, bytes)) return cached;
  std::array<unsigned char, kPieceBytes / 4096> pages{};
  std::uint64_t found = 0;
  const std::uint64_t page = page_bytes();
  const std::uint64_t end = from + bytes;
  for (std::uint64_t at = from; at < end; at += kPieceBytes) {
    const std::uint64_t piece = std::min(kPieceBytes, end - at);
    if (::mincore(part.start + at, piece, pages.data()) != 0) return std::nullopt;
    const std::uint64_t count = (piece + page - 1) / page;
    const auto last = pages.begin() + static_cast<std::ptrdiff_t>(count);
    const auto in =
        std::count_if(pages.begin(), last, [](unsigned char p) { return (p & 1) != 0; });
    const bool tail = (piece % page) != 0 && (*(last - 1) & 1) != 0;
    found += static_cast<std::uint64_t>(in) * page - (tail ? page - piece % page : 0);
  }
  return found;
}

std::optional<std::uint64_t> ModelFile::resident() const {
  std::uint64_t all = 0;
  for (const Part& part : parts_) {
    const auto here = resident(part, 0, part.bytes);
    if (!here) return std::nullopt;
    all += *here;
  }
  return all;
}

std::optional<std::uint64_t> ModelFile::recently_resident(TimePoint now,
                                                          schedule::WorkerPool& workers) {
  // Before a worker is asked, which may be done at once: else the answer would be the one or the
  // other.
  const std::int64_t known = seen_.load(std::memory_order_relaxed);
  const TimePoint last = looked_at_.load(std::memory_order_relaxed);
  const bool old = last == TimePoint::min() || now - last >= kLookEvery;
  if (old && !looking_.exchange(true)) {
    schedule::Task look([self = shared_from_this(), now] {
      const auto seen = self->resident();
      self->seen_.store(seen ? static_cast<std::int64_t>(*seen) : -1, std::memory_order_relaxed);
      self->looked_at_.store(now, std::memory_order_relaxed);
      self->looking_.store(false);
    });
    // A pool that takes no more has other worries; the next one who asks tries again.
    if (workers.submit(std::move(look)) != schedule::WorkerPool::Submitted::kAccepted) {
      looking_.store(false);
    }
  }
  if (known < 0) return std::nullopt;
  return static_cast<std::uint64_t>(known);
}

// ---- what is to come ----------------------------------------------------------------------------

Status ModelFile::prefetch(Prefetch how, const Progress& progress) {
  if (how == Prefetch::kNone) return {};
  std::uint64_t before = 0;
  for (const Part& part : parts_) {
    const auto told = [&](std::uint64_t done) {
      return progress(static_cast<double>(before + done) / static_cast<double>(bytes_));
    };
    if (Status read = prefetch(part, how, told); !read) return read;
    before += part.bytes;
  }
  return {};
}

Status ModelFile::prefetch(const Part& part, Prefetch how,
                           const std::function<bool(std::uint64_t)>& done) {
  if (how == Prefetch::kSequential) ::posix_fadvise(part.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  std::uint64_t advised = 0;
  for (std::uint64_t at = 0; at < part.bytes; at += kPieceBytes) {
    if (!done(at)) return make_error(Code::kCancelled, part.path + ": the load was given up");
    const std::uint64_t piece = std::min(kPieceBytes, part.bytes - at);
    if (resident(part, at, piece) == piece) continue;
    if (how == Prefetch::kWillneed) {
      const std::uint64_t ahead = std::min(part.bytes, at + piece + kAheadBytes);
      for (advised = std::max(advised, at); advised < ahead; advised += kAdviceBytes) {
        ::posix_fadvise(part.fd, static_cast<off_t>(advised), kAdviceBytes, POSIX_FADV_WILLNEED);
      }
    }
    Status read = how == Prefetch::kPopulate ? populate(part.fd, part.start, at, piece)
                                             : read_through(part.fd, at, piece);
    if (!read) return std::move(read).error().context(part.path);
  }
  if (!done(part.bytes)) return make_error(Code::kCancelled, part.path + ": the load was given up");
  return {};
}

}  // namespace weir::model
