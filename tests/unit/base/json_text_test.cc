// SPDX-License-Identifier: Apache-2.0
#include "agent/base/json_text.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <limits>

namespace weir {
namespace {

TEST(JsonText, NumbersArePlain) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(to_json_text({44.0, 0.1 + 0.2, 1000.0, 1234567.8904, -2.5, 0.0, 0.99999999, 1.0 / 3}),
            "[44,0.3,1000,1234567.89,-2.5,0,1,0.333333]");
  EXPECT_EQ(to_json_text({1e-7, 1e20, infinity, std::nan("")}), "[1e-07,1e+20,null,null]");
  EXPECT_EQ(to_json_text({std::numeric_limits<std::uint64_t>::max(), -3}),
            "[18446744073709551615,-3]");
}

TEST(JsonText, EverythingElseIsAsBoostWritesIt) {
  const std::string text =
      R"({"a \"quoted\" key":"line\nbreak","list":[],"object":{},"nested":[{"x":null},[true,false]]})";
  EXPECT_EQ(to_json_text(boost::json::parse(text)), text);
}

}  // namespace
}  // namespace weir
