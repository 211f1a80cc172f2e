// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/router.h"

#include <algorithm>
#include <optional>

namespace weir::serve {
namespace {

constexpr std::string_view kParameter = "{id}";

/// The parameter's value (empty for a fixed pattern), or unset when the path does not match.
std::optional<std::string_view> match(std::string_view pattern, std::string_view path) {
  const std::size_t at = pattern.find(kParameter);
  if (at == std::string_view::npos) {
    return pattern == path ? std::optional<std::string_view>("") : std::nullopt;
  }
  const std::string_view before = pattern.substr(0, at);
  const std::string_view behind = pattern.substr(at + kParameter.size());
  if (path.size() <= before.size() + behind.size() || !path.starts_with(before) ||
      !path.ends_with(behind)) {
    return std::nullopt;
  }
  const std::string_view value =
      path.substr(before.size(), path.size() - before.size() - behind.size());
  return value.find('/') == std::string_view::npos ? std::optional(value) : std::nullopt;
}

}  // namespace

void Router::add(std::string method, std::string pattern, Handler handler) {
  if (std::find(paths_.begin(), paths_.end(), pattern) == paths_.end()) paths_.push_back(pattern);
  routes_.push_back({std::move(method), std::move(pattern), std::move(handler)});
}

std::variant<Router::Match, Router::WrongMethod, Router::NoSuchPath> Router::find(
    std::string_view method, std::string_view path) const {
  std::optional<WrongMethod> wrong_method;
  for (const Route& route : routes_) {
    const auto parameter = match(route.pattern, path);
    if (!parameter.has_value()) continue;
    const auto path_index = static_cast<std::size_t>(
        std::find(paths_.begin(), paths_.end(), route.pattern) - paths_.begin());
    if (method == route.method || (method == "HEAD" && route.method == "GET")) {
      return Match{&route, path_index, *parameter};
    }
    if (!wrong_method.has_value()) wrong_method.emplace().path_index = path_index;
    std::string& allow = wrong_method->allow;
    if (!allow.empty()) allow += ", ";
    allow += route.method == "GET" ? "GET, HEAD" : route.method;
  }
  if (wrong_method.has_value()) return *std::move(wrong_method);
  return NoSuchPath{};
}

std::string Router::listing() const {
  std::string text;
  for (const Route& route : routes_) {
    if (!text.empty()) text += ", ";
    text += route.method + " " + route.pattern;
  }
  return text;
}

}  // namespace weir::serve
