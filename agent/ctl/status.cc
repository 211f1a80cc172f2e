// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/status.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <boost/json.hpp>
#include <system_error>

#include "agent/base/json_text.h"
#include "agent/ctl/text_table.h"
#include "agent/health/tracker.h"
#include "agent/kernel/names.h"
#include "agent/kernel/pin_dir.h"

namespace weir::ctl {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using kernel::Capability;

constexpr std::string_view kUnknown = "-";

std::string_view to_string(Capability::Use use) {
  switch (use) {
    case Capability::Use::kUsed:
      return "used";
    case Capability::Use::kFallback:
      return "fallback";
    case Capability::Use::kMissing:
      return "missing";
  }
  return "unknown";
}

bool has_inode(const fs::path& path, std::uint64_t id) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && info.st_ino == id;
}

std::string uptime_text(std::chrono::seconds uptime) {
  const auto total = uptime.count();
  if (total >= 86400) return fmt::format("{}d{:02}h", total / 86400, total / 3600 % 24);
  if (total >= 3600) return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
  if (total >= 60) return fmt::format("{}m{:02}s", total / 60, total % 60);
  return fmt::format("{}s", total);
}

Row service_row(const kernel::ServiceReading& service, bool panic) {
  return {service.name,
          service.is_backup() ? "-" : service.address.to_string(),
          std::string(kernel::to_string(service.policy)),
          std::to_string(service.members),
          std::to_string(service.open),
          panic ? "yes" : "no",
          fmt::format("{:.3g}", service.rif_limit),
          std::to_string(service.picks),
          std::to_string(service.misses)};
}

json::object service_json(const kernel::ServiceReading& service, bool panic) {
  return {{"name", service.name},
          {"address",
           service.is_backup() ? json::value(nullptr) : json::value(service.address.to_string())},
          {"policy", kernel::to_string(service.policy)},
          {"backends", service.members},
          {"open", service.open},
          {"panic", panic},
          {"rif_limit", service.rif_limit},
          {"picks", service.picks},
          {"misses", service.misses}};
}

template <typename T>
json::value or_null(const std::optional<T>& value) {
  return value ? json::value(*value) : json::value(nullptr);
}

}  // namespace

std::optional<std::string> find_cgroup(const fs::path& root, std::uint64_t id) {
  if (has_inode(root, id)) return root.string();
  std::error_code error;
  fs::recursive_directory_iterator entry(root, fs::directory_options::skip_permission_denied,
                                         error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code gone;  // cgroups come and go while we look
    if (entry->is_directory(gone) && has_inode(entry->path(), id)) return entry->path().string();
  }
  return std::nullopt;
}

void describe_meta(const weir_meta& meta, TimePoint now, const AgentStatus& agent,
                   StatusReport& report) {
  report.state = agent.state;
  report.pid = agent.pid;
  if (report.state == AgentState::kRunning) {
    report.uptime =
        std::chrono::duration_cast<std::chrono::seconds>(now - from_kernel_ns(meta.agent_start_ns));
  }
  const std::string_view build_id(meta.build_id, sizeof meta.build_id);
  report.build_id = std::string(build_id.substr(0, build_id.find('\0')));
  report.request_clock = static_cast<weir_request_clock>(meta.request_clock);
  report.abi_version = meta.abi_version;
}

std::string to_text(const StatusReport& report) {
  std::string agent(to_string(report.state));
  if (report.pid) agent += fmt::format(", pid {}", *report.pid);
  if (report.uptime) agent += fmt::format(", up {}", uptime_text(*report.uptime));
  if (report.state == AgentState::kDead) agent += " (the kernel steers on the last weights)";
  std::string out = format_table(
      {{"agent", agent},
       {"build", report.build_id.value_or(std::string(kUnknown))},
       {"abi", std::to_string(report.abi_version)},
       {"cgroup", report.cgroup.value_or(std::string(kUnknown))},
       {"request clock",
        std::string(report.request_clock ? kernel::to_string(*report.request_clock) : kUnknown)}},
      2);

  if (!report.services.empty()) {
    std::vector<Row> services = {{"SERVICE", "ADDRESS", "POLICY", "BACKENDS", "OPEN", "PANIC",
                                  "HOT ABOVE", "PICKS", "MISSES"}};
    for (const auto& service : report.services) {
      services.push_back(service_row(service, health::in_panic(service, report.services)));
    }
    out += '\n' + format_table(services, 3);
  }

  std::vector<Row> capabilities = {{"CAPABILITY", "USE", "REQUIRED", "LINUX", "DETAIL"}};
  for (const auto& capability : report.capabilities) {
    capabilities.push_back({capability.name, std::string(to_string(capability.use)),
                            capability.required ? "yes" : "no",
                            capability.since.empty() ? std::string(kUnknown) : capability.since,
                            capability.detail});
  }
  out += '\n' + format_table(capabilities, 5);

  if (!report.foreign.empty()) {
    std::vector<Row> foreign = {{"FOREIGN PROGRAM", "ATTACHED TO", "CGROUP", "TAG", "PROGRAM ID"}};
    for (const auto& program : report.foreign) {
      foreign.push_back({program.name, program.attach_type,
                         fmt::format("{} ({})", program.cgroup.empty() ? "-" : program.cgroup,
                                     kernel::to_string(program.where)),
                         program.tag, std::to_string(program.program_id)});
    }
    out += '\n' + format_table(foreign, 4);
  }

  if (report.links.empty()) return out + "\nnothing is attached\n";
  std::vector<Row> links = {{"PROGRAM", "ATTACHED TO", "LINK", "PROGRAM ID"}};
  for (const auto& link : report.links) {
    links.push_back({link.name, link.attach_type, std::to_string(link.link_id),
                     std::to_string(link.program_id)});
  }
  return out + '\n' + format_table(links, 2);
}

