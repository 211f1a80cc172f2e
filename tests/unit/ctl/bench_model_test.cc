// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/bench_model.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <boost/json/parse.hpp>

namespace weir::ctl {
namespace {

TEST(BenchModelOptions, ReadsBatches) {
  EXPECT_EQ(*parse_batches("1"), (std::vector<std::uint32_t>{1}));
  EXPECT_EQ(*parse_batches("8,1,256"), (std::vector<std::uint32_t>{8, 1, 256}));
  for (const char* const wrong :
       {"", ",", "1,", ",1", "0", "257", "1,1", "1 2", "x", "-1", "1.5", "99999999999"}) {
    EXPECT_FALSE(parse_batches(wrong)) << wrong;
  }
}

TEST(BenchModelOptions, AreParsed) {
  CLI::App app;
  BenchModelCommand command(app);
  app.parse("bench-model -m f -p 64 -n 32 --batch 2,4 --rounds 5 --threads 3 --json");
  ASSERT_TRUE(command.parsed());
  const BenchModelOptions& options = command.options();
  EXPECT_EQ(options.path, "f");
  EXPECT_EQ(options.prompt_tokens, 64U);
  EXPECT_EQ(options.generate_tokens, 32U);
  EXPECT_EQ(options.batches, (std::vector<std::uint32_t>{2, 4}));
  EXPECT_EQ(options.rounds, 5U);
  EXPECT_EQ(options.threads, 3U);
  EXPECT_TRUE(options.json);
  for (const char* const wrong : {"", "-m f -n 1", "-m f --batch 0", "-m f --rounds 0"}) {
    EXPECT_THROW(app.parse(std::string("bench-model ") + wrong), CLI::ParseError) << wrong;
  }
}

BenchModelReport some_report() {
  BenchModelReport report;
  report.path = "m.gguf";
  report.parameters = 134'500'000;
  report.file_bytes = 3U << 20U;
  report.load_s = 0.5;
  report.prompt_tokens = 500;
  report.generate_tokens = 100;
  report.resident_bytes = 10U << 20U;
  report.anonymous_bytes = 4U << 20U;
  report.batches.push_back({1, {300, 100, 200}, {40, 60}, 0});
  report.batches.push_back({4, {1000}, {80}, 2});
  return report;
}

TEST(BenchModelReportText, HasMediansRangesAndWhatEachSequenceGets) {
  EXPECT_EQ(to_text(some_report()),
            "m.gguf: 134.5 M parameters, 3.0 MiB, loaded in 0.50 s; resident 10.0 MiB, of it "
            "anonymous 4.0 MiB\n"
            "\n"
            "SEQUENCES  PROMPT 500         RANGE  GENERATED 100       RANGE  EACH\n"
            "        1       200.0  100.0..300.0           50.0  40.0..60.0  50.0\n"
            "        4      1000.0                         80.0              20.0\n"
            "\n"
            "Tokens per second: median of the rounds, least and greatest.\n"
            "2 sequences found an end of their own before 100 tokens.\n");
}

TEST(BenchModelReportJson, HasEveryRound) {
  const auto report = boost::json::parse(to_json(some_report())).as_object();
  EXPECT_EQ(report.at("parameters").as_int64(), 134'500'000);
  const auto& first = report.at("batches").at(0);
  EXPECT_EQ(first.at("sequences").as_int64(), 1);
  EXPECT_EQ(first.at("prompt_per_s").at("median").to_number<double>(), 200);
  EXPECT_EQ(first.at("prompt_per_s").at("rounds").as_array().size(), 3U);
  EXPECT_EQ(report.at("batches").at(1).at("ended_early").as_int64(), 2);
}

TEST(BenchModel, MeasuresTheShippedModel) {
  CLI::App app;
  BenchModelCommand command(app);
  app.parse(
      "bench-model -m deploy/models/tiny-stories-1m-q8_0.gguf -p 40 -n 8 --batch 2,1 --rounds 2 "
      "--json");
  const auto printed = command.run();
  ASSERT_TRUE(printed) << printed.error().message;
  const auto report = boost::json::parse(*printed).as_object();
  EXPECT_EQ(report.at("parameters").as_int64(), 1'115'520);
  EXPECT_GT(report.at("resident_bytes").as_int64(), report.at("anonymous_bytes").as_int64());
  const auto& batches = report.at("batches").as_array();
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0].at("sequences").as_int64(), 2);
  for (const auto& batch : batches) {
    for (const char* const what : {"prompt_per_s", "generated_per_s"}) {
      EXPECT_EQ(batch.at(what).at("rounds").as_array().size(), 2U);
      EXPECT_GT(batch.at(what).at("median").to_number<double>(), 0) << what;
    }
  }
}

TEST(BenchModel, SaysWhyAFileCannotBeLoaded) {
  CLI::App app;
  BenchModelCommand command(app);
  app.parse("bench-model -m /nonexistent.gguf --batch 1");
  const auto printed = command.run();
  ASSERT_FALSE(printed);
  EXPECT_EQ(printed.error().code, Code::kUnavailable);
  EXPECT_NE(printed.error().message.find("/nonexistent.gguf"), std::string::npos);
}

}  // namespace
}  // namespace weir::ctl
