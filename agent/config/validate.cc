// SPDX-License-Identifier: Apache-2.0
#include "agent/config/validate.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include "agent/base/endpoint.h"
#include "agent/config/batch_rules.h"
#include "agent/config/field_rules.h"
#include "weir/abi.h"

namespace weir::config {
namespace {

constexpr std::string_view kLowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789-";
constexpr std::string_view kModelNameChars =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
constexpr std::size_t kModelNameMax = 128;
constexpr std::size_t kTenantNameMax = 64;
constexpr std::size_t kHeaderNameMax = 64;
/// tchar of RFC 9110, section 5.6.2.
constexpr std::string_view kTokenChars =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+.^_`|~-";
/// The backup pool of a service is called NAME.backup (agent/kernel), and its name is as bounded.
constexpr std::size_t kNameMaxWithBackup = WEIR_NAME_LEN - 1 - std::string_view(".backup").size();

/// Another field of a request, of today or of tomorrow, cannot be its tenant too.
bool has_reserved_name(std::string_view header) {
  std::string lower(header);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return lower.starts_with("x-weir-") && lower != "x-weir-tenant";
}

constexpr std::array<std::string_view, 4> kSlaRoutes = {"/infer", "/v1/completions",
                                                        "/v1/embeddings", "/v1/rerank"};

class Validator {
 public:
  Validator(const SourceMap& sources, Problems& problems)
      : sources_(sources), problems_(problems) {}

  void check(const weir::v1::Config& config) {
    if (!config.serve().http().empty()) {
      http_ = endpoint("serve.http", config.serve().http(), /*allow_port_zero=*/true);
    }
    check_kernel(config.kernel());
    int pools = 0;
    int backends = 0;
    for (int i = 0; i < config.services_size(); ++i) {
      const auto& service = config.services(i);
      check_service(fmt::format("services[{}]", i), service);
      pools += service.backup_backends().empty() ? 1 : 2;
      backends += service.backends_size() + service.backup_backends_size();
    }
    if (pools > WEIR_MAX_POOLS) {
      problem("services", fmt::format("{} pools, backup pools included, are more than {}", pools,
                                      WEIR_MAX_POOLS));
    }
    if (backends > WEIR_MAX_BACKENDS) {
      problem("services",
              fmt::format("{} backends in all are more than {}", backends, WEIR_MAX_BACKENDS));
    }
    models_may_come_ = !config.registry().model_dir().empty();
    for (int i = 0; i < config.models_size(); ++i) {
      check_model(fmt::format("models[{}]", i), config.models(i));
    }
    check_admission(config.admission());
    for (int i = 0; i < config.sla_size(); ++i) {
      check_sla(fmt::format("sla[{}]", i), config.sla(i));
    }
    check_control(config.control());
    check_log(config.log());
  }

 private:
  void problem(const std::string& path, std::string text) {
    problems_.add(sources_.find(path), path, std::move(text));
  }

  std::optional<Endpoint> endpoint(const std::string& path, const std::string& text,
                                   bool allow_port_zero) {
    auto parsed = Endpoint::parse(text, allow_port_zero);
    if (parsed) return *parsed;
    problem(path, parsed.error().message);
    return std::nullopt;
  }

  void name(const std::string& path, const std::string& text, std::string_view chars,
            std::size_t max, std::string_view chars_shown) {
    if (text.empty()) {
      problem(path, "is missing");
    } else if (text.size() > max || text.find_first_not_of(chars) != std::string::npos) {
      problem(path,
              fmt::format("{} is not 1..{} characters of {}", in_quotes(text), max, chars_shown));
    }
  }

  /// Reports `key` as repeated when `first_at` has it already.
  template <typename Key>
  void unique(std::map<Key, std::string>& first_at, const Key& key, const std::string& path,
              const std::string& shown) {
    if (const auto [first, fresh] = first_at.emplace(key, path); !fresh) {
      problem(path, fmt::format("{} is used twice, first by {}", in_quotes(shown), first->second));
    }
  }

  void absolute_path(const std::string& path, const std::string& text) {
    if (!text.empty() && !text.starts_with('/')) {
      problem(path, in_quotes(text) + " is not an absolute path");
    }
  }

  void check_kernel(const weir::v1::Kernel& kernel) {
    absolute_path("kernel.cgroup", kernel.cgroup());
    absolute_path("kernel.pin_root", kernel.pin_root());
  }

  void check_service(const std::string& path, const weir::v1::Service& service) {
    const std::string name_path = path + ".name";
    name(name_path, service.name(), kLowerDigits, WEIR_NAME_LEN - 1, "[a-z0-9-]");
    if (!service.backup_backends().empty() && service.name().size() > kNameMaxWithBackup &&
        service.name().size() < WEIR_NAME_LEN) {
      problem(name_path, fmt::format("{} is longer than the {} characters that leave room for the "
                                     "name of its backup pool",
                                     in_quotes(service.name()), kNameMaxWithBackup));
    }
    if (!service.name().empty()) {
      unique(service_names_, service.name(), name_path, service.name());
    }
    std::optional<Endpoint> address;
    if (service.address().empty()) {
      problem(path + ".address", "is missing");
    } else if ((address = endpoint(path + ".address", service.address(), false))) {
      unique(service_addresses_, *address, path + ".address", service.address());
    }
    if (service.backends().empty()) {
      problem(path + ".backends",
              fmt::format("0 items are out of range (1..{})", WEIR_MAX_BACKENDS));
    }
    Members members{service.address(), address, {}, {}};
    check_backends(path + ".backends", service.backends(), members);
    check_backends(path + ".backup_backends", service.backup_backends(), members);
  }

  /// Of one service: its address, and where each backend was named first.
  struct Members {
    const std::string& service_text;
    std::optional<Endpoint> service;
    std::map<Endpoint, std::string> seen;
    std::string local;  ///< empty: none so far
  };

  void check_backends(const std::string& path,
                      const google::protobuf::RepeatedPtrField<weir::v1::Backend>& backends,
                      Members& members) {
    for (int i = 0; i < backends.size(); ++i) {
      const std::string backend_path = fmt::format("{}[{}]", path, i);
      if (backends[i].local()) {
        check_local(backend_path, backends[i], members);
      } else {
        check_remote(backend_path, backends[i], members);
      }
    }
  }

  void check_local(const std::string& path, const weir::v1::Backend& backend, Members& members) {
    if (!backend.address().empty()) {
      problem(path + ".address", "must be left out when local is true");
    }
    if (members.local.empty()) {
      members.local = path;
    } else {
      problem(path + ".local",
              fmt::format("only one backend of a service is local, here {}", members.local));
    }
    // The other way round works: an IPv6 socket reaches an IPv4 listener as ::ffff:a.b.c.d.
    if (members.service && members.service->is_v4() && http_ && !http_->is_v4()) {
      problem(path + ".local",
              fmt::format("serve.http {} is IPv6, which connections to the IPv4 service "
                          "address {} cannot reach",
                          in_quotes(http_->to_string()), in_quotes(members.service_text)));
    }
  }

  void check_remote(const std::string& path, const weir::v1::Backend& backend, Members& members) {
    const std::string address_path = path + ".address";
    if (backend.address().empty()) {
      problem(address_path, "is missing (or set local: true)");
      return;
    }
    const auto parsed = endpoint(address_path, backend.address(), false);
    if (!parsed) return;
    unique(members.seen, *parsed, address_path, backend.address());
    if (members.service && parsed->is_v4() != members.service->is_v4()) {
      problem(address_path,
              fmt::format("{} and the service address {} are not of one family: connect() "
                          "cannot turn IPv4 into IPv6 or back",
                          in_quotes(backend.address()), in_quotes(members.service_text)));
    }
  }

  void check_model(const std::string& path, const weir::v1::Model& model) {
    const std::string name_path = path + ".name";
    name(name_path, model.name(), kModelNameChars, kModelNameMax, "[A-Za-z0-9._-]");
    if (!model.name().empty()) unique(model_names_, model.name(), name_path, model.name());
    check_executor(path, model, [this](const std::string& at, std::string text) {
      problem(at, std::move(text));
    });
    check_queue(path + ".queue", model.queue());
  }

  void check_queue(const std::string& path, const weir::v1::Queue& queue) {
    std::map<std::uint32_t, std::string> levels;
    for (int i = 0; i < queue.levels_size(); ++i) {
      const weir::v1::QueueLevel& level = queue.levels(i);
      const std::string level_path = fmt::format("{}.levels[{}]", path, i);
      if (level.has_level()) {
        unique(levels, level.level(), level_path + ".level", std::to_string(level.level()));
      } else {
        problem(level_path + ".level", "is missing");
      }
      if (!level.has_max_requests() && !level.has_max_tokens()) {
        problem(level_path, "bounds nothing: max_requests or max_tokens is needed");
      }
    }
  }

  void check_admission(const weir::v1::Admission& admission) {
    const std::string& header = admission.tenant_header();
    if (header.size() > kHeaderNameMax || header.find_first_not_of(kTokenChars) != header.npos) {
      problem("admission.tenant_header",
              fmt::format("{} is not the name of a header: 1..{} characters of "
                          "[A-Za-z0-9!#$%&'*+.^_`|~-]",
                          in_quotes(header), kHeaderNameMax));
    } else if (has_reserved_name(header)) {
      problem("admission.tenant_header",
              fmt::format("{} is not free: of the names that begin with x-weir- only x-weir-tenant "
                          "names a tenant",
                          in_quotes(header)));
    }
    std::map<std::string, std::string> tenants;
    for (int i = 0; i < admission.tenants_size(); ++i) {
      const std::string path = fmt::format("admission.tenants[{}].name", i);
      const std::string& text = admission.tenants(i).name();
      name(path, text, kModelNameChars, kTenantNameMax, "[A-Za-z0-9._-]");
      if (!text.empty()) unique(tenants, text, path, text);
    }
    for (int i = 0; i < admission.rate_limits_size(); ++i) {
      check_rate_limit(fmt::format("admission.rate_limits[{}]", i), admission.rate_limits(i));
    }
  }

  /// Its tenant need not be configured: others have limits too.
  void check_rate_limit(const std::string& path, const weir::v1::RateLimit& limit) {
    if (!limit.tenant().empty()) {
      name(path + ".tenant", limit.tenant(), kModelNameChars, kTenantNameMax, "[A-Za-z0-9._-]");
    }
    if (!limit.model().empty() && !models_may_come_ && !model_names_.contains(limit.model())) {
      std::vector<std::string> known;
      for (const auto& [model, first_at] : model_names_) known.push_back(model);
      problem(path + ".model", fmt::format("there is no model {}{}", in_quotes(limit.model()),
                                           did_you_mean(limit.model(), known)));
    }
    if (!limit.has_requests_per_second() && !limit.has_tokens_per_second()) {
      problem(path, "limits nothing: requests_per_second or tokens_per_second is needed");
    }
    if (limit.has_requests_burst() && !limit.has_requests_per_second()) {
      problem(path + ".requests_burst", "needs requests_per_second");
    }
    if (limit.has_tokens_burst() && !limit.has_tokens_per_second()) {
      problem(path + ".tokens_burst", "needs tokens_per_second");
    }
  }

  void check_sla(const std::string& path, const weir::v1::SlaPolicy& policy) {
    const std::string& route = policy.route();
    if (const auto [first, fresh] = sla_routes_.emplace(route, path); !fresh) {
      problem(
          path + ".route",
          route.empty()
              ? fmt::format("is missing, as in {}: one policy has all other routes", first->second)
              : fmt::format("{} is used twice, first by {}", in_quotes(route), first->second));
    }
    const std::vector<std::string> routes(kSlaRoutes.begin(), kSlaRoutes.end());
    if (!route.empty() && std::find(routes.begin(), routes.end(), route) == routes.end()) {
      problem(path + ".route", fmt::format("{} is not one of {}{}", in_quotes(route),
                                           fmt::join(routes, ", "), did_you_mean(route, routes)));
    }
    check_backup_model(path + ".fast_fail.backup_model", policy.fast_fail().backup_model());
    weir::v1::Degrade degrade = policy.degrade();
    fill_defaults(degrade);
    if (degrade.enabled() && degrade.default_text().empty() &&
        (degrade.cache_entries() == 0 || degrade.cache_bytes() == 0)) {
      problem(path + ".degrade", "has nothing to answer with: no default_text, and no cache");
    }
  }

  void check_backup_model(const std::string& path, const std::string& model) {
    if (model.empty() || models_may_come_) return;
    if (!model_names_.contains(model)) {
      std::vector<std::string> known;
      for (const auto& [other, first_at] : model_names_) known.push_back(other);
      problem(path,
              fmt::format("there is no model {}{}", in_quotes(model), did_you_mean(model, known)));
    } else if (model_names_.size() == 1) {
      problem(path,
              fmt::format("{} is the only model: it cannot stand in for itself", in_quotes(model)));
    }
  }

  /// Works on the file's own values: an unset bound is its default.
  void check_control(weir::v1::Control control) {
    const bool names_max = control.has_max_open_ms();
    fill_defaults(control);
    if (control.max_open_ms() >= control.open_ms()) return;
    problem(names_max ? "control.max_open_ms" : "control.open_ms",
            fmt::format("max_open_ms ({}) is less than open_ms ({})", control.max_open_ms(),
                        control.open_ms()));
  }

  void check_log(const weir::v1::Log& log) {
    static const std::vector<std::string> kLevels = {"trace", "debug", "info", "warn", "error"};
    if (log.level().empty() ||
        std::find(kLevels.begin(), kLevels.end(), log.level()) != kLevels.end()) {
      return;
    }
    problem("log.level", fmt::format("{} is not one of {}{}", in_quotes(log.level()),
                                     fmt::join(kLevels, ", "), did_you_mean(log.level(), kLevels)));
  }

  const SourceMap& sources_;
  Problems& problems_;
  std::optional<Endpoint> http_;  ///< unset: the default, which is IPv4
  std::map<std::string, std::string> service_names_;
  std::map<Endpoint, std::string> service_addresses_;
  std::map<std::string, std::string> model_names_;
  bool models_may_come_ = false;  ///< from a folder, with any name
  std::map<std::string, std::string> sla_routes_;
};

}  // namespace

