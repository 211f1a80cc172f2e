// SPDX-License-Identifier: Apache-2.0
//
// The `weir` command: looks into the pinned maps, with or without a running agent. Exit status: 0
// done, 1 failed, 2 used wrongly.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>

#include "agent/base/build_info.h"
#include "agent/ctl/backends.h"
#include "agent/ctl/detach.h"
#include "agent/ctl/status.h"

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

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Looks at what weir-agent has put into the kernel, and takes it out again.", "weir"};
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
  app.add_subcommand("detach", "Remove what a stopped agent left behind");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsedWrongly;
  }

  if (app.get_subcommands().empty()) {
    std::fputs(
        "A subcommand is required: status, backends or detach\n"
        "Run with --help for more information.\n",
        stderr);
    return kUsedWrongly;
  }

  auto output = status->parsed()     ? weir::ctl::status_command(pin_root, json)
                : backends->parsed() ? weir::ctl::backends_command(pin_root, json)
                                     : weir::ctl::detach_command(pin_root);
  if (!output) {
    std::fprintf(stderr, "weir: %s%s\n", output.error().message.c_str(),
                 advice(output.error()).data());
    return kFailed;
  }
  // A full disk behind the pipe must not look like success.
  if (std::fwrite(output->data(), 1, output->size(), stdout) != output->size() ||
      std::fflush(stdout) != 0) {
    std::perror("weir: cannot write the output");
    return kFailed;
  }
  return 0;
}
