// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/options.h"

#include <gtest/gtest.h>

namespace weir::replay {
namespace {

using namespace std::chrono_literals;

TEST(ReplayOptions, ReadsTargets) {
  const auto plain = parse_target("http://example.test:8080");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->host, "example.test");
  EXPECT_EQ(plain->port, 8080);
  EXPECT_EQ(plain->authority, "example.test:8080");
  EXPECT_EQ(plain->path, "");
  EXPECT_EQ(parse_target("127.0.0.1")->port, 80);
  EXPECT_EQ(parse_target("http://a:1/")->path, "");
  EXPECT_EQ(parse_target("http://a:1/v1/x?y=z")->path, "/v1/x?y=z");
  EXPECT_EQ(parse_target("[::1]:9")->host, "::1");
  EXPECT_EQ(parse_target("[::1]:9")->port, 9);
  for (const char* const wrong :
       {"", "http://", "https://a", "a:0", "a:65536", "a:x", "::1", "[::1", "[::1]x", "a b:1",
        ":80", "http://a:1/\r\nX: y", "http//a:1", "http:/a:1", "https//a"}) {
    EXPECT_FALSE(parse_target(wrong)) << wrong;
  }
}

TEST(ReplayOptions, ReadsClasses) {
  const auto urgent = parse_class("urgent:0.2:0:250");
  ASSERT_TRUE(urgent);
  EXPECT_EQ(urgent->name, "urgent");
  EXPECT_EQ(urgent->share, 0.2);
  EXPECT_EQ(urgent->priority, 0);
  EXPECT_EQ(urgent->deadline, 250ms);
  EXPECT_FALSE(parse_class("batch:4:7")->deadline.has_value());
  for (const char* const wrong : {"", "a", "a:1", "a:0:1", "a:-1:1", "a:nan:1", "a:inf:1", "a:1:8",
                                  "a:1:-1", "a:1:1:0", "a:1:1:x", "a:1:1:1:1", ":1:1", "a b:1:1"}) {
    EXPECT_FALSE(parse_class(wrong)) << wrong;
  }
}

TEST(ReplayOptions, ReadsTenantsObjectivesLengthsAndHeaders) {
  EXPECT_EQ(parse_tenant("a:2")->share, 2);
  for (const char* const wrong : {"a", "a:", "a:0", ":1", "a/b:1", "a:1:1"}) {
    EXPECT_FALSE(parse_tenant(wrong)) << wrong;
  }
  const auto objective = parse_objective("ttft=200ms,e2e=1.5s");
  ASSERT_TRUE(objective);
  EXPECT_EQ(objective->ttft, 200ms);
  EXPECT_EQ(objective->e2e, 1500ms);
  EXPECT_FALSE(objective->itl.has_value());
  EXPECT_EQ(parse_objective("itl=800us")->itl, 800us);
  for (const char* const wrong :
       {"", "ttft", "ttft=5", "ttft=0ms", "ttft=-1ms", "x=1ms", "ttft=1ms,ttft=2ms", "ttft=1ms,"}) {
    EXPECT_FALSE(parse_objective(wrong)) << wrong;
  }
  EXPECT_EQ(parse_length("7")->max, 7U);
  EXPECT_EQ(parse_length("7-9")->min, 7U);
  for (const char* const wrong : {"", "0", "9-7", "1-", "-1", "x", "99999999"}) {
    EXPECT_FALSE(parse_length(wrong)) << wrong;
  }
  EXPECT_EQ(parse_header("X-Y:  z")->second, "z");
  for (const char* const wrong : {"", "x", ": y", "a b: c", "a: b\r\nc: d"}) {
    EXPECT_FALSE(parse_header(wrong)) << wrong;
  }
}

TEST(ReplayOptions, NeedsExactlyOneLoad) {
  Options none;
  EXPECT_FALSE(none.complete());
  Options both;
  both.trace = "t";
  both.poisson_per_s = 1;
  EXPECT_FALSE(both.complete());
  Options one;
  one.poisson_per_s = 1;
  ASSERT_TRUE(one.complete());
  EXPECT_EQ(one.duration_s, 10);
  EXPECT_EQ(one.classes.size(), 1U);
  EXPECT_EQ(one.tenants.size(), 1U);
}

TEST(ReplayOptions, RefusesWhatContradictsItself) {
  Options options;
  options.poisson_per_s = 1;
  options.duration_s = 2;
  options.warmup_s = 2;
  EXPECT_EQ(options.complete().error().message, "--warmup 2 s must be less than --duration 2 s");
  options.warmup_s = 0;
  options.stream = true;
  EXPECT_FALSE(options.complete());
  options.stream = false;
  options.tenants = {{"a", 1}, {"a", 2}};
  EXPECT_EQ(options.complete().error().message, "--tenant \"a\": must be given once");
  options.tenants.clear();
  options.connections = 0;
  EXPECT_FALSE(options.complete());
}

}  // namespace
}  // namespace weir::replay
