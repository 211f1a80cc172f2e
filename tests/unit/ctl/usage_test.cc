// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/usage.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weir::ctl {
namespace {

/// What is said about `tool ARGUMENTS`.
std::string problem_of(std::vector<const char*> arguments) {
  CLI::App app("", "tool");
  app.fallthrough();
  app.require_subcommand(0, 1);
  std::string root;
  int rate = 0;
  std::string name;
  app.add_option("--pin-root", root);
  CLI::App* const replay = app.add_subcommand("replay");
  replay->add_option("--poisson", rate);
  replay->add_option("--target", name)->required();
  CLI::App* const models = app.add_subcommand("models");
  models->require_subcommand(0, 1);
  models->add_subcommand("load")->add_option("NAME", name)->required();
  models->add_subcommand("unload");
  arguments.insert(arguments.begin(), "tool");
  const int count = static_cast<int>(arguments.size());
  try {
    app.parse(count, arguments.data());
  } catch (const CLI::ParseError& error) {
    return usage_problem(app, error, count, arguments.data());
  }
  return "good";
}

TEST(Usage, NamesTheFirstArgumentThatIsUnknownAndWhatIsNearest) {
  EXPECT_EQ(problem_of({"models", "load", "m"}), "good");
  EXPECT_EQ(problem_of({"relpay", "--rate", "5"}),
            "tool has no command \"relpay\", did you mean \"replay\"?\n"
            "Run tool --help for more information.");
  EXPECT_EQ(problem_of({"models", "lod", "m"}),
            "tool models has no command \"lod\", did you mean \"load\"?\n"
            "Run tool models --help for more information.");
  EXPECT_EQ(problem_of({"models", "xyzzyx"}),
            "tool models has no command \"xyzzyx\"\n"
            "Run tool models --help for more information.");
  EXPECT_EQ(problem_of({"models", "unload", "m"}),
            "tool models unload does not expect \"m\"\n"
            "Run tool models unload --help for more information.");
}

TEST(Usage, AMistypedOptionIsNotReportedAsAMissingOne) {
  EXPECT_EQ(problem_of({"replay", "--taget=x", "--poisson", "5"}),
            "tool replay has no option \"--taget\", did you mean \"--target\"?\n"
            "Run tool replay --help for more information.");
  EXPECT_EQ(problem_of({"replay", "--pinroot", "/x", "--target", "y"}),
            "tool replay has no option \"--pinroot\", did you mean \"--pin-root\"?\n"
            "Run tool replay --help for more information.");
}

TEST(Usage, OtherFaultsAreInTheParsersWords) {
  EXPECT_EQ(problem_of({"replay"}),
            "--target is required\nRun tool replay --help for more information.");
  EXPECT_EQ(problem_of({"replay", "--target", "x", "--poisson", "y"}).substr(0, 9), "Could not");
}

}  // namespace
}  // namespace weir::ctl
