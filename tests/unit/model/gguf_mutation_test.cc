// SPDX-License-Identifier: Apache-2.0
//
// Damaged metadata: whatever it is, reader and check answer with a sentence or let it pass, and
// what passes ends at worst the child that tries it. `make fuzz-gguf` does the same a million
// times. WEIR_GGUF_MUTATIONS and WEIR_GGUF_TRIALS say how often.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "agent/model/gguf_check.h"
#include "agent/model/load_trial.h"
#include "tests/fixtures/gguf_mutator.h"
#include "tests/fixtures/gguf_writer.h"

namespace weir::model {
namespace {

std::size_t count_from(const char* name, std::size_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoul(text, nullptr, 10);
}

struct Seed {
  std::string head;  ///< what is damaged
  std::string data;
};

/// The small model and the shipped one, each cut where its tensor data begin.
std::vector<Seed> seeds() {
  std::ifstream in("deploy/models/tiny-stories-1m-q8_0.gguf", std::ios::binary);
  const std::string shipped(std::istreambuf_iterator<char>(in), {});
  const auto parsed = parse_gguf(std::as_bytes(std::span(shipped)), shipped.size());
  if (!std::holds_alternative<GgufMetadata>(parsed)) return {};
  const std::size_t end = (std::get<GgufMetadata>(parsed).bytes + 31) / 32 * 32;
  const std::string head = small_model().head();
  return {{head, small_model().file().substr(head.size())},
          {shipped.substr(0, end), shipped.substr(end)}};
}

/// What check and reader say of a file with that head and so many bytes of data; empty: nothing.
std::string refusal(const std::string& head, std::size_t data_bytes) {
  const std::uint64_t file_bytes = head.size() + data_bytes;
  const auto parsed = parse_gguf(std::as_bytes(std::span(head)), file_bytes);
  // Into the data, which are not here: they are noise, and need no second test.
  if (std::holds_alternative<GgufNeedsMore>(parsed)) return "reads on into the data";
  if (const auto* error = std::get_if<Error>(&parsed)) return error->message;
  const auto& metadata = std::get<GgufMetadata>(parsed);
  Status status = check_gguf_layout(metadata, file_bytes);
  if (status) status = check_gguf_model(metadata);
  return status ? "" : status.error().message;
}

TEST(GgufMutation, IsRefusedWithAReasonOrPasses) {
  const std::vector<Seed> from = seeds();
  ASSERT_EQ(from.size(), 2U) << "run the tests from the repository's root";
  const std::size_t count = count_from("WEIR_GGUF_MUTATIONS", 20'000);
  GgufMutator mutator(1);
  std::size_t refused = 0;
  std::size_t passed = 0;
  for (std::size_t i = 0; i < count; ++i) {
    // The small one mostly: it takes a quarter of the time.
    const Seed& seed = from[i % 4 == 0 ? 1 : 0];
    std::string head = seed.head;
    mutator.mutate(head);
    const std::string reason = refusal(head, seed.data.size());
    if (reason.empty()) {
      ++passed;
      continue;
    }
    ++refused;
    ASSERT_GT(reason.size(), 15U) << "mutation " << i << ": no sentence: " << reason;
    ASSERT_LT(reason.size(), 1000U) << "mutation " << i;
    ASSERT_EQ(reason.find('\n'), std::string::npos) << "mutation " << i;
  }
  EXPECT_EQ(refused + passed, count);
  // Damage is mostly seen, and not everything is damage.
  EXPECT_GT(refused, count / 4);
  EXPECT_GT(passed, count / 100);
  std::cout << count << " damaged heads: " << refused << " refused, " << passed << " passed\n";
}

TEST(GgufMutation, EndsTheChildAtWorst) {
  const std::vector<Seed> from = seeds();
  ASSERT_EQ(from.size(), 2U) << "run the tests from the repository's root";
  const std::size_t count = count_from("WEIR_GGUF_TRIALS", 60);
  const std::string path = std::filesystem::temp_directory_path() /
                           ("weir-mutation-" + std::to_string(::getpid()) + ".gguf");
  GgufMutator mutator(2);
  std::map<TrialResult::Outcome, std::size_t> outcomes;
  std::map<std::string, std::size_t> deaths;
  for (std::size_t i = 0, tried = 0; tried < count && i < count * 100; ++i) {
    const Seed& seed = from[i % 2];
    std::string head = seed.head;
    mutator.mutate(head);
    if (!refusal(head, seed.data.size()).empty()) continue;
    ++tried;
    std::ofstream(path, std::ios::binary) << head << seed.data;
    const TrialResult result = try_load(path, trial_limits(0), [] { return true; });
    ++outcomes[result.outcome];
    if (result.outcome == TrialResult::Outcome::kDied) ++deaths[result.reason];
    ASSERT_NE(result.outcome, TrialResult::Outcome::kUnavailable) << result.reason;
    if (result.outcome != TrialResult::Outcome::kPassed) {
      ASSERT_GT(result.reason.size(), 10U) << "trial " << tried;
    }
  }
  std::filesystem::remove(path);
  std::size_t all = 0;
  for (const auto& [outcome, times] : outcomes) all += times;
  EXPECT_EQ(all, count);
  EXPECT_GT(outcomes[TrialResult::Outcome::kPassed], 0U);
  std::cout << count << " that passed the check: " << outcomes[TrialResult::Outcome::kPassed]
            << " load, " << outcomes[TrialResult::Outcome::kRefused] << " refused by libllama, "
            << outcomes[TrialResult::Outcome::kDied] << " died, "
            << outcomes[TrialResult::Outcome::kCut] << " cut\n";
  for (const auto& [reason, times] : deaths) std::cout << "  " << times << "x " << reason << "\n";
}

}  // namespace
}  // namespace weir::model