std::span<const std::string_view> sla_routes() { return kSlaRoutes; }

void validate(const weir::v1::Config& config, const SourceMap& sources, Problems& problems) {
  Validator(sources, problems).check(config);
}

namespace {

void resolve_model_dir(weir::v1::Config& config, const std::string& folder,
                       const SourceMap& sources, Problems& problems) {
  if (config.registry().model_dir().empty()) return;
  const std::string path = "registry.model_dir";
  const std::string directory =
      (std::filesystem::path(folder) / config.registry().model_dir()).lexically_normal().string();
  std::error_code error;
  std::string why;
  if (access(directory.c_str(), R_OK) != 0) {
    why = std::strerror(errno);
  } else if (!std::filesystem::is_directory(directory, error)) {
    why = "not a folder";
  } else if (access(directory.c_str(), X_OK) != 0) {
    why = std::strerror(errno);
  }
  if (!why.empty()) {
    problems.add(sources.find(path), path,
                 fmt::format("{} cannot be read: {}", in_quotes(directory), why));
    return;
  }
  config.mutable_registry()->set_model_dir(directory);
}

}  // namespace

void resolve_model_paths(weir::v1::Config& config, const std::string& folder,
                         const SourceMap& sources, Problems& problems) {
  for (int i = 0; i < config.models_size(); ++i) {
    auto& model = *config.mutable_models(i);
    if (model.path().empty()) continue;  // has no file, or reported by validate()
    const std::string path = fmt::format("models[{}].path", i);
    const std::string file =
        (std::filesystem::path(folder) / model.path()).lexically_normal().string();
    std::error_code status_error;
    const auto status = std::filesystem::status(file, status_error);
    std::string why;
    if (access(file.c_str(), R_OK) != 0) {
      why = std::strerror(errno);
    } else if (status_error || !std::filesystem::is_regular_file(status)) {
      why = "not a regular file";
    }
    if (!why.empty()) {
      problems.add(sources.find(path), path,
                   fmt::format("{} cannot be read: {}", in_quotes(file), why));
      continue;
    }
    model.set_path(file);
  }
  resolve_model_dir(config, folder, sources, problems);
}

}  // namespace weir::config
