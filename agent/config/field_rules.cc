// SPDX-License-Identifier: Apache-2.0
#include "agent/config/field_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

#include "agent/base/usable_cpus.h"
#include "agent/config/problems.h"
#include "weir/abi.h"

namespace weir::config {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr double kHourMs = 3'600'000;
constexpr double kYearSeconds = 31'536'000;
constexpr double kTebi = 1099511627776;

constexpr auto kRules = std::to_array<FieldRule>({
    {"weir.v1.Config.services", Range{0, WEIR_MAX_POOLS}, ""},
    {"weir.v1.Config.models", Range{0, 64}, ""},
    {"weir.v1.Serve.http", {}, "127.0.0.1:8080"},
    {"weir.v1.Serve.io_threads", Range{1, 256}, kOnePerTwoCpus},
    {"weir.v1.Serve.max_body_bytes", Range{1024, 1073741824}, "1048576"},
    {"weir.v1.Serve.max_connections", Range{1, 1048576}, "16384"},
    {"weir.v1.Serve.drain_timeout_seconds", Range{0, 3600}, "30"},
    {"weir.v1.Serve.default_timeout_ms", Range{0, 86'400'000}, "0"},
    {"weir.v1.Serve.workers", Range{1, 256}, kOnePerCpu},
    {"weir.v1.Registry.memory_bytes", Range{1048576, kTebi}, ""},
    {"weir.v1.Registry.keep_alive_seconds", Range{0, kYearSeconds}, ""},
    {"weir.v1.Registry.poll_seconds", Range{0, 86'400}, "0"},
    {"weir.v1.Kernel.enabled", {}, "true"},
    {"weir.v1.Kernel.pin_root", {}, "/sys/fs/bpf/weir"},
    {"weir.v1.Service.backends", Range{1, WEIR_MAX_BACKENDS}, ""},
    {"weir.v1.Service.backup_backends", Range{0, WEIR_MAX_BACKENDS}, ""},
    {"weir.v1.Backend.weight", Range{0.01, 1000}, "1"},
    {"weir.v1.Model.instances", Range{1, 64}, "1"},
    {"weir.v1.Model.max_sequences", Range{1, 256}, "8"},
    {"weir.v1.Model.context_tokens", Range{32, 1048576}, ""},
    {"weir.v1.Model.max_queue", Range{1, 1048576}, "256"},
    {"weir.v1.Model.threads", Range{1, 1024}, ""},
    {"weir.v1.Model.keep_alive_seconds", Range{0, kYearSeconds}, ""},
    {"weir.v1.Model.kv_tokens", Range{32, 2147483647}, ""},
    {"weir.v1.Model.park_bytes", Range{0, kTebi}, "268435456"},
    {"weir.v1.Model.prefix_reuse", {}, "true"},
    {"weir.v1.Model.ready_residency", Range{0, 1}, "0.9"},
    {"weir.v1.Model.repack", {}, "true"},
    {"weir.v1.Speculation.max_draft_tokens", Range{1, 64}, "16"},
    {"weir.v1.Identity.batch_micros", Range{0, 1e7}, "0"},
    {"weir.v1.Identity.item_micros", Range{0, 1e7}, "0"},
    {"weir.v1.Batch.max_batch_size", Range{1, 4096}, ""},
    {"weir.v1.Batch.batch_timeout_micros", Range{0, 1e7}, "5000"},
    {"weir.v1.Batch.preferred_batch_size", Range{1, 4096}, ""},
    {"weir.v1.Batch.levels", Range{0, 16}, ""},
    {"weir.v1.Batch.instances", Range{1, 64}, ""},
    {"weir.v1.Batch.max_batch_tokens", Range{16, 1048576}, "256"},
    {"weir.v1.BatchLevel.below_waiting", Range{1, 1048576}, ""},
    {"weir.v1.BatchLevel.max_batch_size", Range{1, 4096}, ""},
    {"weir.v1.BatchLevel.batch_timeout_micros", Range{0, 1e7}, ""},
    {"weir.v1.Queue.max_tokens", Range{1, kTebi}, ""},
    {"weir.v1.Queue.ageing_ms", Range{0, kHourMs}, "10000"},
    {"weir.v1.Queue.max_kv_ratio", Range{1, 65536}, ""},
    {"weir.v1.Queue.levels", Range{0, 8}, ""},
    {"weir.v1.QueueLevel.level", Range{0, 7}, ""},
    {"weir.v1.QueueLevel.max_requests", Range{1, 1048576}, ""},
    {"weir.v1.QueueLevel.max_tokens", Range{1, kTebi}, ""},
    {"weir.v1.Config.sla", Range{0, 64}, ""},
    {"weir.v1.Admission.tenant_header", {}, "x-weir-tenant"},
    {"weir.v1.Admission.tenants", Range{0, 1024}, ""},
    {"weir.v1.Admission.rate_limits", Range{0, 1024}, ""},
    {"weir.v1.Admission.max_requests", Range{1, 1048576}, "65536"},
    {"weir.v1.Admission.memory_bytes", Range{1048576, kTebi}, ""},
    {"weir.v1.Admission.max_memory_pressure", Range{0, 100}, "20"},
    {"weir.v1.Tenant.weight", Range{0.01, 1000}, "1"},
    {"weir.v1.Tenant.max_requests", Range{1, 1048576}, ""},
    {"weir.v1.RateLimit.level", Range{0, 7}, ""},
    {"weir.v1.RateLimit.requests_per_second", Range{0.001, 1e6}, ""},
    {"weir.v1.RateLimit.requests_burst", Range{1, 1e6}, ""},
    {"weir.v1.RateLimit.tokens_per_second", Range{0.001, 1e9}, ""},
    {"weir.v1.RateLimit.tokens_burst", Range{1, 1e9}, ""},
    {"weir.v1.Retry.max_attempts", Range{1, 3}, "3"},
    {"weir.v1.Retry.backoff_ms", Range{1, 60'000}, "25"},
    {"weir.v1.Retry.budget_percent", Range{0, 100}, "20"},
    {"weir.v1.AdaptiveRetry.after_ms", Range{1, 600'000}, "500"},
    {"weir.v1.AdaptiveRetry.max_attempts", Range{1, 2}, "2"},
    {"weir.v1.FastFail.min_health", Range{0, 1}, "0.5"},
    {"weir.v1.Degrade.cache_entries", Range{0, 1048576}, "1024"},
    {"weir.v1.Degrade.cache_bytes", Range{0, kTebi}, "16777216"},
    {"weir.v1.Control.tick_ms", Range{100, 60'000}, "1000"},
    {"weir.v1.Control.latency_tau_ms", Range{100, kHourMs}, "10000"},
    {"weir.v1.Control.open_after_failures", Range{1, 1000}, "3"},
    {"weir.v1.Control.open_ms", Range{100, kHourMs}, "5000"},
    {"weir.v1.Control.max_open_ms", Range{100, kHourMs}, "60000"},
    {"weir.v1.Log.level", {}, "info"},
});

std::string to_text(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    return std::to_string(static_cast<std::int64_t>(value));
  }
  return fmt::format("{}", value);
}

std::string cpus_text(const FieldRule& rule, double share) {
  const double cpus = usable_cpus();
  return to_text(std::clamp(std::floor(cpus * share), rule.range->min, rule.range->max));
}

std::string out_of_range(std::string_view text, const FieldRule* rule, const Range& type_range) {
  return fmt::format("{} is out of range ({})", text,
                     to_string(rule != nullptr && rule->range ? *rule->range : type_range));
}

bool in_range(double value, const FieldRule* rule) {
  return rule == nullptr || !rule->range ||
         (value >= rule->range->min && value <= rule->range->max);
}

bool is_integer_text(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

template <typename Integer>
std::optional<std::string> parse_integer(const std::string& text, const FieldRule* rule,
                                         Integer& value) {
  if (!is_integer_text(text)) {
    return fmt::format("{} is not a whole number", in_quotes(text));
  }
  constexpr Range kType{static_cast<double>(std::numeric_limits<Integer>::min()),
                        static_cast<double>(std::numeric_limits<Integer>::max())};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool parsed = status == std::errc{} && end == text.data() + text.size();
  if (!parsed || !in_range(static_cast<double>(value), rule)) {
    return out_of_range(text.substr(0, 40), rule, kType);
  }
  return std::nullopt;
}

std::optional<std::string> parse_double(const std::string& text, const FieldRule* rule,
                                        double& value) {
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = end == text.data() + text.size();
  if (status == std::errc::result_out_of_range && whole) {
    constexpr double kMax = std::numeric_limits<double>::max();
    return out_of_range(text.substr(0, 40), rule, Range{-kMax, kMax});
  }
  if (status != std::errc{} || !whole || !std::isfinite(value)) {
    return fmt::format("{} is not a number", in_quotes(text));
  }
  if (!in_range(value, rule)) return out_of_range(text.substr(0, 40), rule, {});
  return std::nullopt;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

std::optional<std::string> set_enum(Message& message, const FieldDescriptor& field,
                                    const std::string& text) {
  std::vector<std::string> names;
  const auto& type = *field.enum_type();
  for (int i = 0; i < type.value_count(); ++i) {
    names.push_back(lower(type.value(i)->name()));
    if (names.back() == text || type.value(i)->name() == text) {
      message.GetReflection()->SetEnum(&message, &field, type.value(i));
      return std::nullopt;
    }
  }
  return fmt::format("{} is not one of {}{}", in_quotes(text), fmt::join(names, ", "),
                     did_you_mean(text, names));
}

void fill_default(Message& message, const FieldDescriptor& field, const FieldRule& rule) {
  const auto& reflection = *message.GetReflection();
  const bool is_string = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  const bool unset = field.has_presence()
                         ? !reflection.HasField(message, &field)
                         : is_string && reflection.GetString(message, &field).empty();
  if (!unset) return;
  std::string text(rule.default_value);
  if (rule.default_value == kOnePerCpu) text = cpus_text(rule, 1);
  if (rule.default_value == kOnePerTwoCpus) text = cpus_text(rule, 0.5);
  [[maybe_unused]] const auto problem = set_scalar(message, field, text, is_string);
  assert(!problem);
}

}  // namespace

std::span<const FieldRule> field_rules() { return kRules; }

const FieldRule* find_rule(const FieldDescriptor& field) {
  const auto found = std::find_if(kRules.begin(), kRules.end(), [&](const FieldRule& rule) {
    return rule.field == field.full_name();
  });
  return found == kRules.end() ? nullptr : &*found;
}

std::string to_string(const Range& range) { return to_text(range.min) + ".." + to_text(range.max); }

std::optional<std::string> set_scalar(Message& message, const FieldDescriptor& field,
                                      const std::string& text, bool was_quoted) {
  const auto& reflection = *message.GetReflection();
  const FieldRule* const rule = find_rule(field);
  const bool is_name = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ||
                       field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM;
  if (was_quoted && !is_name) {
    return fmt::format(
        "expected {}, got the string {}",
        field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL ? "true or false" : "a number",
        in_quotes(text));
  }
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (text.find('\0') != std::string::npos) return in_quotes(text) + " contains a zero byte";
      reflection.SetString(&message, &field, text);
      return std::nullopt;
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return in_quotes(text) + " is not true or false";
      reflection.SetBool(&message, &field, text == "true");
      return std::nullopt;
    case FieldDescriptor::CPPTYPE_ENUM:
      return set_enum(message, field, text);
    case FieldDescriptor::CPPTYPE_UINT32: {
      std::uint32_t value = 0;
      auto problem = parse_integer(text, rule, value);
      if (!problem) reflection.SetUInt32(&message, &field, value);
      return problem;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      std::uint64_t value = 0;
      auto problem = parse_integer(text, rule, value);
      if (!problem) reflection.SetUInt64(&message, &field, value);
      return problem;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      auto problem = parse_double(text, rule, value);
      if (!problem) reflection.SetDouble(&message, &field, value);
      return problem;
    }
    default:
      // config.proto uses no other type; field_rules_test.cc says so when that changes.
      return fmt::format("fields of type {} cannot be configured", field.cpp_type_name());
  }
}

void fill_defaults(Message& message) {
  const auto& descriptor = *message.GetDescriptor();
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field.is_repeated()) {
        fill_defaults(*reflection.MutableMessage(&message, &field));
        continue;
      }
      for (int item = 0; item < reflection.FieldSize(message, &field); ++item) {
        fill_defaults(*reflection.MutableRepeatedMessage(&message, &field, item));
      }
      continue;
    }
    const FieldRule* const rule = find_rule(field);
    if (rule != nullptr && !rule->default_value.empty()) fill_default(message, field, *rule);
  }
}

}  // namespace weir::config
