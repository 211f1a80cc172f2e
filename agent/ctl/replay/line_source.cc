// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/line_source.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <vector>

namespace weir::replay {
namespace {

constexpr unsigned kChunkBytes = 128 * 1024;

std::string_view without_end(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

class TextLines final : public LineSource {
 public:
  explicit TextLines(std::string_view text) : rest_(text) {}

  Result<std::optional<std::string_view>> next() override {
    if (rest_.empty()) return std::optional<std::string_view>();
    const std::size_t end = rest_.find('\n');
    const std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    if (line.size() > kMaxLineBytes) {
      return make_error(Code::kInvalidArgument, "a line is longer than 1 MiB");
    }
    return std::optional(without_end(line));
  }

 private:
  std::string_view rest_;
};

/// zlib reads a file that is not compressed as it is.
class FileLines final : public LineSource {
 public:
  FileLines(gzFile file, std::string name)
      : file_(file), name_(std::move(name)), buffer_(kChunkBytes) {}
  ~FileLines() override { gzclose_r(file_); }
  FileLines(const FileLines&) = delete;
  FileLines& operator=(const FileLines&) = delete;

  Result<std::optional<std::string_view>> next() override {
    line_.clear();
    for (;;) {
      const std::size_t end = rest_.find('\n');
      line_.append(rest_.substr(0, end));
      if (line_.size() > kMaxLineBytes) {
        return make_error(Code::kInvalidArgument, name_ + ": a line is longer than 1 MiB");
      }
      if (end != std::string_view::npos) {
        rest_.remove_prefix(end + 1);
        return std::optional(without_end(line_));
      }
      const int got = gzread(file_, buffer_.data(), kChunkBytes);
      int failure = Z_OK;
      const char* const why = gzerror(file_, &failure);
      if (failure == Z_BUF_ERROR) {
        return make_error(Code::kInvalidArgument,
                          name_ + ": the compressed data end too early; the file was cut off");
      }
      if (failure == Z_ERRNO) return os_error(errno, "reading " + name_);
      if (got < 0 || failure != Z_OK) {
        return make_error(Code::kInvalidArgument,
                          fmt::format("{}: damaged gzip data ({})", name_, why));
      }
      if (got == 0) {
        rest_ = {};
        if (line_.empty()) return std::optional<std::string_view>();
        return std::optional(without_end(line_));
      }
      rest_ = {buffer_.data(), static_cast<std::size_t>(got)};
    }
  }

 private:
  const gzFile file_;
  const std::string name_;
  std::vector<char> buffer_;
  std::string_view rest_;
  std::string line_;
};

}  // namespace

Result<std::unique_ptr<LineSource>> open_lines(const std::string& path) {
  const bool standard_input = path == "-";
  struct stat status {};
  if (!standard_input && ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
    return make_error(Code::kInvalidArgument, path + ": is a directory, and must be a trace file");
  }
  errno = 0;
  // gzopen leaves the descriptor to its stream; a duplicate keeps the standard input open.
  const gzFile file =
      standard_input ? gzdopen(::dup(STDIN_FILENO), "rb") : gzopen(path.c_str(), "rbe");
  if (file == nullptr) return os_error(errno == 0 ? ENOMEM : errno, "opening " + path);
  gzbuffer(file, kChunkBytes);
  return std::unique_ptr<LineSource>(
      std::make_unique<FileLines>(file, standard_input ? "standard input" : path));
}

std::unique_ptr<LineSource> lines_of(std::string_view text) {
  return std::make_unique<TextLines>(text);
}

}  // namespace weir::replay
