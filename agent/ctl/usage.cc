// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/usage.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "agent/config/problems.h"

namespace weir::ctl {
namespace {

/// The command and those that it stands under, from the outermost on.
std::vector<const CLI::App*> commands_given(const CLI::App& app) {
  std::vector<const CLI::App*> given{&app};
  while (!given.back()->get_subcommands().empty()) {
    given.push_back(given.back()->get_subcommands().front());
  }
  return given;
}

std::string name_of(const std::vector<const CLI::App*>& commands) {
  std::string name;
  for (const CLI::App* const command : commands) {
    name += (name.empty() ? "" : " ") + command->get_name();
  }
  return name;
}

/// The parser keeps them in an order of its own.
std::optional<std::string> first_unexpected(const CLI::App& app, int argc,
                                            const char* const* argv) {
  const std::vector<std::string> left = app.remaining(/*recurse=*/true);
  for (int i = 1; i < argc; ++i) {
    if (std::find(left.begin(), left.end(), argv[i]) != left.end()) return argv[i];
  }
  return std::nullopt;
}

std::vector<std::string> options_of(const std::vector<const CLI::App*>& commands) {
  std::vector<std::string> names;
  for (const CLI::App* const command : commands) {
    for (const CLI::Option* const option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
  }
  return names;
}

std::vector<std::string> subcommands_of(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* const each : command.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(each->get_name());
  }
  return names;
}

std::string unexpected_problem(const std::vector<const CLI::App*>& commands,
                               const std::string& given) {
  const std::string name = name_of(commands);
  if (given.starts_with('-')) {
    const std::string option = given.substr(0, given.find('='));
    return fmt::format("{} has no option {}{}", name, config::in_quotes(option),
                       config::did_you_mean(option, options_of(commands)));
  }
  const std::vector<std::string> known = subcommands_of(*commands.back());
  if (known.empty()) {
    return fmt::format("{} does not expect {}", name, config::in_quotes(given));
  }
  return fmt::format("{} has no command {}{}", name, config::in_quotes(given),
                     config::did_you_mean(given, known));
}

}  // namespace

std::string usage_problem(const CLI::App& app, const CLI::ParseError& error, int argc,
                          const char* const* argv) {
  const auto commands = commands_given(app);
  const auto unexpected = first_unexpected(app, argc, argv);
  return fmt::format("{}\nRun {} --help for more information.",
                     unexpected ? unexpected_problem(commands, *unexpected) : error.what(),
                     name_of(commands));
}

}  // namespace weir::ctl
