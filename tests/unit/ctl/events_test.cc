// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/events.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cerrno>
#include <ctime>

namespace weir::ctl {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using kernel::EventHead;

/// 2026-01-02 03:04:05.678901 UTC.
const WallTime kWhen(std::chrono::microseconds(1'767'323'045'678'901));
const EventHead kHead{TimePoint(42ns), "chat", "127.0.0.1:9001", 77};

class EventsPrinterTest : public testing::Test {
 protected:
  EventsPrinterTest() {
    setenv("TZ", "UTC", 1);
    tzset();
    close.head = failure.head = breaker.head = request.head = kHead;
    close.open = 12'345us;
    close.bytes_sent = 100;
    close.bytes_received = 2000;
    close.requests = 3;
    failure.error = ECONNREFUSED;
    failure.consecutive = 3;
    breaker.head.cookie = 0;
    breaker.to = WEIR_BREAKER_OPEN;
    breaker.open = 5'120ms;
    request.sequence = 2;
    request.ttfb = 80'123'456ns;
  }

  std::string text(const kernel::Event& event) {
    EventsPrinter printer({true, true, true, true}, std::nullopt, false);
    return printer.print(event, kWhen).value();
  }
  json::object parsed(const kernel::Event& event) {
    EventsPrinter printer({true, true, true, true}, std::nullopt, true);
    const std::string line = printer.print(event, kWhen).value();
    EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line: " << line;
    return json::parse(line).as_object();
  }

  kernel::CloseEvent close;
  kernel::FailureEvent failure;
  kernel::BreakerEvent breaker;
  kernel::RequestEvent request;
};

TEST_F(EventsPrinterTest, JsonHasTheDocumentedShape) {
  close.min_rtt = 45us;
  close.error = ECONNRESET;
  close.retransmits = 1;
  close.flags = WEIR_SK_TLS | WEIR_SK_TOTALLED | WEIR_SK_PROBE;
  EXPECT_EQ(parsed(close), json::parse(R"({"event": "close",
    "time": "2026-01-02T03:04:05.678901Z", "monotonic_ns": 42, "service": "chat",
    "backend": "127.0.0.1:9001", "cookie": 77, "open_us": 12345, "bytes_sent": 100,
    "bytes_received": 2000, "requests": 3, "retransmits": 1, "min_rtt_us": 45,
    "error": "ECONNRESET", "flags": ["probe", "tls"]})"));
  EXPECT_EQ(parsed(failure), json::parse(R"({"event": "failure",
    "time": "2026-01-02T03:04:05.678901Z", "monotonic_ns": 42, "service": "chat",
    "backend": "127.0.0.1:9001", "cookie": 77, "error": "ECONNREFUSED", "consecutive": 3})"));
  EXPECT_EQ(parsed(breaker), json::parse(R"({"event": "breaker",
    "time": "2026-01-02T03:04:05.678901Z", "monotonic_ns": 42, "service": "chat",
    "backend": "127.0.0.1:9001", "cookie": 0, "from": "closed", "to": "open", "level": 0,
    "open_ms": 5120})"));
  EXPECT_EQ(parsed(request), json::parse(R"({"event": "request",
    "time": "2026-01-02T03:04:05.678901Z", "monotonic_ns": 42, "service": "chat",
    "backend": "127.0.0.1:9001", "cookie": 77, "seq": 2, "ttfb_us": 80123.456, "flags": []})"));
}

TEST_F(EventsPrinterTest, JsonOfWhatIsUnknownIsNull) {
  EXPECT_TRUE(parsed(close).at("min_rtt_us").is_null());
  EXPECT_TRUE(parsed(close).at("error").is_null());
  failure.error = std::nullopt;
  failure.head.backend = std::nullopt;
  EXPECT_TRUE(parsed(failure).at("error").is_null());
  EXPECT_TRUE(parsed(failure).at("backend").is_null());
  breaker.to = WEIR_BREAKER_HALF_OPEN;
  breaker.open = std::nullopt;
  EXPECT_TRUE(parsed(breaker).at("open_ms").is_null());
  failure.error = 4000;
  EXPECT_EQ(parsed(failure).at("error"), "error 4000");
}

TEST_F(EventsPrinterTest, EveryJsonFieldIsInTheHelp) {
  const std::string_view help = events_help();
  for (const kernel::Event& event :
       std::initializer_list<kernel::Event>{close, failure, breaker, request}) {
    for (const auto& field : parsed(event)) {
      EXPECT_NE(help.find(field.key()), std::string_view::npos) << field.key();
    }
    EXPECT_NE(help.find(parsed(event).at("event").as_string()), std::string_view::npos);
  }
}

TEST_F(EventsPrinterTest, TextIsForPeople) {
  EXPECT_EQ(text(close),
            "03:04:05.678  close    chat  127.0.0.1:9001  after 12.3ms: 3 requests, "
            "100 bytes sent, 2000 received\n");
  close.requests = 1;
  close.retransmits = 2;
  close.min_rtt = 45us;
  close.error = ECONNRESET;
  close.flags = WEIR_SK_TLS | WEIR_SK_MUX;
  EXPECT_EQ(text(close),
            "03:04:05.678  close    chat  127.0.0.1:9001  after 12.3ms: 1 request, "
            "100 bytes sent, 2000 received, least round trip 45us, 2 segments sent again, "
            "ended with ECONNRESET  [tls, mux]\n");
  EXPECT_EQ(text(failure),
            "03:04:05.678  failure  chat  127.0.0.1:9001  ECONNREFUSED, 3 in a row\n");
  EXPECT_EQ(text(breaker),
            "03:04:05.678  breaker  chat  127.0.0.1:9001  closed -> open for 5.12s\n");
  breaker.from = WEIR_BREAKER_HALF_OPEN;
  breaker.level = 2;
  EXPECT_EQ(text(breaker),
            "03:04:05.678  breaker  chat  127.0.0.1:9001  half_open -> open for 5.12s, "
            "relapse 2\n");
  EXPECT_EQ(text(request),
            "03:04:05.678  request  chat  127.0.0.1:9001  #2 of socket 77: "
            "first byte after 80.1ms\n");
}

TEST_F(EventsPrinterTest, LossesAreToldApart) {
  EventsPrinter people({}, std::nullopt, false);
  EXPECT_EQ(people.print_losses({12, 0ns}, kWhen),
            "03:04:05.678  lost     12 records: they came faster than they were read\n");
  EXPECT_EQ(people.print_losses({0, 4'200ms}, kWhen),
            "03:04:05.678  lost     whatever happened in 4.2s: the output was blocked\n");
  EventsPrinter programs({}, std::nullopt, true);
  EXPECT_EQ(json::parse(programs.print_losses({12, 5us}, kWhen)), json::parse(R"({"event": "lost",
    "time": "2026-01-02T03:04:05.678901Z", "records": 12, "unwatched_us": 5})"));
}

TEST_F(EventsPrinterTest, PrintsOnlyTheKindsAskedFor) {
  EventsPrinter printer(parse_kinds("failure,request").value(), std::nullopt, true);
  EXPECT_FALSE(printer.print(close, kWhen));
  EXPECT_TRUE(printer.print(failure, kWhen));
  EXPECT_FALSE(printer.print(breaker, kWhen));
  EXPECT_TRUE(printer.print(request, kWhen));
  EXPECT_FALSE(printer.print(kernel::PickEvent{}, kWhen)) << "these are for `weir explain`";
  EventsPrinter usual(EventKinds{}, std::nullopt, true);
  EXPECT_TRUE(usual.print(close, kWhen));
  EXPECT_TRUE(usual.print(failure, kWhen));
  EXPECT_TRUE(usual.print(breaker, kWhen));
  EXPECT_FALSE(usual.print(request, kWhen));
}

TEST_F(EventsPrinterTest, AServiceBringsItsBackupPool) {
  EventsPrinter printer(EventKinds{}, "chat", true);
  EXPECT_TRUE(printer.print(close, kWhen));
  close.head.service = "chat.backup";
  EXPECT_TRUE(printer.print(close, kWhen));
  close.head.service = "chatter";
  EXPECT_FALSE(printer.print(close, kWhen));
}

TEST(ParseKinds, TakesAListOfThem) {
  const auto kinds = parse_kinds("breaker,close").value();
  EXPECT_TRUE(kinds.close);
  EXPECT_FALSE(kinds.failure);
  EXPECT_TRUE(kinds.breaker);
  EXPECT_FALSE(kinds.request);
}

TEST(ParseKinds, NamesWhatIsNone) {
  for (const char* const list : {"pick", "close,", "", ",", "Close", "close failure"}) {
    const auto kinds = parse_kinds(list);
    ASSERT_FALSE(kinds.ok()) << list;
    EXPECT_EQ(kinds.error().code, Code::kInvalidArgument);
  }
  EXPECT_EQ(parse_kinds("close,pick").error().message,
            "--kind: \"pick\" is none of close, failure, breaker, request");
}

}  // namespace
}  // namespace weir::ctl
