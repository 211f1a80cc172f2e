// SPDX-License-Identifier: Apache-2.0
#include "agent/config/config_loader.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>

#include "agent/config/field_rules.h"
#include "agent/config/problems.h"
#include "agent/config/validate.h"
#include "agent/config/yaml_reader.h"

namespace weir::config {
namespace {

/// Twice what the largest configuration takes, of WEIR_MAX_BACKENDS backends at IPv6 addresses;
/// keeps a wrong path (a model, a device) from being read whole.
constexpr std::size_t kMaxFileBytes = 4U << 20;

Result<std::string> read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (!file) return os_error(errno, path);
  std::string text(kMaxFileBytes + 1, '\0');
  errno = 0;
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) return os_error(errno, path);
  if (text.size() > kMaxFileBytes) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("{}: longer than {} bytes", path, kMaxFileBytes));
  }
  return text;
}

}  // namespace

Result<weir::v1::Config> load_config(const std::string& path) {
  auto text = read_file(path);
  if (!text) return std::move(text).error();
  return parse_config(*text, path);
}

Result<weir::v1::Config> parse_config(const std::string& text, const std::string& file) {
  weir::v1::Config config;
  SourceMap sources;
  Problems problems;
  read_yaml(text, config, sources, problems);
  validate(config, sources, problems);

  std::error_code error;
  const auto absolute = std::filesystem::absolute(file, error);
  if (error) return os_error(error.value(), file);
  resolve_model_paths(config, absolute.parent_path().string(), sources, problems);

  if (!problems.empty()) return problems.to_error(file);
  fill_defaults(config);
  return config;
}

}  // namespace weir::config
