// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/bench_model.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <random>
#include <utility>

#include "agent/base/json_text.h"
#include "agent/ctl/local_model.h"
#include "agent/ctl/text_table.h"
#include "agent/model/generation.h"

namespace weir::ctl {
namespace {

using model::Completion;

constexpr std::uint32_t kMostSequences = 256;
constexpr std::uint32_t kProbeWords = 64;
/// A tokenizer may make more of one text than of another that is as long.
constexpr std::uint32_t kSpareTokens = 64;

constexpr const char* kFooter =
    R"(WHAT IT MEASURES
  prompt     so many sequences with a prompt of -p tokens each, until all have their first token
  generated  so many sequences with a prompt of a few words, from the first token of any until the
             last one has ended
  Both in tokens per second of all sequences together: median of the rounds, least and greatest.
  Prompts are random words, each another one, so that none is known from before. A round goes through
  all numbers of sequences, so that what disturbs the machine for a while disturbs them all.

EXAMPLE
  weir bench-model -m model.gguf --batch 1,8 --rounds 5 --json

EXIT STATUS
  0 done; 1 the model could not be loaded or failed; 2 wrong options.)";

/// Remembers when what came.
class Stopwatch final : public model::Listener {
 public:
  Stopwatch(const Clock& clock, std::mutex& mutex, std::condition_variable& ended)
      : clock_(clock), mutex_(mutex), ended_(ended) {}

  void on_text(std::string_view /*text*/) override {}
  void on_complete(const Completion& completion) override {
    const std::lock_guard lock(mutex_);
    end_ = clock_.now();
    completion_ = completion;
    ended_.notify_one();
  }
  void on_error(const Error& error) override {
    const std::lock_guard lock(mutex_);
    end_ = clock_.now();
    error_ = error;
    ended_.notify_one();
  }

  // Under the mutex.
  [[nodiscard]] bool over() const { return end_ != TimePoint{}; }
  [[nodiscard]] TimePoint end() const { return end_; }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  [[nodiscard]] const Completion& completion() const { return completion_; }

 private:
  const Clock& clock_;
  std::mutex& mutex_;
  std::condition_variable& ended_;
  TimePoint end_;
  std::optional<Error> error_;
  Completion completion_;
};

/// One sequence of a run.
struct Ran {
  TimePoint first_token;
  TimePoint end;
  Completion completion;
};

class Prompts {
 public:
  std::string words(std::uint32_t count) {
    static constexpr std::array<const char*, 16> kWords = {
        "the",  "river", "and",  "some", "people", "under", "small", "light",
        "that", "makes", "time", "with", "water",  "from",  "other", "days"};
    std::string text;
    for (std::uint32_t i = 0; i < count; ++i) {
      text += (i > 0 ? " " : "");
      text += kWords[random_() % kWords.size()];
    }
    return text;
  }

 private:
  std::mt19937 random_{1};  // NOLINT(cert-msc51-cpp): the same prompts in each run
};

/// `count` requests at once, each with a prompt of so many words.
Result<std::vector<Ran>> run_together(LocalModel& model, Prompts& prompts, std::uint32_t count,
                                      std::uint32_t words, std::uint32_t max_tokens) {
  std::mutex mutex;
  std::condition_variable ended;
  std::vector<std::shared_ptr<Stopwatch>> watches;
  std::vector<std::shared_ptr<model::GenerationRequest>> requests;
  for (std::uint32_t i = 0; i < count; ++i) {
    watches.push_back(std::make_shared<Stopwatch>(model.clock(), mutex, ended));
    requests.push_back(std::make_shared<model::GenerationRequest>());
    requests.back()->prompt = prompts.words(words);
    requests.back()->max_tokens = max_tokens;
    requests.back()->sampling.temperature = 0;
    requests.back()->listener = watches.back();
  }
  std::optional<Error> failed;
  std::size_t taken = 0;
  for (const auto& request : requests) {
    failed = model.submit(request);
    if (failed) break;
    ++taken;
  }
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] {
    return std::all_of(watches.begin(), watches.begin() + static_cast<std::ptrdiff_t>(taken),
                       [](const auto& watch) { return watch->over(); });
  });
  std::vector<Ran> ran;
  for (const auto& watch : watches) {
    if (!failed) failed = watch->error();
    const Completion& completion = watch->completion();
    ran.push_back(
        {watch->end() - (completion.total - completion.first_token), watch->end(), completion});
  }
  if (failed) return *std::move(failed);
  return ran;
}

double seconds(Duration time) { return std::chrono::duration<double>(time).count(); }

struct Memory {
  std::uint64_t resident_bytes = 0;
  std::uint64_t anonymous_bytes = 0;
};

