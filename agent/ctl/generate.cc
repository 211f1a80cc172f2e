// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/generate.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <boost/json/value.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <limits>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include "agent/base/json_text.h"
#include "agent/ctl/watch_loop.h"
#include "agent/kernel/fd.h"

namespace weir::ctl {
namespace {

using model::Completion;

constexpr std::uint32_t kFewestContextTokens = 512;
constexpr std::uint32_t kContextStep = 256;  // libllama counts cells in these
/// How often the progress of a load is shown.
constexpr int kShowEveryMs = 200;

constexpr const char* kFooter =
    R"(WHAT IT DOES
  Loads the file, answers the prompt, and ends: a quick look at a model, with the engine that
  weir-agent serves it with and without a server. The prompt is taken as it is; a chat model wants
  its template around it.

  Text goes to the standard output as it comes. How long the load took, and tokens per second of
  the prompt and of the answer, go to the standard error. With --json everything is one object on
  the standard output, once the answer is complete.

EXAMPLES
  weir generate -m deploy/models/tiny-stories-1m-q8_0.gguf -p "Once upon a time" --seed 1
  weir generate -m model.gguf -p - --temperature 0 --json < question.txt

EXIT STATUS
  0 done; 1 the model could not be loaded or failed; 2 wrong options, or a prompt that does not fit;
  130 interrupted.)";

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

/// 0 where nothing could be measured.
double per_second(std::uint32_t tokens, std::chrono::nanoseconds time) {
  return time.count() > 0 ? tokens / seconds(time) : 0;
}

struct Timings {
  explicit Timings(const Completion& done)
      : load(done.queued),
        prompt(done.first_token - done.queued),
        generation(done.total - done.first_token),
        prompt_per_second(per_second(done.usage.prompt_tokens, prompt)),
        // The first token is the prompt's.
        generated_per_second(per_second(
            done.usage.completion_tokens > 0 ? done.usage.completion_tokens - 1 : 0, generation)) {}

  std::chrono::nanoseconds load;
  std::chrono::nanoseconds prompt;
  std::chrono::nanoseconds generation;
  double prompt_per_second;
  double generated_per_second;
};

std::string_view name_of(model::FinishReason reason) {
  return reason == model::FinishReason::kStop ? "stop" : "length";
}

/// What the engine's thread has told and the command has not printed.
class Mailbox final : public model::Listener {
 public:
  using End = std::variant<Completion, Error>;

  explicit Mailbox(int wake) : wake_(wake) {}

  void on_text(std::string_view text) override {
    const std::lock_guard lock(mutex_);
    text_ += text;
    wake();
  }
  void on_complete(const Completion& completion) override { end(completion); }
  void on_error(const Error& error) override { end(error); }

  /// Text since the last call, and the end once everything was taken.
  std::pair<std::string, std::optional<End>> take() {
    const std::lock_guard lock(mutex_);
    return {std::exchange(text_, {}), end_};
  }

 private:
  void end(End how) {
    const std::lock_guard lock(mutex_);
    end_ = std::move(how);
    wake();
  }
  void wake() const {
    const std::uint64_t one = 1;
    // Fails only when 2^64 - 1 wakes were not noticed.
    static_cast<void>(!::write(wake_, &one, sizeof one));
  }

  const int wake_;
  std::mutex mutex_;
  std::string text_;        // guarded by mutex_
  std::optional<End> end_;  // guarded by mutex_
};

/// Blocks SIGINT and SIGTERM in this thread and all that it starts, and tells of them. A closed
/// standard output is an error of write() from then on.
Result<kernel::Fd> watch_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  if (const int failure = pthread_sigmask(SIG_BLOCK, &signals, nullptr); failure != 0) {
    return os_error(failure, "pthread_sigmask");
  }
  std::signal(SIGPIPE, SIG_IGN);
  kernel::Fd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return os_error(errno, "signalfd");
  return fd;
}

