// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

namespace weir::replay {
namespace {

constexpr std::uint32_t kMaxTokens = 16 * 1024 * 1024;
constexpr std::size_t kMaxNameBytes = 64;  // of a tenant, in the agent's configuration
constexpr double kMaxShare = 1e6;
constexpr std::uint32_t kMaxDeadlineMs = 24 * 60 * 60 * 1000;  // the agent's own bound
constexpr std::uint32_t kMaxConnections = 60000;  // ports of one address towards one listener

Error wrong(std::string_view option, std::string_view text, std::string_view right) {
  return make_error(Code::kInvalidArgument,
                    fmt::format("{} \"{}\": must be {}", option, text, right));
}

template <typename Number>
std::optional<Number> number(std::string_view text) {
  Number value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || status != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

std::optional<double> share_of(std::string_view text) {
  const auto share = number<double>(text);
  // Written so that NaN fails.
  if (!share || !(*share > 0) || !(*share <= kMaxShare)) return std::nullopt;
  return share;
}

std::optional<Duration> duration_of(std::string_view text) {
  double unit_ns = 0;
  for (const auto& [suffix, ns] :
       {std::pair<std::string_view, double>{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}}) {
    if (!text.ends_with(suffix)) continue;
    text.remove_suffix(suffix.size());
    unit_ns = ns;
    break;
  }
  const auto value = number<double>(text);
  if (unit_ns == 0 || !value || !(*value > 0) || !(*value * unit_ns < 1e15)) return std::nullopt;
  return Duration(static_cast<Duration::rep>(*value * unit_ns));
}

bool token_character(char c) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";  // RFC 9110, 5.6.2
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         kMarks.find(c) != std::string_view::npos;
}

template <typename Named>
Status check_names(std::string_view option, const std::vector<Named>& all) {
  std::set<std::string_view> seen;
  for (const Named& one : all) {
    if (!seen.insert(one.name).second) return wrong(option, one.name, "given once");
  }
  return {};
}

}  // namespace

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

Result<Target> parse_target(std::string_view text) {
  constexpr std::string_view kScheme = "http://";
  constexpr std::string_view kRight = "http://HOST[:PORT][/PATH]";
  std::string_view rest = text;
  if (rest.starts_with(kScheme)) {
    rest.remove_prefix(kScheme.size());
  } else if (rest.find("://") != std::string_view::npos) {
    return wrong("--target", text, fmt::format("{}; TLS is not spoken", kRight));
  }
  Target target;
  const std::size_t slash = rest.find('/');
  if (slash != std::string_view::npos && slash + 1 < rest.size()) target.path = rest.substr(slash);
  const std::string_view authority = rest.substr(0, slash);
  const auto graphic = [](char c) { return c > ' ' && c <= '~'; };
  if (!std::all_of(rest.begin(), rest.end(), graphic)) return wrong("--target", text, kRight);
  std::string_view host = authority;
  std::optional<std::string_view> port;
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    if (end == std::string_view::npos) return wrong("--target", text, "http://[IPv6]:PORT");
    host = authority.substr(1, end - 1);
    if (end + 1 < authority.size()) {
      if (authority[end + 1] != ':') return wrong("--target", text, "http://[IPv6]:PORT");
      port = authority.substr(end + 2);
    }
  } else if (const std::size_t colon = authority.find(':'); colon != std::string_view::npos) {
    host = authority.substr(0, colon);
    port = authority.substr(colon + 1);
    if (port->find(':') != std::string_view::npos) {
      return wrong("--target", text, "http://[IPv6]:PORT, with brackets");
    }
  }
  // "http//a", "http:/a": the name of no host.
  if (host.empty() || host == "http" || host == "https") return wrong("--target", text, kRight);
  if (port) {
    const auto value = number<std::uint16_t>(*port);
    if (!value || *value == 0) return wrong("--target", text, "one with a port of 1..65535");
    target.port = *value;
    target.names_port = true;
  }
  target.host = host;
  target.authority = authority;
  return target;
}