std::string to_json(const StatusReport& report) {
  json::array capabilities;
  for (const auto& capability : report.capabilities) {
    capabilities.push_back({{"name", capability.name},
                            {"use", to_string(capability.use)},
                            {"required", capability.required},
                            {"since_linux", capability.since},
                            {"detail", capability.detail}});
  }
  json::array foreign;
  for (const auto& program : report.foreign) {
    foreign.push_back(
        {{"name", program.name},
         {"attach_type", program.attach_type},
         {"program_id", program.program_id},
         {"tag", program.tag},
         {"cgroup", program.cgroup.empty() ? json::value(nullptr) : json::value(program.cgroup)},
         {"where", kernel::to_string(program.where)},
         {"is_weir", program.is_weir}});
  }
  json::array links;
  for (const auto& link : report.links) {
    links.push_back({{"name", link.name},
                     {"link_id", link.link_id},
                     {"program_id", link.program_id},
                     {"attach_type", link.attach_type}});
  }
  json::array services;
  for (const auto& service : report.services) {
    services.push_back(service_json(service, health::in_panic(service, report.services)));
  }
  const auto uptime = report.uptime ? std::optional(report.uptime->count()) : std::nullopt;
  const auto clock = report.request_clock ? std::optional(kernel::to_string(*report.request_clock))
                                          : std::optional<std::string_view>();
  const json::object object = {{"agent",
                                {{"state", to_string(report.state)},
                                 {"pid", or_null(report.pid)},
                                 {"uptime_seconds", or_null(uptime)},
                                 {"build_id", or_null(report.build_id)}}},
                               {"abi_version", report.abi_version},
                               {"cgroup", or_null(report.cgroup)},
                               {"request_clock", or_null(clock)},
                               {"services", std::move(services)},
                               {"capabilities", std::move(capabilities)},
                               {"foreign_programs", std::move(foreign)},
                               {"links", std::move(links)}};
  return to_json_text(object) + "\n";
}

Result<std::string> status_command(const std::string& pin_root, bool json) {
  StatusReport report;
  auto capabilities = kernel::probe_capabilities();
  if (!capabilities) return std::move(capabilities).error().context("probing this kernel");
  report.capabilities = std::move(*capabilities);

  auto reader = kernel::open_pinned(pin_root);
  if (!reader && reader.error().code != Code::kNotFound) return std::move(reader).error();
  if (reader) {
    auto snapshot = (*reader)->read_gauges();
    if (!snapshot) return std::move(snapshot).error();
    report.services = snapshot->services;
    const TimePoint now = SteadyClock().now();
    describe_meta(snapshot->meta, now,
                  agent_status(snapshot->meta, now, kernel::version_path(pin_root)), report);
    if (const auto root = kernel::find_cgroup2_root()) {
      report.cgroup = find_cgroup(*root, snapshot->meta.cgroup_id);
    }
    auto links = kernel::pinned_links(pin_root);
    if (!links) return std::move(links).error();
    report.links = std::move(*links);
    if (report.cgroup) {
      std::vector<std::uint32_t> own;
      for (const auto& link : report.links) own.push_back(link.program_id);
      auto foreign = kernel::foreign_programs(*report.cgroup, own);
      if (!foreign) return std::move(foreign).error();
      report.foreign = std::move(*foreign);
      report.capabilities.push_back(kernel::describe_hooks(report.foreign));
    }
  }
  return json ? to_json(report) : to_text(report);
}

}  // namespace weir::ctl
