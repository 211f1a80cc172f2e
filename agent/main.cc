// SPDX-License-Identifier: Apache-2.0
//
// weir-agent: the daemon. Reads its configuration, starts the Agent, waits for a signal.

#include <pthread.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "agent/agent.h"
#include "agent/base/build_info.h"
#include "agent/config/config_loader.h"
#include "agent/ctl/usage.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

/// One line per event on stderr: time (UTC), level, what, then key=value fields.
void start_logging() {
  auto logger = spdlog::stderr_logger_mt("weir-agent");
  logger->set_pattern("ts=%Y-%m-%dT%H:%M:%S.%eZ level=%l %v", spdlog::pattern_time_type::utc);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

/// Blocks the signals that the agent acts on, in this thread and all that it will start, so that
/// sigwait() alone receives them.
sigset_t block_ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A client that closes while we write is an error code, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

/// The signal that ends the agent; 0 when it has handed over to another one.
int wait_for_end(weir::Agent& agent, const sigset_t& signals) {
  constexpr timespec kPoll{0, std::chrono::nanoseconds(weir::Agent::kHandOverPoll).count()};
  for (;;) {
    const int signal = sigtimedwait(&signals, nullptr, &kPoll);
    if (signal == SIGHUP) {
      spdlog::info("signal received signal=SIGHUP");
      agent.reload_models();
      continue;
    }
    if (signal > 0) return signal;
    if (agent.hand_over_if_asked()) return 0;
  }
}

/// Whether one of them came that ends the agent; it stays to be received.
bool ending_signal_pending() {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
}

/// What the operator may not know to do about it.
std::string_view advice(const weir::Error& error, bool take_over) {
  if (error.os_errno == EADDRINUSE && !take_over) {
    return "; if another weir-agent has it, --takeover takes port and steering over from that one";
  }
  if (error.code == weir::Code::kPermissionDenied) {
    return "; with kernel.enabled: false the agent only serves its models, as any user";
  }
  return "";
}

int run(const weir::v1::Config& config, bool take_over) {
  const sigset_t signals = block_ending_signals();
  auto agent = weir::Agent::start(config, take_over, ending_signal_pending);
  if (!agent) {
    spdlog::error("start failed error=\"{}{}\"", agent.error().message,
                  advice(agent.error(), take_over));
    return kFailed;
  }
  const int signal = wait_for_end(**agent, signals);
  if (signal == 0) return 0;
  spdlog::info("signal received signal={}", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  if (auto stopped = (*agent)->shutdown(); !stopped) {
    spdlog::error("shutdown failed error=\"{}\"", stopped.error().message);
    return kFailed;
  }
  return 0;
}

int used_wrongly(const std::string& what) {
  std::fprintf(stderr, "weir-agent: %s\n", what.c_str());
  return kUsage;
}

/// Valid, as every field has a default, but most likely not what was meant.
const char* remark(const weir::v1::Config& config) {
  if (config.services_size() > 0 && !config.kernel().enabled()) {
    return ", but with kernel.enabled: false no connection to its services is steered";
  }
  return config.services_size() == 0 && config.models_size() == 0 &&
                 config.registry().model_dir().empty()
             ? ", but without services and models: nothing to steer, nothing to serve"
             : "";
}

}  // namespace

int main(int argc, char** argv) {
  // On a failed assertion ggml would run a debugger on this process; an abort leaves a core, too,
  // and at once.
  setenv("GGML_NO_BACKTRACE", "1", /*overwrite=*/0);
  CLI::App app{
      "weir-agent: measures and steers inference connections in the kernel, serves GGUF models.\n"
      "Runs in the foreground until SIGTERM or Ctrl-C, then finishes running requests and "
      "detaches;\nor until another one takes over (--takeover), then finishes running requests.\n"
      "SIGHUP: looks for models in registry.model_dir, and replaces loaded ones whose file has "
      "been.",
      "weir-agent"};
  std::string config_path;
  bool check_only = false;
  bool take_over = false;
  app.set_version_flag("--version", "weir-agent " + std::string(weir::build_id()));
  // Not ->required(): a mistyped option would be reported as this one missing.
  app.add_option("--config", config_path,
                 "configuration, required (YAML; see deploy/config/README.md)")
      ->type_name("FILE");
  app.add_flag("--check", check_only, "check the configuration and exit: 0 good, 2 bad");
  app.add_flag("--takeover", take_over,
               "take the port and the steering over from the running agent, which finishes its\n"
               "requests and exits; an ordinary start where none runs");
  app.footer(
      "Exit status: 0 stopped cleanly or handed over, 1 could not start, take over or detach,\n"
      "2 bad usage or configuration.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return used_wrongly(weir::ctl::usage_problem(app, error, argc, argv));
  }
  if (config_path.empty())
    return used_wrongly("--config FILE is required\nRun weir-agent --help for more information.");

  start_logging();
  auto config = weir::config::load_config(config_path);
  if (!config) {
    std::fprintf(stderr, "%s\n", config.error().message.c_str());
    return kUsage;
  }
  if (check_only) {
    std::printf("%s: good%s\n", config_path.c_str(), remark(*config));
    return 0;
  }
  spdlog::set_level(spdlog::level::from_str(config->log().level()));
  return run(*config, take_over);
}
