// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/replay_command.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/value.hpp>
#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "agent/base/json_text.h"
#include "agent/ctl/replay/options.h"
#include "agent/ctl/replay/progress.h"
#include "agent/ctl/replay/replay.h"
#include "agent/ctl/replay/report.h"

namespace weir::replay {
namespace {

constexpr double kMaxRate = 1e6;
constexpr double kMaxSeconds = 30.0 * 24 * 3600;

constexpr const char* kFooter =
    R"(WHAT IT DOES
  Sends requests at times that are fixed before the first one leaves: those of a trace, or of a
  Poisson process. It never waits for an answer to send the next request, so that a slow target
  cannot slow the load down; every latency counts from the time at which its request was due. A
  request for which all --connections are busy waits, and its wait is part of its latency. One that
  finds --max-inflight requests unanswered is dropped and counted as dropped. Nothing is retried.

TRACES
  CSV    arrived_at,num_prefill_tokens,num_decode_tokens      seconds
         TIMESTAMP,ContextTokens,GeneratedTokens              dates (as Azure publishes its traces)
  JSONL  {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}
         hash_ids are optional: one per 512 tokens of prompt, equal ids are equal text
         (Mooncake's traces)
  Told apart by content; gzip is unpacked. A line that is wrong ends the replay before it begins.

PROMPTS
  A token is a word of three letters and a blank: N tokens are 4N bytes. Words are drawn from --seed,
  the same in each run; where a trace has hash_ids, from these, so that prompts share prefixes as
  they did. Lengths are scaled, then capped; they are at least 1.

FIGURES
  planned = ok + refused + errors + dropped
  refused     429 and 503, by status and the code of the body
  first token (ttft)  to the first text of a stream, to the first byte of an answer in one piece
  between tokens (itl)  gaps between the events of streams; 0 for those that came in one read
  requests/s, tokens/s  answers that came while load was offered, without the warm-up
  goodput/s   of these, answers that meet --slo; itl there is a request's mean
  JSON and HTML have the same of each class and each tenant, curves, and a timeline.

EXAMPLES
  weir replay --poisson 200 --duration 30 --target http://127.0.0.1:8080
  weir replay --trace azure.csv --speed 10 --max-prompt-tokens 256 --max-output-tokens 64
      --api completions --slo ttft=500ms,itl=50ms --html report.html --target 127.0.0.1:8080
  weir replay --poisson 500 --class urgent:1:0:250 --class batch:4:6 --tenant a:1 --tenant b:1
      --json report.json --target 127.0.0.1:8080

EXIT STATUS
  0 done, also when requests were refused or failed, or Ctrl-C ended it: the report says so; 1 the
  target could not be reached, or all that it answered were errors; 2 wrong options or a wrong trace.)";

/// CLI::Range, without its bounds in the help, where they hide what the option is for.
template <typename Number>
CLI::Validator within(Number low, Number high) {
  CLI::Validator range = CLI::Range(low, high);
  range.description("");
  return range;
}

/// Before hours are spent on what could not be kept. Changes nothing.
Status check_writable(const std::string& path) {
  if (path.empty() || path == "-") return {};
  struct stat there {};
  int failure = 0;
  if (::stat(path.c_str(), &there) == 0) {
    if (::access(path.c_str(), W_OK) != 0) failure = errno;
    if (S_ISDIR(there.st_mode)) failure = EISDIR;
  } else if (std::FILE* const file = std::fopen(path.c_str(), "wxe"); file != nullptr) {
    std::fclose(file);
    ::unlink(path.c_str());
  } else {
    failure = errno;
  }
  if (failure != 0) return os_error(failure, "writing " + path);
  return {};
}

/// A whole file or nothing that looks like one.
Status write_file(const std::string& path, const std::string& text) {
  std::FILE* const file = path == "-" ? stdout : std::fopen(path.c_str(), "we");
  if (file == nullptr) return os_error(errno, "writing " + path);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool flushed = std::fflush(file) == 0;
  const int failure = errno;
  if (file != stdout && std::fclose(file) != 0) return os_error(errno, "writing " + path);
  if (!written || !flushed) return os_error(failure, "writing " + path);
  return {};
}

template <typename Value, typename Parse>
Status parse_all(const std::vector<std::string>& texts, std::vector<Value>& into, Parse parse) {
  for (const std::string& text : texts) {
    auto value = parse(text);
    if (!value) return std::move(value).error();
    into.push_back(*std::move(value));
  }
  return {};
}

/// What most of the requests ended with, of which none had a result.
Error no_result(const Report& report) {
  const std::string& authority = report.options.target.authority;
  const auto& kinds = report.recorder->all().errors_by_kind;
  const auto most = std::max_element(
      kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == kinds.end()) {
    return make_error(Code::kUnavailable, "no request was answered by " + authority);
  }
  const auto said = report.recorder->messages().find(most->first);
  return make_error(
      Code::kUnavailable,
      fmt::format("no request had a result from {}; {} of {} ended with {}{}", authority,
                  most->second, report.recorder->all().planned, most->first,
                  said == report.recorder->messages().end() ? "" : ": " + said->second));
}

/// The bar's line has ended when this returns.
Result<Report> run_with_progress(const Options& options, bool quiet) {
  using Style = ConsoleProgress::Style;
  ConsoleProgress progress(quiet                     ? Style::kQuiet
                           : ::isatty(STDERR_FILENO) ? Style::kBar
                                                     : Style::kLines);
  return run_replay(options, progress);
}

}  // namespace

struct ReplayCommand::Arguments {
  CLI::App* command = nullptr;
  Options options;
  double poisson = 0;
  std::uint32_t closed = 0;
  double duration_s = 0;
  std::uint64_t limit = 0;
  std::uint32_t max_prompt_tokens = 0;
  std::uint32_t max_output_tokens = 0;
  double timeout_s = 60;
  std::string target;
  std::string prompt_tokens = "32";
  std::string output_tokens = "16";
  std::string api = "infer";
  std::string objective;
  std::vector<std::string> classes;
  std::vector<std::string> tenants;
  std::vector<std::string> headers;
  std::string json;
  std::string html;
  bool quiet = false;