Result<RequestClass> parse_class(std::string_view text) {
  constexpr std::string_view kRight =
      "NAME:SHARE:PRIORITY[:DEADLINE_MS]: a name of 1..64 letters, digits, '.', '_' or '-', a "
      "share "
      "above 0, a priority of 0 (most urgent) to 7, a deadline of 1..86400000 ms";
  const auto parts = split(text, ':');
  if (parts.size() < 3 || parts.size() > 4) return wrong("--class", text, kRight);
  const auto share = share_of(parts[1]);
  const auto priority = number<std::int32_t>(parts[2]);
  if (!is_plain_name(parts[0]) || !share || !priority || *priority < 0 ||
      *priority >= schedule::kLevels) {
    return wrong("--class", text, kRight);
  }
  RequestClass made{std::string(parts[0]), *share, *priority, std::nullopt};
  if (parts.size() == 4) {
    const auto deadline = number<std::uint32_t>(parts[3]);
    if (!deadline || *deadline == 0 || *deadline > kMaxDeadlineMs) {
      return wrong("--class", text, kRight);
    }
    made.deadline = std::chrono::milliseconds(*deadline);
  }
  return made;
}

Result<Tenant> parse_tenant(std::string_view text) {
  const auto parts = split(text, ':');
  const auto share = parts.size() == 2 ? share_of(parts[1]) : std::nullopt;
  if (!share || !is_plain_name(parts[0])) {
    return wrong("--tenant", text,
                 "NAME:SHARE: a name of 1..64 letters, digits, '.', '_' or '-', a share above 0");
  }
  return Tenant{std::string(parts[0]), *share};
}

Result<Objective> parse_objective(std::string_view text) {
  constexpr std::string_view kRight =
      "of ttft=TIME,itl=TIME,e2e=TIME, each at most once, with TIMEs like 200ms, 1.5s or 800us";
  Objective objective;
  for (const std::string_view part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) return wrong("--slo", text, kRight);
    const std::string_view name = part.substr(0, equals);
    std::optional<Duration>* const bound = name == "ttft"  ? &objective.ttft
                                           : name == "itl" ? &objective.itl
                                           : name == "e2e" ? &objective.e2e
                                                           : nullptr;
    const auto value = duration_of(part.substr(equals + 1));
    if (bound == nullptr || bound->has_value() || !value) return wrong("--slo", text, kRight);
    *bound = value;
  }
  return objective;
}

Result<LengthRange> parse_length(std::string_view text) {
  const std::size_t dash = text.find('-');
  const auto min = number<std::uint32_t>(text.substr(0, dash));
  const auto max =
      dash == std::string_view::npos ? min : number<std::uint32_t>(text.substr(dash + 1));
  if (!min || !max || *min == 0 || *max < *min || *max > kMaxTokens) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("\"{}\": must be a number of tokens, N or MIN-MAX, of 1..{}",
                                  text, kMaxTokens));
  }
  return LengthRange{*min, *max};
}

Result<std::pair<std::string, std::string>> parse_header(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  std::string_view value = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  while (value.starts_with(' ')) value.remove_prefix(1);
  const bool valid = colon != std::string_view::npos && !name.empty() &&
                     std::all_of(name.begin(), name.end(), token_character) &&
                     value.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos;
  if (!valid) return wrong("--header", text, "\"Name: value\" on one line");
  return std::pair(std::string(name), std::string(value));
}

Status Options::complete() {
  const int loads = (trace.empty() ? 0 : 1) + (poisson_per_s ? 1 : 0) + (concurrency ? 1 : 0);
  if (loads != 1) {
    return make_error(Code::kInvalidArgument,
                      "exactly one of --trace, --poisson and --closed says what to send");
  }
  if (trace.empty() && !duration_s && !limit) duration_s = 10;
  if (duration_s && warmup_s >= *duration_s) {
    return make_error(
        Code::kInvalidArgument,
        fmt::format("--warmup {:g} s must be less than --duration {:g} s", warmup_s, *duration_s));
  }
  if (stream && api == Api::kInfer) {
    return make_error(Code::kInvalidArgument,
                      "/infer does not stream: use --api completions or --no-stream");
  }
  if (connections == 0 || connections > kMaxConnections) {
    return wrong("--connections", std::to_string(connections),
                 fmt::format("1..{}", kMaxConnections));
  }
  if (max_inflight == 0) return wrong("--max-inflight", "0", "1 or more");
  if (concurrency && (*concurrency == 0 || *concurrency > connections)) {
    return wrong("--closed", std::to_string(*concurrency),
                 fmt::format("1..{}, which is --connections", connections));
  }
  if (concurrency) max_inflight = std::max(max_inflight, *concurrency);
  if (classes.empty()) classes.emplace_back();
  if (tenants.empty()) tenants.push_back({});
  if (Status checked = check_names("--class", classes); !checked) return checked;
  return check_names("--tenant", tenants);
}

}  // namespace weir::replay
