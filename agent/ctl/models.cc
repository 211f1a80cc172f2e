// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/models.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_to.hpp>
#include <chrono>
#include <cstdio>
#include <future>
#include <vector>

#include "agent/base/json_text.h"
#include "agent/ctl/http_call.h"
#include "agent/ctl/text_table.h"

namespace weir::ctl {
namespace json = boost::json;
namespace {

constexpr std::chrono::seconds kListTimeout{10};
/// A large model from a slow disk, and the end of all requests of one that is unloaded.
constexpr std::chrono::seconds kOperationTimeout{3600};
constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::size_t kBarWidth = 30;

constexpr const char* kFooter =
    R"(WHAT IT SHOWS
  STATE     unloaded  loads at its first request; "unloaded, off": only when told, it was unloaded
                      by a command
            loading   and how much of the file is there
            warming   its first decode, before any request
            ready     serves
            draining  finishes its requests, then unloads
            failed    the reason is below the table; tried again by requests, or when told
  INSTANCES contexts over the one file in memory; "-": has no file
  RUNNING   requests that it works on; WAITING: for that
  MEMORY    set aside for what is loaded, against registry.memory_bytes; FILE: on disk; RESIDENT: of
            the file, in memory. --json has the parts: the mapped file, weights copied beside it, KV
            cells, what a step computes with, and its output
  LOADS     since the agent started; USED: since its last request ended

WHAT IT DOES
  load      waits until the model is ready. Where another file has taken the place of the one that
            is loaded, the new one is loaded beside it and takes over; if it fails, the old one
            stays. Replace a file by a rename, never by writing into it.
  unload    waits until the model's last request has ended and its memory is free. Requests are
            refused from now on, until it is loaded again.

EXAMPLES
  weir models
  weir models load tiny-stories
  weir models --url http://127.0.0.1:9000 --json

EXIT STATUS
  0 done; 1 the agent does not answer, or says why not; 2 wrong options.)";

std::string bytes_text(double bytes) {
  if (bytes <= 0) return "-";
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

double number(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains({key.data(), key.size()});
  boost::system::error_code failure;
  const double number = value == nullptr ? 0 : value->to_number<double>(failure);
  return failure ? 0 : number;
}

/// Of the file, in percent.
std::string resident_text(const json::object& own) {
  const json::value* const memory = own.if_contains("memory");
  if (memory == nullptr || !memory->is_object()) return "-";
  const json::object& parts = memory->get_object();
  const double mapped = number(parts, "mapped_bytes");
  if (mapped <= 0 || !parts.contains("resident_bytes")) return "-";
  return fmt::format("{:.0f} %", 100 * number(parts, "resident_bytes") / mapped);
}

std::string ago_text(double seconds) {
  if (seconds < 60) return fmt::format("{:.0f} s ago", seconds);
  if (seconds < 3600) return fmt::format("{:.0f} min ago", seconds / 60);
  return fmt::format("{:.1f} h ago", seconds / 3600);
}

std::string text(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains({key.data(), key.size()});
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

bool flag(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains({key.data(), key.size()});
  return value != nullptr && value->is_bool() && value->get_bool();
}

/// Empty when the agent is not one of ours.
json::object own_part(const json::object& model) {
  const json::value* const own = model.if_contains("weir");
  return own != nullptr && own->is_object() ? own->get_object() : json::object();
}

std::string state_text(const json::object& own) {
  std::string state = text(own, "state");
  if (state == "loading")
    return fmt::format("loading {:.0f} %", 100 * number(own, "load_progress"));
  if (own.contains("replacement_progress")) {
    return fmt::format("{}, next {:.0f} %", state, 100 * number(own, "replacement_progress"));
  }
  if (state == "unloaded" && flag(own, "disabled")) return "unloaded, off";
  return state;
}

/// The message of an error of ours, or the body.
std::string message_of(const HttpAnswer& answer) {
  boost::system::error_code failure;
  const json::value body = json::parse(answer.body, failure);
  if (!failure && body.is_object()) {
    const json::value* const error = body.get_object().if_contains("error");
    if (error != nullptr && error->is_object()) return text(error->get_object(), "message");
  }
  return fmt::format("HTTP status {}", answer.status);
}

Error refused(const HttpAnswer& answer) {
  return make_error(Code::kUnavailable, message_of(answer));
}

Result<json::array> list(const HttpTarget& target) {
  auto answer = http_post(target, "/v2/repository/index", "{}", kListTimeout);
  if (!answer) return std::move(answer).error();
  if (answer->status != 200) return refused(*answer);
  boost::system::error_code failure;
  json::value body = json::parse(answer->body, failure);
  if (failure || !body.is_array()) {
    return make_error(Code::kUnavailable, "the answer is not a list of models");
  }
  return std::move(body.get_array());
}

/// The line that a terminal shows while the model loads; empty when nothing is known of it.
std::string progress_line(const json::array& models, const std::string& name, double seconds) {
  for (const json::value& model : models) {
    if (!model.is_object() || text(model.get_object(), "name") != name) continue;
    const json::object own = own_part(model.get_object());
    const bool replaces = own.contains("replacement_progress");
    const double ratio =
        std::clamp(number(own, replaces ? "replacement_progress" : "load_progress"), 0.0, 1.0);
    const auto full = static_cast<std::size_t>(ratio * kBarWidth);
    return fmt::format("{} {} [{}{}] {:3.0f} %  {:.1f} s",
                       replaces ? "loading the next version of" : text(own, "state"), name,
                       std::string(full, '#'), std::string(kBarWidth - full, ' '), 100 * ratio,
                       seconds);
  }
  return "";
}

Result<std::string> operate(const HttpTarget& target, const std::string& name,
                            const std::string& what, bool as_json) {
  const auto started = std::chrono::steady_clock::now();
  auto waits = std::async(std::launch::async, [&] {
    return http_post(target, fmt::format("/v2/repository/models/{}/{}", name, what), "{}",
                     kOperationTimeout);
  });
  const bool terminal = isatty(STDERR_FILENO) == 1 && what == "load";
  while (waits.wait_for(kRedraw) != std::future_status::ready) {
    if (!terminal) continue;
    const auto models = list(target);
    if (!models) continue;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
    std::fprintf(stderr, "\r%s\033[K", progress_line(*models, name, took.count()).c_str());
    std::fflush(stderr);
  }
  if (terminal) std::fputs("\r\033[K", stderr);
  auto answer = waits.get();
  if (!answer) return std::move(answer).error();
  if (answer->status != 200) return refused(*answer);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  if (as_json) {
    return to_json_text({{"name", name}, {"done", what}, {"seconds", took.count()}}) + "\n";
  }
  return fmt::format("{} {}ed in {:.2f} s\n", name, what, took.count());
}

}  // namespace

std::string models_text(const json::array& models) {
  std::vector<Row> rows{{"NAME", "STATE", "INSTANCES", "RUNNING", "WAITING", "MEMORY", "FILE",
                         "RESIDENT", "LOADS", "USED"}};
  std::string reasons;
  for (const json::value& value : models) {
    if (!value.is_object()) continue;
    const json::object& model = value.get_object();
    const json::object own = own_part(model);
    const auto count = [&](std::string_view key) {
      return fmt::format("{:.0f}", number(own, key));
    };
    rows.push_back({text(model, "name"), state_text(own),
                    own.contains("instances") ? count("instances") : "-", count("requests_running"),
                    count("requests_waiting"), bytes_text(number(own, "memory_bytes")),
                    bytes_text(number(own, "file_bytes")), resident_text(own), count("loads"),
                    own.contains("seconds_since_used") ? ago_text(number(own, "seconds_since_used"))
                                                       : "never"});
    const std::string reason = text(model, "reason");
    if (!reason.empty() && reason != "unloaded") {
      reasons += fmt::format("\n{}: {}", text(model, "name"), reason);
    }
  }
  if (rows.size() == 1) return "no models\n";
  if (!reasons.empty()) reasons += '\n';
  return format_table(rows, 2) + reasons;
}

struct ModelsCommand::Arguments {
  CLI::App* command = nullptr;
  CLI::App* load = nullptr;
  CLI::App* unload = nullptr;
  std::string url = "http://127.0.0.1:8080";
  std::string name;
  bool json = false;
};

ModelsCommand::ModelsCommand(CLI::App& app) : arguments_(std::make_unique<Arguments>()) {
  Arguments& given = *arguments_;
  given.command = app.add_subcommand("models", "What an agent's models do; loads and unloads them");
  given.command->add_option("--url", given.url, "The agent (serve.http)")->capture_default_str();
  given.command->add_flag("--json", given.json, "Print JSON");
  given.command->footer(kFooter);
  given.command->require_subcommand(0, 1);
  given.load = given.command->add_subcommand("load", "Load it, or its new version; wait for it");
  given.unload = given.command->add_subcommand("unload", "Unload it, and keep it unloaded");
  for (CLI::App* const operation : {given.load, given.unload}) {
    operation->add_option("NAME", given.name, "Name of the model")->required();
  }
}

ModelsCommand::~ModelsCommand() = default;

bool ModelsCommand::parsed() const { return arguments_->command->parsed(); }

Result<std::string> ModelsCommand::run() {
  const auto target = parse_http_url(arguments_->url);
  if (!target) return target.error();
  const bool as_json = arguments_->json;
  if (arguments_->load->parsed()) return operate(*target, arguments_->name, "load", as_json);
  if (arguments_->unload->parsed()) return operate(*target, arguments_->name, "unload", as_json);
  auto models = list(*target);
  if (!models) return std::move(models).error();
  if (as_json) return to_json_text(*models) + "\n";
  return models_text(*models);
}

}  // namespace weir::ctl
