// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_header.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <concepts>
#include <cstring>

namespace weir::model {

namespace {

// Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
constexpr std::array<char, 4> kMagic{'G', 'G', 'U', 'F'};
constexpr std::uint32_t kOldestVersion = 2;  // libllama refuses version 1
constexpr std::uint32_t kNewestVersion = 3;
// An entry has at least: 8 bytes key length, 1 byte key, 4 bytes type, 1 byte value.
constexpr std::uint64_t kLeastEntryBytes = 14;
// A tensor has at least: 8 bytes name length, 1 byte name, 4 bytes dimension count, 8 bytes
// dimension, 4 bytes type, 8 bytes offset.
constexpr std::uint64_t kLeastTensorBytes = 33;

template <std::unsigned_integral T>
T read_at(std::span<const std::byte> head, std::size_t offset) {
  static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");
  T value;
  std::memcpy(&value, head.data() + offset, sizeof value);
  return value;
}

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  const int fd_;
};

Error invalid(std::string message) {
  return make_error(Code::kInvalidArgument, std::move(message));
}

}  // namespace

Result<GgufHeader> parse_gguf_header(std::span<const std::byte> head, std::uint64_t file_bytes) {
  if (file_bytes == 0) {
    return invalid("the file is empty");
  }
  const std::size_t magic_bytes = std::min(head.size(), kMagic.size());
  if (std::memcmp(head.data(), kMagic.data(), magic_bytes) != 0) {
    return invalid("not a GGUF file (it does not begin with the letters GGUF)");
  }
  if (head.size() < kGgufHeaderBytes || file_bytes < kGgufHeaderBytes) {
    return invalid(
        fmt::format("truncated: {} bytes, the header alone has {}", file_bytes, kGgufHeaderBytes));
  }
  GgufHeader header;
  header.version = read_at<std::uint32_t>(head, 4);
  header.tensors = read_at<std::uint64_t>(head, 8);
  header.metadata_entries = read_at<std::uint64_t>(head, 16);
  if ((header.version & 0xFFFFU) == 0 && header.version != 0) {
    return invalid("a big-endian GGUF file; this build reads little-endian ones");
  }
  if (header.version < kOldestVersion || header.version > kNewestVersion) {
    return invalid(fmt::format("GGUF version {}; supported are {} and {}", header.version,
                               kOldestVersion, kNewestVersion));
  }
  if (header.tensors == 0) {
    return invalid("no tensors (a vocabulary without weights)");
  }
  if (header.metadata_entries == 0) {
    return invalid("no metadata, so no model architecture");
  }
  const std::uint64_t room = file_bytes - kGgufHeaderBytes;
  if (header.tensors > room / kLeastTensorBytes ||
      header.metadata_entries > room / kLeastEntryBytes) {
    return invalid(
        fmt::format("truncated or corrupt: {} bytes cannot hold {} tensors and {} metadata entries",
                    file_bytes, header.tensors, header.metadata_entries));
  }
  return header;
}

Result<GgufFile> inspect_gguf_file(const std::string& path) {
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    return os_error(errno, path);
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) {
    return os_error(errno, path);
  }
  if (!S_ISREG(status.st_mode)) {
    return invalid(path + ": not a regular file");
  }
  std::array<std::byte, kGgufHeaderBytes> head{};
  const ssize_t got = ::pread(file.get(), head.data(), head.size(), 0);
  if (got < 0) {
    return os_error(errno, path);
  }
  const auto file_bytes = static_cast<std::uint64_t>(status.st_size);
  auto header = parse_gguf_header(std::span(head).first(static_cast<std::size_t>(got)), file_bytes);
  if (!header) {
    return std::move(header).error().context(path);
  }
  return GgufFile{*header, file_bytes, status.st_mtim.tv_sec};
}

}  // namespace weir::model
