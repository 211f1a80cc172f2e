// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/json_writer.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstdint>
#include <limits>
#include <string>

namespace weir::serve {
namespace {

using std::chrono::nanoseconds;

template <typename Write>
std::string written(Write write) {
  std::string text;
  JsonWriter out(text);
  write(out);
  return text;
}

TEST(JsonWriter, SeparatesMembersAndItemsAtEveryDepth) {
  EXPECT_EQ(written([](JsonWriter& out) {
              out.begin_object();
              out.key("a").string("x");
              out.key("list").begin_array();
              out.begin_object();
              out.end_object();
              out.integer(1);
              out.null();
              out.end_array();
              out.key("b").begin_object();
              out.key("c").integer(-2);
              out.end_object();
              out.end_object();
            }),
            R"({"a":"x","list":[{},1,null],"b":{"c":-2}})");
}

TEST(JsonWriter, AppendsToWhatIsThere) {
  std::string text = "data: ";
  JsonWriter(text).string("x");
  EXPECT_EQ(text, R"(data: "x")");
}

TEST(JsonWriter, WritesEveryByteAsBoostJsonDoes) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "\u00e9\u20ac\U0001F600";
  const std::string text = written([&](JsonWriter& out) { out.string(all); });
  EXPECT_EQ(text, boost::json::serialize(boost::json::string(all)));
  EXPECT_EQ(std::string(boost::json::parse(text).as_string()), all);
}

TEST(JsonWriter, WritesIntegersOfAnySize) {
  EXPECT_EQ(
      written([](JsonWriter& out) { out.integer(std::numeric_limits<std::uint64_t>::max()); }),
      "18446744073709551615");
  EXPECT_EQ(written([](JsonWriter& out) { out.integer(std::numeric_limits<std::int64_t>::min()); }),
            "-9223372036854775808");
}

TEST(JsonWriter, WritesDurationsAsMilliseconds) {
  const auto shown = [](std::int64_t ns) {
    return written([&](JsonWriter& out) { out.milliseconds(nanoseconds(ns)); });
  };
  EXPECT_EQ(shown(0), "0");
  EXPECT_EQ(shown(-5), "0");
  EXPECT_EQ(shown(45), "0.000045");
  EXPECT_EQ(shown(120'000), "0.12");
  EXPECT_EQ(shown(999'999), "0.999999");
  EXPECT_EQ(shown(1'000'000), "1");
  EXPECT_EQ(shown(1'000'499), "1");
  EXPECT_EQ(shown(1'000'500), "1.001");
  EXPECT_EQ(shown(1'999'500), "2");
  EXPECT_EQ(shown(3'600'000'020'000), "3600000.02");
}

}  // namespace
}  // namespace weir::serve
