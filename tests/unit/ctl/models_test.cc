// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/models.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "agent/ctl/http_call.h"

namespace weir::ctl {
namespace {

TEST(Models, TableSaysWhatEachDoesAndWhyNot) {
  const auto models = boost::json::parse(R"([
    {"name":"a","state":"READY","reason":"","weir":{"state":"ready","instances":2,
     "requests_running":2,
     "requests_waiting":3,"memory_bytes":2621440,"file_bytes":1024,"loads":4,
     "memory":{"mapped_bytes":1024,"resident_bytes":256},"seconds_since_used":0}},
    {"name":"long-name","state":"LOADING","reason":"","weir":{"state":"loading",
     "load_progress":0.5,"requests_running":0,"requests_waiting":16,"loads":1}},
    {"name":"next","state":"READY","reason":"","weir":{"state":"ready","replacement_progress":0.25,
     "seconds_since_used":120}},
    {"name":"off","state":"UNAVAILABLE","reason":"unloaded","weir":{"state":"unloaded",
     "disabled":true}},
    {"name":"bad","state":"UNAVAILABLE","reason":"/m/bad.gguf: torn","weir":{"state":"failed"}}
  ])");
  EXPECT_EQ(models_text(models.as_array()),
            "NAME       STATE             INSTANCES  RUNNING  WAITING   MEMORY     FILE  RESIDENT  "
            "LOADS       "
            "USED\n"
            "a          ready                     2        2        3  2.5 MiB  1.0 KiB      25 %  "
            "    4    0 s "
            "ago\n"
            "long-name  loading 50 %              -        0       16        -        -         -  "
            "    1      "
            "never\n"
            "next       ready, next 25 %          -        0        0        -        -         -  "
            "    0  2 min "
            "ago\n"
            "off        unloaded, off             -        0        0        -        -         -  "
            "    0      "
            "never\n"
            "bad        failed                    -        0        0        -        -         -  "
            "    0      "
            "never\n"
            "\n"
            "bad: /m/bad.gguf: torn\n");
  EXPECT_EQ(models_text({}), "no models\n");
}

TEST(Models, UrlsAreHostsWithPorts) {
  const auto parsed = [](const std::string& url) {
    const auto target = parse_http_url(url);
    return target.ok() ? target->host + " " + target->port : target.error().message;
  };
  EXPECT_EQ(parsed("http://127.0.0.1:8081/"), "127.0.0.1 8081");
  EXPECT_EQ(parsed("node"), "node 8080");
  EXPECT_EQ(parsed("http://[::1]:9"), "::1 9");
  EXPECT_EQ(parsed("[::1]"), "::1 8080");
  for (const std::string wrong :
       {"", "http://", "a:0", "a:99999", "a:x", "https://a", "[::1", "a/b", "[::1]x9"}) {
    EXPECT_EQ(parsed(wrong), "--url " + wrong + ": must be http://HOST:PORT");
  }
}

TEST(Models, NobodyThereIsSaid) {
  // Port 1 of the loopback: nobody listens on it but where tcpmux does.
  const auto answer = http_post({"127.0.0.1", "1"}, "/", "{}", std::chrono::seconds(1));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, Code::kUnavailable);
  EXPECT_NE(answer.error().message.find("http://127.0.0.1:1 does not answer"), std::string::npos);
}

}  // namespace
}  // namespace weir::ctl