/// proc(5); zeros where it says nothing.
Memory own_memory() {
  Memory memory;
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    const auto value = [&] {
      return std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10) * 1024;
    };
    if (line.starts_with("VmRSS:")) memory.resident_bytes = value();
    if (line.starts_with("RssAnon:")) memory.anonymous_bytes = value();
  }
  return memory;
}

class Bench {
 public:
  Bench(const BenchModelOptions& options, LocalModel& model) : options_(options), model_(model) {}

  Result<BenchModelReport> run() {
    BenchModelReport report;
    report.path = options_.path;
    // Loads the model, and tells how many tokens the tokenizer makes of a word.
    auto probe = run_together(model_, prompts_, 1, kProbeWords, 1);
    if (!probe) return std::move(probe).error();
    report.load_s = seconds(probe->front().completion.queued);
    words_ = std::max(1U, options_.prompt_tokens * kProbeWords /
                              std::max(1U, probe->front().completion.usage.prompt_tokens));
    for (const std::uint32_t sequences : options_.batches) {
      report.batches.push_back({sequences, {}, {}, 0});
    }
    for (std::uint32_t round = 0; round < options_.rounds; ++round) {
      for (BatchFigures& figures : report.batches) {
        if (Status measured = measure_prompts(figures, report); !measured) {
          return std::move(measured).error();
        }
        if (Status measured = measure_generation(figures); !measured) {
          return std::move(measured).error();
        }
      }
    }
    const model::ModelInfo info = model_.info();
    report.parameters = info.parameters;
    report.file_bytes = info.file_bytes;
    report.generate_tokens = options_.generate_tokens;
    const Memory memory = own_memory();
    report.resident_bytes = memory.resident_bytes;
    report.anonymous_bytes = memory.anonymous_bytes;
    return report;
  }

 private:
  Status measure_prompts(BatchFigures& figures, BenchModelReport& report) {
    const TimePoint begin = model_.clock().now();
    auto ran = run_together(model_, prompts_, figures.sequences, words_, 1);
    if (!ran) return std::move(ran).error();
    TimePoint last = begin;
    double tokens = 0;
    for (const Ran& one : *ran) {
      last = std::max(last, one.first_token);
      tokens += one.completion.usage.prompt_tokens;
    }
    report.prompt_tokens = ran->front().completion.usage.prompt_tokens;
    figures.prompt_per_s.push_back(tokens / seconds(last - begin));
    return {};
  }

  Status measure_generation(BatchFigures& figures) {
    constexpr std::uint32_t kFewWords = 4;
    auto ran =
        run_together(model_, prompts_, figures.sequences, kFewWords, options_.generate_tokens);
    if (!ran) return std::move(ran).error();
    TimePoint first = ran->front().first_token;
    TimePoint last = ran->front().end;
    double tokens = 0;
    for (const Ran& one : *ran) {
      first = std::min(first, one.first_token);
      last = std::max(last, one.end);
      const std::uint32_t generated = one.completion.usage.completion_tokens;
      if (generated < options_.generate_tokens) ++figures.ended_early;
      tokens += generated > 0 ? generated - 1 : 0;  // the first is the prompt's
    }
    // An end of its own instead of a second token leaves no time to measure.
    if (last > first) figures.generated_per_s.push_back(tokens / seconds(last - first));
    return {};
  }

  const BenchModelOptions& options_;
  LocalModel& model_;
  Prompts prompts_;
  std::uint32_t words_ = 1;
};

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::string range_text(const std::vector<double>& values) {
  if (values.size() < 2) return "";
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return fmt::format("{:.1f}..{:.1f}", *least, *most);
}

boost::json::object json_of(const std::vector<double>& values) {
  boost::json::object object{{"median", median(values)},
                             {"rounds", boost::json::array(values.begin(), values.end())}};
  return object;
}

}  // namespace

Result<std::vector<std::uint32_t>> parse_batches(std::string_view text) {
  std::vector<std::uint32_t> batches;
  const auto wrong = [&] {
    return make_error(Code::kInvalidArgument,
                      fmt::format("--batch must be numbers from 1 to {}, each once, with commas "
                                  "between them, not \"{}\"",
                                  kMostSequences, text));
  };
  for (std::string_view rest = text;;) {
    const std::string_view item = rest.substr(0, rest.find(','));
    std::uint32_t value = 0;
    const auto parsed = std::from_chars(item.data(), item.data() + item.size(), value);
    if (parsed.ec != std::errc() || parsed.ptr != item.data() + item.size() || value < 1 ||
        value > kMostSequences ||
        std::find(batches.begin(), batches.end(), value) != batches.end()) {
      return wrong();
    }
    batches.push_back(value);
    if (item.size() == rest.size()) return batches;
    rest.remove_prefix(item.size() + 1);
  }
}