  void add_load();
  void add_requests();
  void add_client();
  void add_reports();
  [[nodiscard]] bool given(const std::string& name) const { return command->count(name) > 0; }
  [[nodiscard]] Status settle();
  [[nodiscard]] Status write(const Report& report) const;
};

void ReplayCommand::Arguments::add_load() {
  constexpr const char* kGroup = "Load: one of --trace, --poisson, --closed, and";
  command->add_option("--trace", options.trace, "File with arrivals and lengths; -: standard input")
      ->type_name("FILE")
      ->group(kGroup);
  command->add_option("--poisson", poisson, "Arrivals at random, so many a second on average")
      ->check(within(0.001, kMaxRate))
      ->type_name("RATE")
      ->group(kGroup);
  command
      ->add_option("--closed", closed,
                   "So many requests always outstanding: finds the capacity, says little of "
                   "latency")
      ->check(within(1, 60000))
      ->type_name("N")
      ->group(kGroup);
  command->add_option("--speed", options.speed, "Replay a trace so many times as fast")
      ->check(within(1e-6, 1e6))
      ->capture_default_str()
      ->type_name("FACTOR")
      ->group(kGroup);
  command
      ->add_option("--duration", duration_s,
                   "Seconds in which requests are due; default 10 unless there is a trace or a "
                   "--limit")
      ->check(within(0.001, kMaxSeconds))
      ->type_name("SECONDS")
      ->group(kGroup);
  command->add_option("--limit", limit, "Requests at most")
      ->check(within(std::uint64_t{1}, std::uint64_t{1} << 40U))
      ->type_name("N")
      ->group(kGroup);
  command->add_option("--warmup", options.warmup_s, "Seconds at the start that do not count")
      ->check(within(0.0, kMaxSeconds))
      ->capture_default_str()
      ->type_name("SECONDS")
      ->group(kGroup);
  command->add_option("--seed", options.seed, "Of everything that is drawn at random")
      ->capture_default_str()
      ->type_name("N")
      ->group(kGroup);
}

void ReplayCommand::Arguments::add_requests() {
  constexpr const char* kGroup = "Requests";
  command->add_option("--model", options.model, "Default: the only one that the target has")
      ->type_name("NAME")
      ->group(kGroup);
  command->add_option("--api", api, "infer (POST /infer) or completions (POST /v1/completions)")
      ->check(CLI::IsMember({"infer", "completions"}))
      ->capture_default_str()
      ->group(kGroup);
  command
      ->add_flag("--stream,!--no-stream", options.stream,
                 "Server-sent events; default with --api completions")
      ->group(kGroup);
  command
      ->add_option("--prompt-tokens", prompt_tokens,
                   "N or MIN-MAX, where no trace says how long prompts are")
      ->capture_default_str()
      ->type_name("LENGTH")
      ->group(kGroup);
  command->add_option("--output-tokens", output_tokens, "Likewise: max_tokens of the request")
      ->capture_default_str()
      ->type_name("LENGTH")
      ->group(kGroup);
  command->add_option("--scale-lengths", options.scale_lengths, "Multiply all lengths")
      ->check(within(1e-6, 1e3))
      ->capture_default_str()
      ->type_name("FACTOR")
      ->group(kGroup);
  command->add_option("--max-prompt-tokens", max_prompt_tokens, "Cut longer prompts")
      ->check(within(1, 16 * 1024 * 1024))
      ->type_name("N")
      ->group(kGroup);
  command->add_option("--max-output-tokens", max_output_tokens, "Ask for no more")
      ->check(within(1, 16 * 1024 * 1024))
      ->type_name("N")
      ->group(kGroup);
  command
      ->add_option(
          "--class", classes,
          "NAME:SHARE:PRIORITY[:DEADLINE_MS], once per class; priority 0 (most urgent) to 7")
      ->allow_extra_args(false)
      ->type_name("CLASS")
      ->group(kGroup);
  command->add_option("--tenant", tenants, "NAME:SHARE, once per tenant")
      ->allow_extra_args(false)
      ->type_name("TENANT")
      ->group(kGroup);
  command->add_option("--tenant-header", options.tenant_header, "Field that names the tenant")
      ->capture_default_str()
      ->type_name("NAME")
      ->group(kGroup);
  command->add_option("--header", headers, "\"Name: value\", once per field")
      ->allow_extra_args(false)
      ->type_name("FIELD")
      ->group(kGroup);
}

void ReplayCommand::Arguments::add_client() {
  constexpr const char* kGroup = "Connections";
  command
      ->add_option(
          "--target", target,
          "http://HOST[:PORT][/PATH]; port 80 where none is given; a path replaces the API's own")
      ->required()
      ->type_name("URL")
      ->group(kGroup);
  command->add_option("--connections", options.connections, "Open at most, kept alive")
      ->capture_default_str()
      ->type_name("N")
      ->group(kGroup);
  command
      ->add_option("--max-inflight", options.max_inflight,
                   "Requests due and not answered at most; one more is dropped")
      ->capture_default_str()
      ->type_name("N")
      ->group(kGroup);
  command->add_option("--timeout", timeout_s, "Seconds until a request is given up")
      ->check(within(0.001, 86400.0))
      ->capture_default_str()
      ->type_name("SECONDS")
      ->group(kGroup);
}

void ReplayCommand::Arguments::add_reports() {
  constexpr const char* kGroup = "Reports";
  command
      ->add_option("--slo", objective,
                   "ttft=TIME,itl=TIME,e2e=TIME, any of them: what counts for goodput")
      ->type_name("TIMES")
      ->group(kGroup);
  command->add_option("--json", json, "Write everything to this file; -: the standard output")
      ->type_name("FILE")
      ->group(kGroup);
  command->add_option("--html", html, "Write a page with plots to this file")
      ->type_name("FILE")
      ->group(kGroup);
  command->add_flag("--quiet", quiet, "No progress, no summary")->group(kGroup);
}

Status ReplayCommand::Arguments::settle() {
  auto where = parse_target(target);
  if (!where) return std::move(where).error();
  options.target = *std::move(where);
  if (given("--poisson")) options.poisson_per_s = poisson;
  if (given("--closed")) options.concurrency = closed;
  if (given("--duration")) options.duration_s = duration_s;
  if (given("--limit")) options.limit = limit;
  if (given("--max-prompt-tokens")) options.max_prompt_tokens = max_prompt_tokens;
  if (given("--max-output-tokens")) options.max_output_tokens = max_output_tokens;
  options.timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout_s));
  options.api = api == "infer" ? Api::kInfer : Api::kCompletions;
  if (!given("--stream")) options.stream = options.api == Api::kCompletions;
  auto prompt = parse_length(prompt_tokens);
  if (!prompt) return std::move(prompt).error().context("--prompt-tokens");
  options.prompt_tokens = *prompt;
  auto output = parse_length(output_tokens);
  if (!output) return std::move(output).error().context("--output-tokens");
  options.output_tokens = *output;
  if (Status parsed = parse_all(classes, options.classes, parse_class); !parsed) return parsed;
  if (Status parsed = parse_all(tenants, options.tenants, parse_tenant); !parsed) return parsed;
  if (Status parsed = parse_all(headers, options.headers, parse_header); !parsed) return parsed;
  if (auto named = parse_header(options.tenant_header + ":"); !named) {
    return make_error(Code::kInvalidArgument, "--tenant-header must be the name of a header field");
  }
  if (!objective.empty()) {
    auto parsed = parse_objective(objective);
    if (!parsed) return std::move(parsed).error();
    options.objective = *parsed;
  }
  return options.complete();
}

