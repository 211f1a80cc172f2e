// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/explain.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <utility>
#include <vector>

#include "agent/base/json_text.h"
#include "agent/ctl/event_text.h"
#include "agent/ctl/text_table.h"
#include "agent/ctl/watch_command.h"
#include "agent/kernel/event_reader.h"
#include "agent/kernel/names.h"

namespace weir::ctl {
namespace {

namespace json = boost::json;
using kernel::Candidate;
using kernel::PickEvent;

/// Load for its weight, as bpf/lib/pick.bpf.h compares it: alike, when neither is less.
bool alike(const Candidate& a, const Candidate& b) {
  return (a.load + 1) * b.weight == (b.load + 1) * a.weight;
}

std::string load_reason(const PickEvent& pick) {
  std::string text;
  if (pick.policy == WEIR_POLICY_PREQUAL && pick.candidates.size() == 2) {
    const bool hot = pick.candidates[0].hot;  // both are, or neither
    const bool measured = pick.candidates[0].latency && pick.candidates[1].latency;
    text = hot        ? "both are hot; "
           : measured ? "both are cold and equally fast; "
                      : "both are cold, but not both are measured yet; ";
  }
  const bool tie = pick.candidates.size() == 2 && alike(pick.candidates[0], pick.candidates[1]);
  return text +
         (tie ? "same load for their weight: the first one drawn" : "less load for its weight");
}

std::string rule_text(const PickEvent& pick) {
  switch (pick.rule) {
    case WEIR_RULE_NONE:
      return "no backend can be taken";
    case WEIR_RULE_ONLY:
      return pick.policy == WEIR_POLICY_WEIGHTED_RANDOM
                 ? "drawn by weight alone"
                 : "only one of two draws can take connections";
    case WEIR_RULE_SAME:
      return "both draws gave this one";
    case WEIR_RULE_COLD:
      return "it is cold, the other one is hot";
    case WEIR_RULE_LATENCY:
      return "both are cold; it is the faster one";
    case WEIR_RULE_LOAD:
      return load_reason(pick);
    case WEIR_RULE_TURN:
      return "it is its turn";
    case WEIR_RULE_LEAST:
      return "least load for its weight of all that were looked at";
    case WEIR_RULE_SCAN:
      return "what was drawn cannot take connections: the next one in line that can";
    case WEIR_RULE_COUNT:
      break;
  }
  return "for a reason that this program does not know";
}

std::string number_text(double value) { return fmt::format("{:.4g}", value); }

Row candidate_row(const Candidate& candidate) {
  return {candidate.picked ? "  >" : "   ",
          candidate.backend,
          "load " + number_text(candidate.load),
          candidate.hot ? "hot" : "cold",
          "latency " + duration_text(candidate.latency),
          "weight " + number_text(candidate.weight),
          fmt::format("breaker {}", kernel::to_string(candidate.breaker))};
}

std::string pick_text(const PickEvent& pick, WallTime when) {
  std::string out = fmt::format("{}  {} -> {}  ({}, hot above load {})\n", clock_text(when),
                                pick.head.service, pick.head.backend.value_or("nobody"),
                                kernel::to_string(pick.policy), number_text(pick.rif_limit));
  std::vector<Row> rows;
  for (const Candidate& candidate : pick.candidates) rows.push_back(candidate_row(candidate));
  return out + format_table(rows, 7) + "    why: " + reason_text(pick) + "\n";
}

json::object candidate_json(const Candidate& candidate) {
  return {{"backend", candidate.backend},
          {"picked", candidate.picked},
          {"load", candidate.load},
          {"hot", candidate.hot},
          {"latency_us", us_or_null(candidate.latency)},
          {"weight", candidate.weight},
          {"breaker", kernel::to_string(candidate.breaker)}};
}

std::string pick_json(const PickEvent& pick, WallTime when) {
  json::array candidates;
  for (const Candidate& candidate : pick.candidates) {
    candidates.push_back(candidate_json(candidate));
  }
  json::object object = head_json("pick", pick.head, when);
  object["policy"] = kernel::to_string(pick.policy);
  object["rule"] = kernel::to_string(pick.rule);
  object["rif_limit"] = pick.rif_limit;
  object["panic"] = pick.panic;
  object["backup"] = pick.backup;
  object["probe"] = pick.probe;
  object["candidates"] = std::move(candidates);
  return to_json_text(object) + "\n";
}

}  // namespace

std::string reason_text(const PickEvent& pick) {
  std::string text = rule_text(pick);
  if (pick.backup) {
    text += "; from the backup pool: most backends of the service cannot be taken";
  }
  if (pick.panic) text += "; PANIC: most breakers are open, so none is obeyed";
  if (pick.probe) text += "; a probe: this connect tries a backend whose breaker is half-open";
  return text;
}

std::optional<std::string> ExplainPrinter::print(const kernel::Event& event, WallTime when) {
  const auto* const pick = std::get_if<PickEvent>(&event);
  if (pick == nullptr) return std::nullopt;
  return json_ ? pick_json(*pick, when) : pick_text(*pick, when);
}

std::string ExplainPrinter::print_losses(const kernel::EventLosses& since_last, WallTime when) {
  return losses_text(since_last, when, json_);
}

std::string_view explain_help() {
  return "Per pick: where it went, what it looked at (at most two; \">\" is the one taken), why.\n"
         "  load     requests: connections that wait for a first byte or have sent nothing yet\n"
         "           count 1, responses under way 1/4, idle connections 0\n"
         "  hot      the load is above the limit of the pool; only the policy prequal asks\n"
         "  latency  time to first byte that the agent published; -: not measured\n"
         "With --json one object per line:\n"
         "  event (pick) time monotonic_ns service backend cookie policy rule rif_limit panic\n"
         "  backup probe candidates[]: backend picked load hot latency_us weight breaker\n"
         "  rule: none only_candidate drawn_twice cold_over_hot lower_latency lower_load its_turn\n"
         "        least_load next_usable\n"
         "and {event: lost, time, records, unwatched_us} for what this program could not see.";
}

Status explain_command(const std::string& pin_root, const ExplainOptions& options) {
  auto pool = find_service(pin_root, options.service);
  if (!pool) return std::move(pool).error();
  kernel::Watch wanted;
  wanted.picks = kernel::Watch::Picks{*pool, options.one_in};
  ExplainPrinter printer(options.json);
  return watch_command(pin_root, wanted, printer, options.count,
                       fmt::format("connects to {}", options.service));
}

}  // namespace weir::ctl