std::string to_text(const BenchModelReport& report) {
  constexpr double kMiB = 1 << 20;
  std::string out = fmt::format(
      "{}: {:.1f} M parameters, {:.1f} MiB, loaded in {:.2f} s; resident {:.1f} MiB, of it "
      "anonymous {:.1f} MiB\n\n",
      report.path, static_cast<double>(report.parameters) / 1e6,
      static_cast<double>(report.file_bytes) / kMiB, report.load_s,
      static_cast<double>(report.resident_bytes) / kMiB,
      static_cast<double>(report.anonymous_bytes) / kMiB);
  std::vector<Row> rows = {{"SEQUENCES", fmt::format("PROMPT {}", report.prompt_tokens), "RANGE",
                            fmt::format("GENERATED {}", report.generate_tokens), "RANGE", "EACH"}};
  std::uint64_t early = 0;
  for (const BatchFigures& figures : report.batches) {
    const double generated = median(figures.generated_per_s);
    rows.push_back({std::to_string(figures.sequences),
                    fmt::format("{:.1f}", median(figures.prompt_per_s)),
                    range_text(figures.prompt_per_s), fmt::format("{:.1f}", generated),
                    range_text(figures.generated_per_s),
                    fmt::format("{:.1f}", generated / figures.sequences)});
    early += figures.ended_early;
  }
  out += format_table(rows, 0) + "\nTokens per second: median of the rounds, least and greatest.\n";
  if (early > 0) {
    out += fmt::format("{} sequences found an end of their own before {} tokens.\n", early,
                       report.generate_tokens);
  }
  return out;
}

std::string to_json(const BenchModelReport& report) {
  boost::json::array batches;
  for (const BatchFigures& figures : report.batches) {
    batches.push_back({{"sequences", figures.sequences},
                       {"prompt_per_s", json_of(figures.prompt_per_s)},
                       {"generated_per_s", json_of(figures.generated_per_s)},
                       {"ended_early", figures.ended_early}});
  }
  return to_json_text({{"path", report.path},
                       {"parameters", report.parameters},
                       {"file_bytes", report.file_bytes},
                       {"load_s", report.load_s},
                       {"prompt_tokens", report.prompt_tokens},
                       {"generate_tokens", report.generate_tokens},
                       {"resident_bytes", report.resident_bytes},
                       {"anonymous_bytes", report.anonymous_bytes},
                       {"batches", std::move(batches)}}) +
         "\n";
}

struct BenchModelCommand::Arguments {
  CLI::App* command = nullptr;
  BenchModelOptions options;

  void add(CLI::App& app);
};

void BenchModelCommand::Arguments::add(CLI::App& app) {
  command = app.add_subcommand("bench-model", "How many tokens a second a model makes here");
  command->add_option("-m,--model", options.path, "GGUF file")->required()->type_name("FILE");
  command->add_option("-p,--prompt-tokens", options.prompt_tokens, "Of each prompt, about")
      ->check(CLI::Range(1, 1 << 17))
      ->capture_default_str()
      ->type_name("N");
  command->add_option("-n,--generate-tokens", options.generate_tokens, "Of each answer")
      ->check(CLI::Range(2, 1 << 17))
      ->capture_default_str()
      ->type_name("N");
  command
      ->add_option_function<std::string>(
          "--batch",
          [this](const std::string& text) {
            auto batches = parse_batches(text);
            if (!batches) throw CLI::ValidationError(batches.error().message);
            options.batches = *std::move(batches);
          },
          "Sequences decoded together; default 1,4,8,32")
      ->type_name("N,N,...");
  command->add_option("--rounds", options.rounds, "Of each measurement")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->type_name("N");
  command
      ->add_option_function<std::uint32_t>(
          "--threads", [this](std::uint32_t threads) { options.threads = threads; },
          "Default: as the agent chooses, by the file's size and the CPUs")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command->add_flag("--json", options.json, "Print JSON");
  command->footer(kFooter);
}

BenchModelCommand::BenchModelCommand(CLI::App& app) : arguments_(std::make_unique<Arguments>()) {
  arguments_->add(app);
}

BenchModelCommand::~BenchModelCommand() = default;

bool BenchModelCommand::parsed() const { return arguments_->command->parsed(); }

const BenchModelOptions& BenchModelCommand::options() const { return arguments_->options; }

Result<std::string> BenchModelCommand::run() {
  const BenchModelOptions& options = arguments_->options;
  LocalModelOptions local;
  local.path = options.path;
  local.sequences = *std::max_element(options.batches.begin(), options.batches.end());
  const std::uint32_t longest =
      std::max({options.prompt_tokens, options.generate_tokens, 4 * kProbeWords});
  local.context_tokens = longest + longest / 4 + kSpareTokens;
  local.threads = options.threads;
  auto model = LocalModel::create(local);
  if (!model) return std::move(model).error();
  auto report = Bench(options, **model).run();
  if (!report) return std::move(report).error();
  return options.json ? to_json(*report) : to_text(*report);
}

}  // namespace weir::ctl
