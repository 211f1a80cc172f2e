// SPDX-License-Identifier: Apache-2.0
//
// The `weir` command: looks into the pinned maps, with or without a running agent, offers load to
// inference servers, and tries models out. Exit status: 0 done, 1 failed, 2 used wrongly, 130
// interrupted while it generated.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>

#include "agent/base/build_info.h"
#include "agent/ctl/backends.h"
#include "agent/ctl/bench_model.h"
#include "agent/ctl/detach.h"
#include "agent/ctl/events.h"
#include "agent/ctl/explain.h"
#include "agent/ctl/generate.h"
#include "agent/ctl/models.h"
#include "agent/ctl/replay/replay_command.h"
#include "agent/ctl/status.h"
#include "agent/ctl/usage.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsedWrongly = 2;

/// What the person who reads the message can do about it.
std::string_view advice(const weir::Error& error) {
  const int err = error.os_errno.value_or(0);
  if (error.code == weir::Code::kPermissionDenied || err == EPERM || err == EACCES) {
    return "\n  try again with sudo";
  }
  if (error.code == weir::Code::kNotFound) {
    return "\n  start weir-agent, or name its kernel.pin_root with --pin-root";
  }
  return "";
}

int report(const weir::Error& error) {
  std::fprintf(stderr, "weir: %s%s\n", error.message.c_str(), advice(error).data());
  return error.code == weir::Code::kInvalidArgument ? kUsedWrongly : kFailed;
}

int used_wrongly(const std::string& what) {
  std::fprintf(stderr, "weir: %s\n", what.c_str());
  return kUsedWrongly;
}

/// CLI::PositiveNumber names a limit of 309 digits.
const CLI::Validator kAtLeastOne(
    [](const std::string& text) {
      const bool zero = !text.empty() && text.find_first_not_of('0') == std::string::npos;
      return std::string(zero ? "must be 1 or more" : "");
    },
    "POSITIVE", "at least one");

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Looks at what weir-agent has put into the kernel, takes it out again, offers load, and "
      "tries models out.",
      "weir"};
  std::string pin_root = "/sys/fs/bpf/weir";
  bool json = false;
  app.add_option("--pin-root", pin_root, "Where the agent pins its maps (kernel.pin_root)")
      ->capture_default_str();
  app.set_version_flag("--version", "weir " + std::string(weir::build_id()));
  app.require_subcommand(0, 1);  // 1 would hide a mistyped command behind "is required"
  app.fallthrough();

  auto* const status = app.add_subcommand("status", "Agent, kernel features, attached programs");
  status->add_flag("--json", json, "Print JSON");
  auto* const backends =
      app.add_subcommand("backends", "What was measured, where it sends traffic");
  backends->add_flag("--json", json, "Print JSON");
  weir::ctl::EventsOptions events_options;
  auto* const events = app.add_subcommand(
      "events", "Connections that end or fail, breakers, requests, as it happens");
  events->add_flag("--json", json, "Print JSON, one object per line");
  events->add_option("--count", events_options.count, "Stop after so many")->check(kAtLeastOne);
  events->add_option("--kind", events_options.kinds,
                     "Only these, of close,failure,breaker,request; default: all but request");
  events->add_option("--service", events_options.service, "Only of this service");
  events->add_flag("--requests", events_options.requests, "Requests, too");
  events->footer(std::string(weir::ctl::events_help()));
  weir::ctl::ExplainOptions explain_options;
  auto* const explain = app.add_subcommand("explain", "Why connections went where they went");
  explain->add_option("SERVICE", explain_options.service, "Name of the service")->required();
  explain->add_option("--count", explain_options.count, "Stop after so many picks")
      ->check(kAtLeastOne)
      ->capture_default_str();
  explain->add_option("--one-in", explain_options.one_in, "Explain one of so many, at random")
      ->check(kAtLeastOne)
      ->capture_default_str();
  explain->add_flag("--json", json, "Print JSON, one object per line");
  explain->footer(std::string(weir::ctl::explain_help()));
  weir::replay::ReplayCommand replay(app);
  weir::ctl::GenerateCommand generate(app);
  weir::ctl::BenchModelCommand bench_model(app);
  weir::ctl::ModelsCommand models(app);
  app.add_subcommand("detach", "Remove what a stopped agent left behind");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return used_wrongly(weir::ctl::usage_problem(app, error, argc, argv));
  }
  if (app.get_subcommands().empty()) {
    return used_wrongly(
        "a subcommand is required: status, backends, events, explain, models, replay, generate, "
        "bench-model or detach\nRun weir --help for more information.");
  }

  // The engine's log is the agent's; what goes wrong here is reported.
  spdlog::set_level(spdlog::level::off);
  if (replay.parsed()) {
    const weir::Status ended = replay.run();
    return ended ? 0 : report(ended.error());
  }
  if (generate.parsed()) {
    const weir::Result<int> ended = generate.run();
    return ended ? *ended : report(ended.error());
  }
  if (events->parsed() || explain->parsed()) {
    events_options.json = explain_options.json = json;
    const weir::Status ended = events->parsed()
                                   ? weir::ctl::events_command(pin_root, events_options)
                                   : weir::ctl::explain_command(pin_root, explain_options);
    return ended ? 0 : report(ended.error());
  }

  auto output = status->parsed()       ? weir::ctl::status_command(pin_root, json)
                : backends->parsed()   ? weir::ctl::backends_command(pin_root, json)
                : models.parsed()      ? models.run()
                : bench_model.parsed() ? bench_model.run()
                                       : weir::ctl::detach_command(pin_root);
  if (!output) return report(output.error());
  // A full disk behind the pipe must not look like success.
  if (std::fwrite(output->data(), 1, output->size(), stdout) != output->size() ||
      std::fflush(stdout) != 0) {
    std::perror("weir: cannot write the output");
    return kFailed;
  }
  return 0;
}