Status ReplayCommand::Arguments::write(const Report& report) const {
  // One that cannot be written does not cost the others; the first failure is told.
  Status all;
  const auto keep = [&](Status written) {
    if (all && !written) all = std::move(written);
  };
  if (!json.empty()) {
    keep(write_file(json, to_json_text(boost::json::value(to_json(report))) + "\n"));
  }
  if (!html.empty()) keep(write_file(html, to_html(report)));
  // JSON on the standard output stays alone there.
  if (!quiet && json != "-") keep(write_file("-", to_text(report)));
  return all;
}

ReplayCommand::ReplayCommand(CLI::App& app) : arguments_(std::make_unique<Arguments>()) {
  arguments_->command = app.add_subcommand(
      "replay", "Offer load to an inference server, of a trace or at random, and measure it");
  arguments_->add_load();
  arguments_->add_requests();
  arguments_->add_client();
  arguments_->add_reports();
  arguments_->command->footer(kFooter);
}

ReplayCommand::~ReplayCommand() = default;

bool ReplayCommand::parsed() const { return arguments_->command->parsed(); }

Status ReplayCommand::run() {
  if (Status settled = arguments_->settle(); !settled) return settled;
  for (const std::string& path : {arguments_->json, arguments_->html}) {
    if (Status writable = check_writable(path); !writable) return writable;
  }
  auto report = run_with_progress(arguments_->options, arguments_->quiet);
  if (!report) return std::move(report).error();
  if (Status written = arguments_->write(*report); !written) return written;
  if (report->recorder->answered() == 0 && !report->facts.interrupted) {
    return no_result(*report);
  }
  return {};
}

}  // namespace weir::replay
