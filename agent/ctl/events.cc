// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/events.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <boost/json.hpp>

#include "agent/base/json_text.h"
#include "agent/ctl/event_text.h"
#include "agent/ctl/watch_command.h"
#include "agent/kernel/event_reader.h"
#include "agent/kernel/names.h"

namespace weir::ctl {
namespace {

namespace json = boost::json;
using kernel::BreakerEvent;
using kernel::CloseEvent;
using kernel::EventHead;
using kernel::FailureEvent;
using kernel::PickEvent;
using kernel::RequestEvent;

constexpr char kBackupSuffix[] = ".backup";

json::value name_or_null(std::optional<int> error) {
  return error ? json::value(errno_text(*error)) : json::value(nullptr);
}

json::array flags_json(std::uint32_t flags) {
  json::array array;
  for (const std::string_view name : flag_names(flags)) array.push_back(json::string(name));
  return array;
}

json::object fields(const CloseEvent& event, WallTime when) {
  json::object object = head_json("close", event.head, when);
  object["open_us"] = us_or_null(event.open);
  object["bytes_sent"] = event.bytes_sent;
  object["bytes_received"] = event.bytes_received;
  object["requests"] = event.requests;
  object["retransmits"] = event.retransmits;
  object["min_rtt_us"] = us_or_null(event.min_rtt);
  object["error"] = name_or_null(event.error);
  object["flags"] = flags_json(event.flags);
  return object;
}

json::object fields(const FailureEvent& event, WallTime when) {
  json::object object = head_json("failure", event.head, when);
  object["error"] = name_or_null(event.error);
  object["consecutive"] = event.consecutive;
  return object;
}

json::object fields(const BreakerEvent& event, WallTime when) {
  json::object object = head_json("breaker", event.head, when);
  object["from"] = kernel::to_string(event.from);
  object["to"] = kernel::to_string(event.to);
  object["level"] = event.level;
  object["open_ms"] = event.open ? json::value(event.open->count()) : json::value(nullptr);
  return object;
}

json::object fields(const RequestEvent& event, WallTime when) {
  json::object object = head_json("request", event.head, when);
  object["seq"] = event.sequence;
  object["ttfb_us"] = us_or_null(event.ttfb);
  object["flags"] = flags_json(event.flags);
  return object;
}

std::string flags_text(std::uint32_t flags) {
  const auto names = flag_names(flags);
  return names.empty() ? "" : fmt::format("  [{}]", fmt::join(names, ", "));
}

std::string counted(std::uint64_t number, std::string_view what) {
  return fmt::format("{} {}{}", number, what, number == 1 ? "" : "s");
}

std::string details(const CloseEvent& event) {
  std::string text =
      fmt::format("after {}: {}, {} bytes sent, {} received", duration_text(event.open),
                  counted(event.requests, "request"), event.bytes_sent, event.bytes_received);
  if (event.min_rtt) text += fmt::format(", least round trip {}", duration_text(event.min_rtt));
  if (event.retransmits != 0) {
    text += fmt::format(", {} sent again", counted(event.retransmits, "segment"));
  }
  if (event.error) text += ", ended with " + errno_text(*event.error);
  return text + flags_text(event.flags);
}

std::string details(const FailureEvent& event) {
  return fmt::format("{}, {} in a row", event.error ? errno_text(*event.error) : "given up",
                     event.consecutive);
}

std::string details(const BreakerEvent& event) {
  std::string text =
      fmt::format("{} -> {}", kernel::to_string(event.from), kernel::to_string(event.to));
  if (event.open) text += fmt::format(" for {}", duration_text(event.open));
  if (event.level != 0) text += fmt::format(", relapse {}", event.level);
  return text;
}

std::string details(const RequestEvent& event) {
  return fmt::format("#{} of socket {}: first byte after {}", event.sequence, event.head.cookie,
                     duration_text(event.ttfb)) +
         flags_text(event.flags);
}

std::string_view kind_of(const CloseEvent&) { return "close"; }
std::string_view kind_of(const FailureEvent&) { return "failure"; }
std::string_view kind_of(const BreakerEvent&) { return "breaker"; }
std::string_view kind_of(const RequestEvent&) { return "request"; }

}  // namespace

Result<EventKinds> parse_kinds(std::string_view list) {
  EventKinds kinds{false, false, false, false};
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    const std::string_view name = list.substr(begin, end - begin);
    if (name == "close") {
      kinds.close = true;
    } else if (name == "failure") {
      kinds.failure = true;
    } else if (name == "breaker") {
      kinds.breaker = true;
    } else if (name == "request") {
      kinds.request = true;
    } else {
      return make_error(
          Code::kInvalidArgument,
          fmt::format("--kind: \"{}\" is none of close, failure, breaker, request", name));
    }
    begin = end + 1;
  }
  return kinds;
}

