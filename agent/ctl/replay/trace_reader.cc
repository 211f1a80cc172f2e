// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/trace_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parse.hpp>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "agent/ctl/replay/trace_date.h"

namespace weir::replay {
namespace {

namespace json = boost::json;

constexpr std::uint32_t kMaxTokens = 16 * 1024 * 1024;
constexpr double kMaxSeconds = 1e9;  // 31 years: whole nanoseconds of it fit 64 bits
constexpr std::size_t kMaxRecords = 50'000'000;
constexpr std::size_t kShownBytes = 60;

std::string shown(std::string_view text) {
  std::string out(text.substr(0, kShownBytes));
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > kShownBytes ? out + "..." : out;
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

/// Where a reader is, for its errors.
struct Place {
  const std::string& name;
  std::uint64_t line = 0;

  [[nodiscard]] Error wrong(std::string_view what) const {
    return make_error(Code::kInvalidArgument, fmt::format("{}:{}: {}", name, line, what));
  }
};

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || status != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

/// Written so that NaN is outside.
bool within(double value, double low, double high) { return value >= low && value <= high; }

Result<std::chrono::nanoseconds> to_time(const Place& place, std::string_view field,
                                         std::optional<double> value, double unit_s,
                                         std::string_view unit) {
  if (value && within(*value * unit_s, 0, kMaxSeconds)) {
    return std::chrono::nanoseconds(std::llround(*value * unit_s * 1e9));
  }
  return place.wrong(fmt::format("{} {}; it must be a number of 0..{:g} {}", field,
                                 value ? fmt::format("is {:g}", *value) : "is no number",
                                 kMaxSeconds / unit_s, unit));
}

Result<std::uint32_t> to_tokens(const Place& place, std::string_view field,
                                std::optional<double> value, std::uint32_t least) {
  if (value && within(*value, least, kMaxTokens) && *value == std::floor(*value)) {
    return static_cast<std::uint32_t>(*value);
  }
  return place.wrong(fmt::format("{} {}; it must be a whole number of {}..{} tokens", field,
                                 value ? fmt::format("is {:g}", *value) : "is no number", least,
                                 kMaxTokens));
}

// A prompt of nothing is no request; an answer of nothing is one that only read its prompt.
constexpr std::uint32_t kLeastPrompt = 1;
constexpr std::uint32_t kLeastOutput = 0;

Result<TraceRecord> make_record(Result<std::chrono::nanoseconds> at, Result<std::uint32_t> prompt,
                                Result<std::uint32_t> output) {
  if (!at) return std::move(at).error();
  if (!prompt) return std::move(prompt).error();
  if (!output) return std::move(output).error();
  TraceRecord record;
  record.at = *at;
  record.prompt_tokens = *prompt;
  record.output_tokens = *output;
  return record;
}

// ---- CSV ---------------------------------------------------------------------------------------

class CsvReader {
 public:
  Status read_header(const Place& place, std::string_view line) {
    for (std::size_t index = 0;; ++index) {
      const std::size_t comma = line.find(',');
      const std::string_view name = trimmed(line.substr(0, comma));
      for (std::size_t i = 0; i < kColumns.size(); ++i) {
        if (name != kColumns[i] && name != kPublished[i]) continue;
        if (column_[i]) return place.wrong(fmt::format("the column {} is there twice", name));
        column_[i] = index;
        name_[i] = name == kColumns[i] ? kColumns[i] : kPublished[i];
      }
      if (comma == std::string_view::npos) break;
      line.remove_prefix(comma + 1);
    }
    for (std::size_t i = 0; i < kColumns.size(); ++i) {
      if (!column_[i]) {
        return place.wrong(fmt::format(
            "no column {}; a trace begins with the line \"arrived_at,num_prefill_tokens,"
            "num_decode_tokens\" or \"TIMESTAMP,ContextTokens,GeneratedTokens\" (CSV), or with a "
            "JSON object",
            kColumns[i]));
      }
    }
    return {};
  }

  Result<TraceRecord> read(const Place& place, std::string_view line) const {
    std::array<std::optional<std::string_view>, kColumns.size()> fields;
    for (std::size_t index = 0;; ++index) {
      const std::size_t comma = line.find(',');
      for (std::size_t i = 0; i < kColumns.size(); ++i) {
        if (column_[i] == index) fields[i] = trimmed(line.substr(0, comma));
      }
      if (comma == std::string_view::npos) break;
      line.remove_prefix(comma + 1);
    }
    for (std::size_t i = 0; i < kColumns.size(); ++i) {
      if (!fields[i] || fields[i]->empty()) {
        return place.wrong(fmt::format("the column {} is missing", name_[i]));
      }
    }
    return make_record(time_of(place, *fields[0]),
                       to_tokens(place, named(1, *fields[1]), number(*fields[1]), kLeastPrompt),
                       to_tokens(place, named(2, *fields[2]), number(*fields[2]), kLeastOutput));
  }

 private:
  static constexpr std::array<std::string_view, 3> kColumns{"arrived_at", "num_prefill_tokens",
                                                            "num_decode_tokens"};
  /// What the same columns are called in the files that Azure publishes.
  static constexpr std::array<std::string_view, 3> kPublished{"TIMESTAMP", "ContextTokens",
                                                              "GeneratedTokens"};

  [[nodiscard]] std::string named(std::size_t column, std::string_view text) const {
    return fmt::format("{} \"{}\"", name_[column], shown(text));
  }

  [[nodiscard]] Result<std::chrono::nanoseconds> time_of(const Place& place,
                                                         std::string_view text) const {
    if (name_[0] == kColumns[0]) return to_time(place, named(0, text), number(text), 1, "s");
    if (const auto at = read_date(text)) return *at;
    return place.wrong(named(0, text) + " is no time; it must be like 2023-11-16 18:15:46.68059");
  }

  std::array<std::optional<std::size_t>, kColumns.size()> column_;
  std::array<std::string_view, kColumns.size()> name_;  // of those that are there
};

// ---- JSON lines --------------------------------------------------------------------------------

class JsonReader {
 public:
  Result<TraceRecord> read(const Place& place, std::string_view line,
                           std::vector<std::uint64_t>& blocks) {
    json::monotonic_resource memory(arena_.data(), arena_.size());
    json::error_code failure;
    const json::value value = json::parse({line.data(), line.size()}, failure, &memory);
    if (failure) {
      return place.wrong(fmt::format("not JSON ({}): \"{}\"", failure.message(), shown(line)));
    }
    const json::object* const object = value.if_object();
    if (object == nullptr) {
      return place.wrong(fmt::format(
          "must be an object with timestamp, input_length and output_length, not \"{}\"",
          shown(line)));
    }
    for (const std::string_view name : {"timestamp", "input_length", "output_length"}) {
      if (!object->contains({name.data(), name.size()})) {
        return place.wrong(fmt::format("the member {} is missing", name));
      }
    }
    auto record = make_record(
        to_time(place, "timestamp", member(*object, "timestamp"), 1e-3, "ms"),
        to_tokens(place, "input_length", member(*object, "input_length"), kLeastPrompt),
        to_tokens(place, "output_length", member(*object, "output_length"), kLeastOutput));
    if (!record) return record;
    const json::value* const ids = object->if_contains("hash_ids");
    if (ids == nullptr || ids->is_null()) return record;
    if (Status read = read_blocks(place, *ids, *record, blocks); !read) {
      return std::move(read).error();
    }
    return record;
  }

 private:
  static std::optional<double> member(const json::object& object, std::string_view name) {
    const json::value& value = object.at({name.data(), name.size()});
    if (value.is_int64()) return static_cast<double>(value.get_int64());
    if (value.is_uint64()) return static_cast<double>(value.get_uint64());
    if (value.is_double()) return value.get_double();
    return std::nullopt;
  }

  static Status read_blocks(const Place& place, const json::value& ids, TraceRecord& record,
                            std::vector<std::uint64_t>& blocks) {
    const json::array* const list = ids.if_array();
    if (list == nullptr) return place.wrong("hash_ids must be a list of whole numbers");
    const std::uint32_t most = (record.prompt_tokens + kBlockTokens - 1) / kBlockTokens;
    if (list->size() > most) {
      return place.wrong(
          fmt::format("{} hash_ids for {} tokens; one stands for {} tokens, so there "
                      "are at most {}",
                      list->size(), record.prompt_tokens, kBlockTokens, most));
    }
    record.first_block = blocks.size();
    record.blocks = static_cast<std::uint32_t>(list->size());
    for (const json::value& id : *list) {
      const bool whole = id.is_uint64() || (id.is_int64() && id.get_int64() >= 0);
      if (!whole) return place.wrong("hash_ids must be whole numbers of 0 or more");
      blocks.push_back(id.is_uint64() ? id.get_uint64()
                                      : static_cast<std::uint64_t>(id.get_int64()));
    }
    return {};
  }

  std::array<unsigned char, 16 * 1024> arena_{};
};

/// Times from the earliest on, in order.
void settle(Trace& trace) {
  const auto earlier = [](const TraceRecord& a, const TraceRecord& b) { return a.at < b.at; };
  for (std::size_t i = 1; i < trace.records.size(); ++i) {
    if (earlier(trace.records[i], trace.records[i - 1])) ++trace.reordered;
  }
  if (trace.reordered > 0) std::stable_sort(trace.records.begin(), trace.records.end(), earlier);
  const auto begin = trace.records.front().at;
  for (TraceRecord& record : trace.records) record.at -= begin;
}

}  // namespace

Result<Trace> read_trace(LineSource& lines, const std::string& name) {
  Trace trace;
  Place place{name};
  std::optional<CsvReader> csv;
  std::optional<JsonReader> jsonl;
  for (;;) {
    auto next = lines.next();
    if (!next) return std::move(next).error().context(fmt::format("after line {}", place.line));
    if (!next->has_value()) break;
    ++place.line;
    std::string_view line = trimmed(**next);
    if (place.line == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);  // UTF-8 mark
    if (line.empty()) continue;
    if (!csv && !jsonl && line.starts_with('{')) {
      trace.format = TraceFormat::kJsonLines;
      jsonl.emplace();
    } else if (!csv && !jsonl) {
      csv.emplace();
      if (Status read = csv->read_header(place, line); !read) return std::move(read).error();
      continue;
    }
    auto record = csv ? csv->read(place, line) : jsonl->read(place, line, trace.blocks);
    if (!record) return std::move(record).error();
    if (trace.records.size() == kMaxRecords) {
      return place.wrong(
          fmt::format("more than {} requests; cut the trace into parts", kMaxRecords));
    }
    trace.records.push_back(*record);
  }
  if (trace.records.empty()) {
    return make_error(Code::kInvalidArgument, name + ": there is no request in it");
  }
  settle(trace);
  return trace;
}

Result<Trace> read_trace_file(const std::string& path) {
  auto lines = open_lines(path);
  if (!lines) return std::move(lines).error();
  return read_trace(**lines, path);
}

}  // namespace weir::replay
