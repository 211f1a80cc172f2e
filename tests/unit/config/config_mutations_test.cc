// SPDX-License-Identifier: Apache-2.0
//
// The seeds of the configuration's fuzzer (tests/fuzz), mutated some thousand times from a fixed
// start: what `make fuzz-config` looks for at length, in every run of the unit tests.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "agent/config/config_loader.h"

namespace weir::config {
namespace {

const char* const kSeed = "tests/fuzz/config/everything.yaml";

std::string seed_text() {
  std::ifstream file(kSeed);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(ConfigMutations, TheSeedIsAccepted) {
  const auto config = parse_config(seed_text(), kSeed);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->admission().rate_limits_size(), 2);
  EXPECT_EQ(config->sla_size(), 1);
}

// Lines are moved, doubled and dropped, and values exchanged: what stays is mostly YAML, so that
// the checks behind the reader are reached.
TEST(ConfigMutations, EveryTextIsAConfigurationOrAnErrorWithItsPlace) {
  std::mt19937 random(20);
  const auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  std::vector<std::string> lines;
  std::istringstream stream(seed_text());
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  ASSERT_GT(lines.size(), 30U);
  const std::vector<std::string> values = {"-1",    "0",    "1e309", "99999999999999999999",
                                           "[]",    "{}",   "\"\"",  "~",
                                           "true",  "x y",  "*a",    "&a 1",
                                           "!!str", "0x10", ".nan",  "1:1",
                                           "levels"};
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> text = lines;
    for (std::size_t edits = 1 + below(3); edits > 0; --edits) {
      const std::size_t at = below(text.size());
      std::string& line = text[at];
      switch (below(5)) {
        case 0:
          text.erase(text.begin() + static_cast<std::ptrdiff_t>(at));
          break;
        case 1:
          text.insert(text.begin() + static_cast<std::ptrdiff_t>(below(text.size())), line);
          break;
        case 2:
          std::swap(line, text[below(text.size())]);
          break;
        case 3: {
          const std::size_t colon = line.find(": ", below(line.size() + 1));
          if (colon == std::string::npos) break;
          const std::size_t end = line.find_first_of(",}", colon);
          line = line.substr(0, colon + 2) + values[below(values.size())] +
                 (end == std::string::npos ? "" : line.substr(end));
          break;
        }
        default:
          if (!line.empty()) line[below(line.size())] = static_cast<char>(below(256));
      }
    }
    std::string joined;
    for (const std::string& line : text) joined += line + "\n";
    const auto config = parse_config(joined, "weir.yaml");
    if (config) {
      ++accepted;
      continue;
    }
    ++refused;
    ASSERT_EQ(config.error().code, Code::kInvalidArgument) << joined;
    std::istringstream errors(config.error().message);
    for (std::string error; std::getline(errors, error);) {
      ASSERT_TRUE(error.starts_with("weir.yaml")) << error << "\nof\n" << joined;
    }
  }
  // Both ways were taken, many times.
  EXPECT_GT(accepted, 500);
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace weir::config