bool EventsPrinter::wanted(const kernel::Event& event) const {
  const std::string& service = kernel::head_of(event).service;
  if (service_ && service != *service_ && service != *service_ + kBackupSuffix) return false;
  return (kinds_.close && std::holds_alternative<CloseEvent>(event)) ||
         (kinds_.failure && std::holds_alternative<FailureEvent>(event)) ||
         (kinds_.breaker && std::holds_alternative<BreakerEvent>(event)) ||
         (kinds_.request && std::holds_alternative<RequestEvent>(event));
}

std::optional<std::string> EventsPrinter::print(const kernel::Event& event, WallTime when) {
  if (!wanted(event)) return std::nullopt;
  return std::visit(
      [&](const auto& each) -> std::optional<std::string> {
        if constexpr (std::is_same_v<std::decay_t<decltype(each)>, PickEvent>) {
          return std::nullopt;  // `weir explain` is for these
        } else {
          if (json_) return to_json_text(fields(each, when)) + "\n";
          return fmt::format("{}  {:<7}  {}  {}  {}\n", clock_text(when), kind_of(each),
                             each.head.service, each.head.backend.value_or("-"), details(each));
        }
      },
      event);
}

std::string EventsPrinter::print_losses(const kernel::EventLosses& since_last, WallTime when) {
  return losses_text(since_last, when, json_);
}

std::string_view events_help() {
  return "One line per event, written when it happens; with --json one object. Every object has\n"
         "  event         close, failure, breaker, request or lost\n"
         "  time          UTC, in microseconds\n"
         "and all but lost have\n"
         "  monotonic_ns  the same moment on CLOCK_MONOTONIC\n"
         "  service       its name; NAME.backup: the backup pool of NAME\n"
         "  backend       its address\n"
         "  cookie        of the socket, as SO_COOKIE shows it; 0 for a breaker\n"
         "close: an established connection is over\n"
         "  open_us bytes_sent bytes_received requests retransmits\n"
         "  min_rtt_us    least round trip, or null\n"
         "  error         name of the errno that it ended with, or null\n"
         "  flags         any of probe direct adopted server tls mux\n"
         "failure: a connect was never established\n"
         "  error         ECONNREFUSED, ETIMEDOUT, ...; null: the client gave it up\n"
         "  consecutive   failures of this backend in a row\n"
         "breaker: it changed its state\n"
         "  from to       closed, open, half_open\n"
         "  level         relapses since it was last closed\n"
         "  open_ms       for how long, when it opened; else null\n"
         "request: the first byte of a response came\n"
         "  seq           1: the first request of its connection\n"
         "  ttfb_us       from the last byte of the request, with decimals\n"
         "  flags         as of close\n"
         "lost: what this program could not see\n"
         "  records       as many came faster than they were read\n"
         "  unwatched_us  nothing was watched for so long: the output was blocked\n"
         "Ends at Ctrl-C, or when nobody reads its output. One program can watch at a time.";
}

Status events_command(const std::string& pin_root, const EventsOptions& options) {
  EventKinds kinds;
  if (!options.kinds.empty()) {
    auto parsed = parse_kinds(options.kinds);
    if (!parsed) return std::move(parsed).error();
    kinds = *parsed;
  }
  kinds.request = kinds.request || options.requests;
  if (options.service) {
    auto pool = find_service(pin_root, *options.service);
    if (!pool) return std::move(pool).error();
  }
  kernel::Watch wanted;
  wanted.connections = kinds.close || kinds.failure || kinds.breaker;
  wanted.requests = kinds.request;
  EventsPrinter printer(kinds, options.service, options.json);
  return watch_command(pin_root, wanted, printer, options.count, "events");
}

}  // namespace weir::ctl
