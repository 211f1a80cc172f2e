// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "agent/model/printable.h"

namespace weir::model {

namespace {

// Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
constexpr std::array<char, 4> kMagic{'G', 'G', 'U', 'F'};
constexpr std::size_t kHeaderBytes = 24;
constexpr std::uint32_t kOldestVersion = 2;  // libllama refuses version 1
constexpr std::uint32_t kNewestVersion = 3;
// An entry has at least: 8 bytes key length, 1 byte key, 4 bytes type, 1 byte value.
constexpr std::uint64_t kLeastEntryBytes = 14;
// A tensor has at least: 8 bytes name length, 1 byte name, 4 bytes dimension count, 8 bytes
// dimension, 4 bytes type, 8 bytes offset.
constexpr std::uint64_t kLeastTensorBytes = 33;

constexpr std::uint32_t kTypes = 13;
constexpr std::array<std::uint64_t, kTypes> kTypeBytes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr std::array<std::string_view, kTypes> kTypeNames{
    "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
    "bool",  "string", "array",  "uint64", "int64",  "float64"};
constexpr std::uint64_t kLengthBytes = 8;
// Most models need two reads with this, the small ones one.
constexpr std::uint64_t kFirstReadBytes = std::uint64_t{1} << 20;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <typename T>
T little_endian(std::span<const std::byte> bytes) {
  static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

Error invalid(std::string reason) { return make_error(Code::kInvalidArgument, std::move(reason)); }

/// `head`: the first min(kHeaderBytes, file_bytes) bytes of the file.
Result<GgufHeader> parse_header(std::span<const std::byte> head, std::uint64_t file_bytes) {
  if (file_bytes == 0) {
    return invalid("the file is empty");
  }
  const std::size_t magic_bytes = std::min(head.size(), kMagic.size());
  if (std::memcmp(head.data(), kMagic.data(), magic_bytes) != 0) {
    return invalid("not a GGUF file (it does not begin with the letters GGUF)");
  }
  if (head.size() < kHeaderBytes || file_bytes < kHeaderBytes) {
    return invalid(
        fmt::format("truncated: {} bytes, the header alone has {}", file_bytes, kHeaderBytes));
  }
  GgufHeader header;
  header.version = little_endian<std::uint32_t>(head.subspan(4));
  header.tensors = little_endian<std::uint64_t>(head.subspan(8));
  header.metadata_entries = little_endian<std::uint64_t>(head.subspan(16));
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
  const std::uint64_t room = file_bytes - kHeaderBytes;
  if (header.tensors > room / kLeastTensorBytes ||
      header.metadata_entries > room / kLeastEntryBytes) {
    return invalid(
        fmt::format("truncated or corrupt: {} bytes cannot hold {} tensors and {} metadata entries",
                    file_bytes, header.tensors, header.metadata_entries));
  }
  return header;
}

/// One parse. The methods that read return false once stop_ says why it cannot go on.
class Parser {
 public:
  Parser(std::span<const std::byte> head, std::uint64_t file_bytes)
      : head_(head), file_bytes_(file_bytes) {}

  std::variant<GgufMetadata, GgufNeedsMore, Error> parse() {
    if (const auto least = std::min<std::uint64_t>(kHeaderBytes, file_bytes_);
        head_.size() < least) {
      return GgufNeedsMore{least};
    }
    auto header =
        parse_header(head_.first(std::min<std::size_t>(head_.size(), kHeaderBytes)), file_bytes_);
    if (!header) return std::move(header).error();
    result_.header = *header;
    at_ = kHeaderBytes;
    if (read_entries() && read_tensors()) {
      result_.bytes = at_;
      return std::move(result_);
    }
    if (const auto* more = std::get_if<GgufNeedsMore>(&stop_)) return *more;
    return std::get<Error>(std::move(stop_));
  }

 private:
  bool read_entries() {
    const std::uint64_t count = result_.header.metadata_entries;
    if (count > kMostGgufEntries) {
      return refuse(
          fmt::format("{} metadata entries; at most {} are read", count, kMostGgufEntries));
    }
    part_ = "metadata entry";
    of_ = count;
    result_.entries.reserve(count);
    for (number_ = 1; number_ <= count; ++number_) {
      name_ = {};
      GgufEntry entry;
      if (!read_entry(entry)) return false;
      result_.entries.push_back(entry);
    }
    return true;
  }

  bool read_entry(GgufEntry& entry) {
    if (!take_text(entry.key, kMostGgufKeyBytes, "key")) return false;
    if (entry.key.empty()) return refuse(fmt::format("{} has an empty key", place()));
    name_ = entry.key;
    if (!take_type(entry.type)) return false;
    if (entry.type == GgufType::kArray) return read_array(entry);
    if (entry.type == GgufType::kString) {
      std::string_view text;
      if (!take_text(text, UINT64_MAX, "text")) return false;
      entry.value = std::as_bytes(std::span(text));
      return true;
    }
    return take(kTypeBytes[static_cast<std::size_t>(entry.type)], entry.value);
  }

  bool read_array(GgufEntry& entry) {
    if (!take_type(entry.element) || !take_number(entry.count)) return false;
    if (entry.element == GgufType::kArray) {
      return refuse(fmt::format("{} is an array of arrays, which no reader takes", place()));
    }
    const std::uint64_t left = file_bytes_ - at_;
    const bool strings = entry.element == GgufType::kString;
    const std::uint64_t least =
        strings ? kLengthBytes : kTypeBytes[static_cast<std::size_t>(entry.element)];
    if (entry.count > left / least) {
      return refuse(
          fmt::format("truncated or corrupt: {} claims {} elements of {}, but {} bytes "
                      "follow in the file",
                      place(), entry.count, to_string(entry.element), left));
    }
    if (!strings) return take(entry.count * least, entry.value);
    if (entry.count > kMostGgufStrings) {
      return refuse(fmt::format("{} has {} strings; at most {} are read", place(), entry.count,
                                kMostGgufStrings));
    }
    const std::uint64_t begin = at_;
    for (std::uint64_t i = 0; i < entry.count; ++i) {
      std::string_view text;
      if (!take_text(text, UINT64_MAX, "element")) return false;
    }
    entry.value = head_.subspan(begin, at_ - begin);
    return true;
  }

  bool read_tensors() {
    const std::uint64_t count = result_.header.tensors;
    if (count > kMostGgufTensors) {
      return refuse(fmt::format("{} tensors; at most {} are read", count, kMostGgufTensors));
    }
    part_ = "tensor";
    of_ = count;
    result_.tensors.reserve(count);
    for (number_ = 1; number_ <= count; ++number_) {
      name_ = {};
      GgufTensor tensor;
      if (!read_tensor(tensor)) return false;
      result_.tensors.push_back(tensor);
    }
    return true;
  }

  bool read_tensor(GgufTensor& tensor) {
    if (!take_text(tensor.name, kMostGgufTensorNameBytes, "name")) return false;
    name_ = tensor.name;
    if (!take_number(tensor.dimensions)) return false;
    if (tensor.dimensions > kGgufDimensions) {
      return refuse(fmt::format("{} has {} dimensions; at most {} are possible", place(),
                                tensor.dimensions, kGgufDimensions));
    }
    tensor.shape.fill(1);
    for (std::uint32_t i = 0; i < tensor.dimensions; ++i) {
      if (!take_number(tensor.shape[i])) return false;
    }
    return take_number(tensor.type) && take_number(tensor.offset);
  }

  bool take(std::uint64_t bytes, std::span<const std::byte>& out) {
    if (bytes > file_bytes_ - at_) {
      return refuse(
          fmt::format("truncated or corrupt: {} takes {} bytes from byte {} on, but the "
                      "file ends at byte {}",
                      place(), bytes, at_, file_bytes_));
    }
    const std::uint64_t end = at_ + bytes;
    if (end > kMostGgufBytes) {
      return refuse(
          fmt::format("more than {} MiB of metadata, as far as {}", kMostGgufBytes >> 20, place()));
    }
    if (end > head_.size()) {
      stop_ = GgufNeedsMore{end};
      return false;
    }
    out = head_.subspan(at_, bytes);
    at_ = end;
    return true;
  }

  template <typename T>
  bool take_number(T& out) {
    std::span<const std::byte> bytes;
    if (!take(sizeof(T), bytes)) return false;
    out = little_endian<T>(bytes);
    return true;
  }

  bool take_text(std::string_view& out, std::uint64_t most, std::string_view what) {
    std::uint64_t length = 0;
    if (!take_number(length)) return false;
    if (length > most) {
      return refuse(fmt::format("{}: a {} of {} bytes; at most {} are possible", place(), what,
                                length, most));
    }
    std::span<const std::byte> bytes;
    if (!take(length, bytes)) return false;
    out = as_text(bytes);
    return true;
  }

  bool take_type(GgufType& out) {
    std::uint32_t number = 0;
    if (!take_number(number)) return false;
    if (number >= kTypes) {
      return refuse(
          fmt::format("{} has value type {}; there are 0 to {}", place(), number, kTypes - 1));
    }
    out = static_cast<GgufType>(number);
    return true;
  }

  [[nodiscard]] std::string place() const {
    std::string text = fmt::format("{} {} of {}", part_, number_, of_);
    if (!name_.empty()) text += fmt::format(" (\"{}\")", printable(name_));
    return text;
  }

  bool refuse(std::string reason) {
    stop_ = make_error(Code::kInvalidArgument, std::move(reason));
    return false;
  }

  const std::span<const std::byte> head_;
  const std::uint64_t file_bytes_;
  std::uint64_t at_ = 0;  // never beyond head_ nor file_bytes_
  GgufMetadata result_;
  std::variant<GgufNeedsMore, Error> stop_;
  // For place().
  std::string_view part_;
  std::uint64_t number_ = 0;
  std::uint64_t of_ = 0;
  std::string_view name_;
};

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  const int fd_;
};

FileIdentity identity_of(const struct stat& status) {
  constexpr std::int64_t kNanoseconds = 1'000'000'000;
  return {status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size),
          status.st_mtim.tv_sec * kNanoseconds + status.st_mtim.tv_nsec};
}

/// Makes `head` longer, up to `wanted` bytes of the file. What is missing, somebody has cut off.
Status read_up_to(const File& file, std::uint64_t wanted, std::vector<std::byte>& head) {
  std::size_t have = head.size();
  head.resize(wanted);
  while (have < wanted) {
    const ssize_t got =
        ::pread(file.get(), head.data() + have, wanted - have, static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error(errno, "read");
    if (got == 0) {
      return make_error(Code::kInvalidArgument,
                        fmt::format("the file was cut to {} bytes while it was read", have));
    }
    have += static_cast<std::size_t>(got);
  }
  return {};
}

}  // namespace

std::string_view to_string(GgufType type) { return kTypeNames[static_cast<std::size_t>(type)]; }

std::optional<std::string_view> GgufEntry::text() const {
  if (type != GgufType::kString) return std::nullopt;
  return as_text(value);
}

std::optional<std::uint32_t> GgufEntry::uint32() const {
  if (type != GgufType::kUint32) return std::nullopt;
  return little_endian<std::uint32_t>(value);
}

std::optional<std::string_view> GgufStrings::next() {
  if (left_.empty()) return std::nullopt;
  const auto length = static_cast<std::size_t>(little_endian<std::uint64_t>(left_));
  const std::string_view text = as_text(left_.subspan(kLengthBytes, length));
  left_ = left_.subspan(kLengthBytes + length);
  return text;
}

const GgufEntry* GgufMetadata::find(std::string_view key) const {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const GgufEntry& entry) { return entry.key == key; });
  return found == entries.end() ? nullptr : &*found;
}