/// The line of a load that takes long, on a terminal.
class LoadProgress {
 public:
  void show(const model::ModelInfo& info) {
    if (info.state != model::ModelInfo::State::kLoading || ::isatty(STDERR_FILENO) == 0) return;
    std::fprintf(stderr, "\rloading %3.0f %%", static_cast<double>(info.load_progress) * 100);
    shown_ = true;
  }
  void clear() {
    if (std::exchange(shown_, false)) std::fprintf(stderr, "\r             \r");
  }

 private:
  bool shown_ = false;
};

Result<std::string> read_prompt(const std::string& given) {
  if (given != "-") return given;
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  if (std::cin.bad()) return os_error(errno, "reading the prompt");
  return text;
}

}  // namespace

std::uint32_t context_for(std::size_t prompt_bytes, std::uint32_t max_tokens) {
  constexpr std::uint64_t kMarks = 8;  // beginning and end of the text
  const std::uint64_t need =
      std::min<std::uint64_t>(prompt_bytes, model::kMostContextTokens) + max_tokens + kMarks;
  const std::uint64_t rounded = (need + kContextStep - 1) / kContextStep * kContextStep;
  return static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(rounded, kFewestContextTokens, model::kMostContextTokens));
}

std::string timings_text(const Completion& completion) {
  const Timings timings(completion);
  return fmt::format(
      "load {:.2f} s, prompt {} tokens {:.1f}/s, generated {} tokens {:.1f}/s, "
      "ended by {}",
      seconds(timings.load), completion.usage.prompt_tokens, timings.prompt_per_second,
      completion.usage.completion_tokens, timings.generated_per_second, name_of(completion.reason));
}

std::string answer_json(const std::string& text, const Completion& completion) {
  const Timings timings(completion);
  return to_json_text({{"text", text},
                       {"finish_reason", name_of(completion.reason)},
                       {"usage",
                        {{"prompt_tokens", completion.usage.prompt_tokens},
                         {"completion_tokens", completion.usage.completion_tokens}}},
                       {"timings",
                        {{"load_ms", seconds(timings.load) * 1000},
                         {"prompt_ms", seconds(timings.prompt) * 1000},
                         {"prompt_per_second", timings.prompt_per_second},
                         {"generation_ms", seconds(timings.generation) * 1000},
                         {"generated_per_second", timings.generated_per_second}}}});
}

struct GenerateCommand::Arguments {
  CLI::App* command = nullptr;
  GenerateOptions options;

  void add(CLI::App& app);
  /// Prints what comes until the end; the exit status.
  [[nodiscard]] Result<int> follow(LocalModel& model, model::GenerationRequest& request,
                                   Mailbox& mailbox, int signals, int wake) const;
};

