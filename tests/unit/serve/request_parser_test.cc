// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/request_parser.h"

#include <gtest/gtest.h>

#include "agent/serve/router.h"

namespace weir::serve {
namespace {

using Status = RequestParser::Status;

TEST(RequestParser, ReadsARequestByteByByte) {
  const std::string text =
      "POST /infer HTTP/1.1\r\nHost: t\r\nX-Request-Id: 7\r\nContent-Length: 3\r\n\r\nabc";
  RequestParser parser(100);
  std::string inbox;
  std::vector<Status> seen;
  for (const char c : text) {
    inbox += c;
    const auto progress = parser.put(inbox);
    inbox.erase(0, progress.consumed);
    if (progress.status != Status::kNeedMore) seen.push_back(progress.status);
  }
  EXPECT_EQ(seen, (std::vector<Status>{Status::kHeaderDone, Status::kDone}));
  EXPECT_EQ(inbox, "");
  EXPECT_EQ(parser.method(), "POST");
  EXPECT_EQ(parser.target(), "/infer");
  EXPECT_EQ(parser.field("x-request-id"), "7");
  EXPECT_EQ(parser.field("x-other"), std::nullopt);
  EXPECT_EQ(parser.content_length(), 3U);
  EXPECT_TRUE(parser.keep_alive());
  EXPECT_EQ(parser.take_body(), "abc");
}

TEST(RequestParser, LeavesTheNextRequestAlone) {
  const std::string first = "GET /a HTTP/1.1\r\nHost: t\r\n\r\n";
  RequestParser parser(100);
  const auto progress = parser.put(first + "GET /b HTTP/1.1\r\n");
  EXPECT_EQ(progress.status, Status::kHeaderDone);
  EXPECT_EQ(progress.consumed, first.size());
  EXPECT_TRUE(parser.done());
}

TEST(RequestParser, ReportsADeclaredLengthAboveTheLimitAtTheHeader) {
  RequestParser parser(100);
  EXPECT_EQ(parser.put("POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n").status,
            Status::kBodyTooLarge);
  EXPECT_EQ(parser.content_length(), 101U);
  RequestParser exact(100);
  EXPECT_EQ(exact.put("POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n").status,
            Status::kHeaderDone);
}

TEST(RequestParser, FindsFieldsByNameInAnyCaseAndCountsThem) {
  RequestParser parser(100);
  ASSERT_EQ(parser.put("GET /a HTTP/1.0\r\nX-Abc: 1\r\nx-aBC:  2 \r\nX-Ab: 3\r\n\r\n").status,
            Status::kHeaderDone);
  EXPECT_EQ(parser.field("x-abc"), "1");
  EXPECT_EQ(parser.count("x-abc"), 2U);
  EXPECT_EQ(parser.field("X-AB"), "3");
  EXPECT_EQ(parser.count("x-a"), 0U);
  EXPECT_TRUE(parser.http_1_0());
}

TEST(RequestParser, ForgetsTheLastRequestWhenItRestarts) {
  RequestParser parser(100);
  ASSERT_EQ(parser.put("POST /long HTTP/1.0\r\nX-Old: 1\r\nContent-Length: 3\r\n\r\n").status,
            Status::kHeaderDone);
  ASSERT_EQ(parser.put("abc").status, Status::kDone);
  parser.restart();
  EXPECT_FALSE(parser.header_done());
  ASSERT_EQ(parser.put("GET /b HTTP/1.1\r\nHost: t\r\n\r\n").status, Status::kHeaderDone);
  EXPECT_EQ(parser.method(), "GET");
  EXPECT_EQ(parser.target(), "/b");
  EXPECT_EQ(parser.field("x-old"), std::nullopt);
  EXPECT_EQ(parser.content_length(), std::nullopt);
  EXPECT_FALSE(parser.http_1_0());
  EXPECT_EQ(parser.take_body(), "");
}

TEST(RequestParser, StartsAfreshAfterAMalformedRequest) {
  RequestParser parser(100);
  ASSERT_EQ(parser.put("no request at all\r\n\r\n").status, Status::kMalformed);
  EXPECT_NE(parser.failure(), "");
  parser.restart();
  EXPECT_EQ(parser.put("GET /b HTTP/1.1\r\nHost: t\r\n\r\n").status, Status::kHeaderDone);
  EXPECT_EQ(parser.failure(), "");
}

// What comes behind a body must not change what the header has decided.
TEST(RequestParser, KeepsNothingOfATrailer) {
  RequestParser parser(100);
  ASSERT_EQ(parser.put("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").status,
            Status::kHeaderDone);
  EXPECT_TRUE(parser.chunked());
  ASSERT_EQ(parser.put("3\r\nabc\r\n0\r\nx-request-id: 7\r\nHost: u\r\n\r\n").status,
            Status::kDone);
  EXPECT_EQ(parser.field("x-request-id"), std::nullopt);
  EXPECT_EQ(parser.count("host"), 1U);
  EXPECT_EQ(parser.take_body(), "abc");
}

TEST(PathOf, DecodesAndDropsTheQuery) {
  EXPECT_EQ(path_of("/a%20b?c=%zz"), "/a b");
  EXPECT_EQ(path_of("http://host:80/x"), "/x");
  EXPECT_EQ(path_of("http://host"), "/");
  EXPECT_EQ(path_of("/%2"), std::nullopt);
  EXPECT_EQ(path_of("/%00"), std::nullopt);
  EXPECT_EQ(path_of("*"), std::nullopt);
}

TEST(Router, MatchesFixedPathsAndOneFreeSegment) {
  Router router;
  router.add("GET", "/m", nullptr);
  router.add("GET", "/m/{id}", nullptr);
  router.add("POST", "/m", nullptr);
  const auto one = router.find("GET", "/m/x");
  ASSERT_TRUE(std::holds_alternative<Router::Match>(one));
  EXPECT_EQ(std::get<Router::Match>(one).parameter, "x");
  EXPECT_EQ(std::get<Router::Match>(one).path_index, 1U);
  EXPECT_TRUE(std::holds_alternative<Router::Match>(router.find("HEAD", "/m")));
  const auto post = router.find("POST", "/m");
  ASSERT_TRUE(std::holds_alternative<Router::Match>(post));
  EXPECT_EQ(std::get<Router::Match>(post).route->method, "POST");
  EXPECT_EQ(std::get<Router::Match>(post).path_index, 0U);
  const auto wrong = router.find("PUT", "/m");
  ASSERT_TRUE(std::holds_alternative<Router::WrongMethod>(wrong));
  EXPECT_EQ(std::get<Router::WrongMethod>(wrong).allow, "GET, HEAD, POST");
  for (const char* const path : {"/m/", "/m/x/y", "/n", ""}) {
    EXPECT_TRUE(std::holds_alternative<Router::NoSuchPath>(router.find("GET", path))) << path;
  }
  EXPECT_EQ(router.listing(), "GET /m, GET /m/{id}, POST /m");
}

}  // namespace
}  // namespace weir::serve