std::variant<GgufMetadata, GgufNeedsMore, Error> parse_gguf(std::span<const std::byte> head,
                                                            std::uint64_t file_bytes) {
  return Parser(head, file_bytes).parse();
}

std::optional<FileIdentity> file_identity(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return identity_of(status);
}

Result<GgufHead> read_gguf_head(const std::string& path) {
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return os_error(errno, path);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return os_error(errno, path);
  if (!S_ISREG(status.st_mode)) {
    return make_error(Code::kInvalidArgument, path + ": not a regular file");
  }
  GgufHead result;
  result.identity = identity_of(status);
  const std::uint64_t file_bytes = result.identity.bytes;
  std::uint64_t wanted = std::min(file_bytes, kFirstReadBytes);
  for (;;) {
    if (Status read = read_up_to(file, wanted, result.bytes); !read) {
      return std::move(read).error().context(path);
    }
    auto parsed = parse_gguf(result.bytes, file_bytes);
    if (auto* metadata = std::get_if<GgufMetadata>(&parsed)) {
      result.metadata = std::move(*metadata);
      return result;
    }
    if (auto* error = std::get_if<Error>(&parsed)) return std::move(*error).context(path);
    // By the factor, the pieces parsed again add up to a third of the whole at most.
    wanted = std::min(file_bytes, std::max(std::get<GgufNeedsMore>(parsed).bytes,
                                           std::min(wanted * 4, kMostGgufBytes)));
  }
}

}  // namespace weir::model