void GenerateCommand::Arguments::add(CLI::App& app) {
  command = app.add_subcommand("generate", "Text from a model file, here and without a server");
  command->add_option("-m,--model", options.model.path, "GGUF file")->required()->type_name("FILE");
  command->add_option("-p,--prompt", options.prompt, "The text to go on with; -: standard input")
      ->required()
      ->type_name("TEXT");
  command->add_option("-n,--max-tokens", options.max_tokens, "Tokens at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->type_name("N");
  model::SamplingParams& sampling = options.sampling;
  command->add_option("--temperature", sampling.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str()
      ->type_name("T");
  command->add_option("--top-k", sampling.top_k, "Of the K likeliest tokens; 0: of all")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str()
      ->type_name("K");
  command->add_option("--top-p", sampling.top_p, "Of the likeliest that have this share together")
      ->check(CLI::Range(0.001, 1.0))
      ->capture_default_str()
      ->type_name("P");
  command
      ->add_option_function<std::uint32_t>(
          "--seed", [this](std::uint32_t seed) { options.sampling.seed = seed; },
          "The same seed, the same text; default: drawn")
      ->type_name("N");
  command->add_option("--stop", options.stop, "Ends before this text; may be given again")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  command
      ->add_option_function<std::uint32_t>(
          "--threads", [this](std::uint32_t threads) { options.model.threads = threads; },
          "Default: as the agent chooses, by the file's size and the CPUs")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command
      ->add_option_function<std::uint32_t>(
          "--context", [this](std::uint32_t tokens) { options.model.context_tokens = tokens; },
          "Tokens of prompt and answer; default: what they need")
      ->check(CLI::Range(32U, model::kMostContextTokens))
      ->type_name("N");
  command->add_flag("--json", options.json, "Print JSON, once the answer is complete");
  command->footer(kFooter);
}

Result<int> GenerateCommand::Arguments::follow(LocalModel& model, model::GenerationRequest& request,
                                               Mailbox& mailbox, int signals, int wake) const {
  LoadProgress progress;
  std::string all;
  bool interrupted = false;
  bool closed = false;  // nobody reads the text any more
  bool printed = false;
  for (;;) {
    std::array<pollfd, 2> ready = {{{wake, POLLIN, 0}, {signals, POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), kShowEveryMs) < 0 && errno != EINTR) {
      return os_error(errno, "poll");
    }
    if ((ready[1].revents & POLLIN) != 0) {
      signalfd_siginfo signal{};
      interrupted = ::read(signals, &signal, sizeof signal) > 0 || interrupted;
      request.cancel();
    }
    std::uint64_t wakes = 0;
    if ((ready[0].revents & POLLIN) != 0) static_cast<void>(!::read(wake, &wakes, sizeof wakes));
    auto [text, end] = mailbox.take();
    if (text.empty() && !end) {
      progress.show(model.info());
      continue;
    }
    progress.clear();
    if (options.json) {
      all += text;
    } else if (!text.empty() && !closed) {
      if (Status written = write_stdout(text); !written) {
        if (written.error().os_errno != EPIPE) return std::move(written).error();
        closed = true;
        request.cancel();
      }
      printed = true;
    }
    if (!end) continue;
    if (closed) return 0;
    const bool failed = std::holds_alternative<Error>(*end);
    if (!options.json && (printed || !failed)) std::printf("\n");
    if (interrupted && failed) return kInterrupted;
    if (auto* const failure = std::get_if<Error>(&*end)) return std::move(*failure);
    const auto& completion = std::get<Completion>(*end);
    if (options.json) {
      std::printf("%s\n", answer_json(all, completion).c_str());
    } else {
      std::fflush(stdout);  // the text stands before the times, also where both go to one file
      std::fprintf(stderr, "weir: %s\n", timings_text(completion).c_str());
    }
    if (std::fflush(stdout) != 0) return os_error(errno, "writing the text");
    return 0;
  }
}

GenerateCommand::GenerateCommand(CLI::App& app) : arguments_(std::make_unique<Arguments>()) {
  arguments_->add(app);
}

GenerateCommand::~GenerateCommand() = default;

bool GenerateCommand::parsed() const { return arguments_->command->parsed(); }

const GenerateOptions& GenerateCommand::options() const { return arguments_->options; }

Result<int> GenerateCommand::run() {
  GenerateOptions& options = arguments_->options;
  auto prompt = read_prompt(options.prompt);
  if (!prompt) return std::move(prompt).error();
  // Before the first thread: all of them inherit the mask.
  auto signals = watch_signals();
  if (!signals) return std::move(signals).error();
  const kernel::Fd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return os_error(errno, "eventfd");

  if (!options.model.context_tokens) {
    options.model.context_tokens = context_for(prompt->size(), options.max_tokens);
  }
  auto model = LocalModel::create(options.model);
  if (!model) return std::move(model).error();
  const auto mailbox = std::make_shared<Mailbox>(wake.get());
  const auto request = std::make_shared<model::GenerationRequest>();
  request->prompt = *std::move(prompt);
  request->max_tokens = options.max_tokens;
  request->sampling = options.sampling;
  request->stop = options.stop;
  request->listener = mailbox;
  if (auto refused = (*model)->submit(request)) return *std::move(refused);
  return arguments_->follow(**model, *request, *mailbox, signals->get(), wake.get());
}

}  // namespace weir::ctl
