// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/admission.h"

#include <algorithm>
#include <cmath>

namespace weir::admit {
namespace {

using schedule::Refusal;
using schedule::RefusalReason;
using std::chrono::seconds;

// avg10 forgets a stall in about this time.
constexpr seconds kPressureRetry{10};
// So that no declared length overflows; more than any memory_bytes.
constexpr std::uint64_t kMostBodyBytes = 1ULL << 41U;

Error out_of_range(std::string_view field, const std::string& value, const std::string& range) {
  return make_error(Code::kInvalidArgument,
                    std::string(field) + " is " + value + "; it must be in " + range);
}

Status check(const Admission::Options& options) {
  constexpr std::uint64_t kMiB = 1ULL << 20U;
  if (options.max_requests < 1 || options.max_requests > kMiB) {
    return out_of_range("max_requests", std::to_string(options.max_requests), "1..1048576");
  }
  if (options.memory_bytes < kMiB || options.memory_bytes > kMiB * kMiB) {
    return out_of_range("memory_bytes", std::to_string(options.memory_bytes),
                        "1048576..1099511627776");
  }
  if (!(options.max_memory_pressure >= 0 && options.max_memory_pressure <= 100)) {
    return out_of_range("max_memory_pressure", std::to_string(options.max_memory_pressure),
                        "0..100");
  }
  return {};
}

std::string quoted(std::string_view text) { return '"' + std::string(text) + '"'; }

std::string milliseconds_text(Duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count()) +
         " ms";
}

/// Whole seconds until then, at least one.
seconds retry_seconds(Duration wait) {
  return std::clamp(std::chrono::ceil<seconds>(wait), seconds(1), seconds(86'400));
}

}  // namespace

std::string_view to_string(Stage stage) { return stage == Stage::kHead ? "head" : "body"; }

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  release();
  admission_ = std::exchange(other.admission_, nullptr);
  tenant_ = std::exchange(other.tenant_, nullptr);
  model_ = std::exchange(other.model_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  kv_bytes_ = std::exchange(other.kv_bytes_, 0);
  charged_ = other.charged_;
  return *this;
}

void Reservation::release() {
  if (admission_ != nullptr) admission_->give_back(*this);
}

Result<std::unique_ptr<Admission>> Admission::create(Options options, const Clock& clock) {
  if (Status status = check(options); !status) return std::move(status).error();
  auto limiter = RateLimiter::create({options.rate_rules, options.max_rate_buckets});
  if (!limiter) return std::move(limiter).error();
  return std::unique_ptr<Admission>(new Admission(std::move(options), *std::move(limiter), clock));
}

Admission::Admission(Options options, std::unique_ptr<RateLimiter> limiter, const Clock& clock)
    : options_(std::move(options)),
      clock_(clock),
      limiter_(std::move(limiter)),
      tenants_(options_.tenants, options_.max_requests, options_.max_unconfigured_tenants),
      models_(options_.models),
      requests_(options_.max_requests),
      memory_(options_.memory_bytes) {}

std::variant<Reservation, Refusal> Admission::reserve(const RequestHead& head) {
  const std::uint64_t tenant_hash = name_hash(head.tenant);
  TenantRecord& tenant = tenants_.find_or_add(head.tenant, tenant_hash);
  std::string_view model = head.model;
  if (model.empty() && options_.models.size() == 1) model = options_.models.front().name;

  const bool needs_time = head.deadline.has_value() || !limiter_->empty();
  const TimePoint now = needs_time ? clock_.now() : TimePoint{};
  if (auto late = check_deadline(head.deadline, model, head.level, now)) {
    return count(Stage::kHead, tenant, *std::move(late));
  }
  if (pressed_.load(std::memory_order_relaxed)) {
    return count(Stage::kHead, tenant,
                 {RefusalReason::kMemory, "the agent's tasks wait for memory (max_memory_pressure)",
                  kPressureRetry});
  }
  Reservation reservation;
  reservation.tenant_ = &tenant;
  reservation.charged_.tenant = tenant_hash;
  reservation.charged_.level = head.level;
  if (!model.empty()) reservation.charged_.model = name_hash(model);
  if (auto refused = take(reservation,
                          std::min(head.body_bytes, kMostBodyBytes) * kBodyFactor + kAnswerBytes)) {
    return count(Stage::kHead, tenant, *std::move(refused));
  }
  if (ModelRecord* const record = model.empty() ? nullptr : models_.find(model)) {
    const std::uint64_t kv = record->kv_bytes(head.body_bytes / kBytesPerToken);
    if (auto refused = set_kv(reservation, record, kv)) {
      untake(reservation);
      return count(Stage::kHead, tenant, *std::move(refused));
    }
  }
  if (!limiter_->empty()) {
    if (const auto refused = limiter_->charge(reservation.charged_, now)) {
      // Not through release(): what was never in progress says nothing of how fast requests end.
      untake(reservation);
      return count(Stage::kHead, tenant, rate_refusal(*refused));
    }
  }
  tenant.admitted.fetch_add(1, std::memory_order_relaxed);
  return reservation;
}

std::optional<Refusal> Admission::settle(Reservation& reservation, const RequestNeeds& needs) {
  TenantRecord& tenant = *reservation.tenant_;
  const bool needs_time = needs.deadline.has_value() || !limiter_->empty();
  const TimePoint now = needs_time ? clock_.now() : TimePoint{};
  if (auto late = check_deadline(needs.deadline, needs.model, needs.level, now)) {
    return count(Stage::kBody, tenant, *std::move(late));
  }
  ModelRecord* const model = models_.find(needs.model);
  const std::optional<std::uint64_t> context =
      model != nullptr ? model->context_tokens() : std::nullopt;
  const std::uint64_t most_tokens = context.value_or(kAssumedContextTokens);
  const std::uint64_t bytes =
      needs.prompt_bytes + kAnswerBytes + std::min(needs.tokens, most_tokens) * kTokenBytes;
  if (auto refused = set_bytes(reservation, bytes)) {
    return count(Stage::kBody, tenant, *std::move(refused));
  }
  const std::uint64_t kv = model != nullptr ? model->kv_bytes(needs.tokens) : 0;
  if (auto refused = set_kv(reservation, model, kv)) {
    return count(Stage::kBody, tenant, *std::move(refused));
  }
  if (limiter_->empty()) return std::nullopt;
  const RateKey key{reservation.charged_.tenant, name_hash(needs.model), needs.level};
  const std::uint64_t tokens = std::min(needs.tokens, context.value_or(needs.tokens));
  if (const auto refused =
          limiter_->settle(reservation.charged_, key, static_cast<double>(tokens), now)) {
    return count(Stage::kBody, tenant, rate_refusal(*refused));
  }
  reservation.charged_ = key;
  return std::nullopt;
}

Refusal Admission::refuse_late(const Reservation& reservation) {
  return count(Stage::kBody, *reservation.tenant_,
               {RefusalReason::kDeadline, "the deadline passed while the body was on its way",
                std::nullopt});
}

std::optional<Refusal> Admission::check_deadline(std::optional<TimePoint> deadline,
                                                 std::string_view model, std::int32_t level,
                                                 TimePoint now) const {
  if (!deadline.has_value()) return std::nullopt;
  if (*deadline <= now) {
    return Refusal{RefusalReason::kDeadline, "the deadline has passed", std::nullopt};
  }
  if (model.empty() || !options_.predicted_wait) return std::nullopt;
  const auto wait = options_.predicted_wait(model, level);
  if (!wait.has_value() || *wait <= *deadline - now) return std::nullopt;
  return Refusal{RefusalReason::kDeadline,
                 "a request would wait about " + milliseconds_text(*wait) +
                     " now, and the deadline comes in " + milliseconds_text(*deadline - now),
                 std::nullopt};
}

std::optional<Refusal> Admission::take(Reservation& reservation, std::uint64_t bytes) {
  TenantRecord& tenant = *reservation.tenant_;
  if (!tenant.requests.try_add(1)) {
    return Refusal{RefusalReason::kQueueFull,
                   "tenant " + quoted(tenant.name) + " has " +
                       std::to_string(tenant.requests.limit()) +
                       " requests in progress (max_requests)",
                   request_rate_.time_for(1)};
  }
  if (!requests_.try_add(1)) {
    tenant.requests.subtract(1);
    return Refusal{RefusalReason::kQueueFull,
                   std::to_string(requests_.limit()) + " requests are in progress (max_requests)",
                   request_rate_.time_for(1)};
  }
  if (!memory_.try_add(bytes)) {
    requests_.subtract(1);
    tenant.requests.subtract(1);
    return no_memory(bytes);
  }
  reservation.bytes_ = bytes;
  reservation.admission_ = this;  // from here on its destructor gives back
  return std::nullopt;
}

std::optional<Refusal> Admission::set_bytes(Reservation& reservation, std::uint64_t bytes) {
  if (bytes > reservation.bytes_) {
    if (!memory_.try_add(bytes - reservation.bytes_)) return no_memory(bytes);
  } else {
    memory_.subtract(reservation.bytes_ - bytes);
    bytes_released_.fetch_add(reservation.bytes_ - bytes, std::memory_order_relaxed);
  }
  reservation.bytes_ = bytes;
  return std::nullopt;
}

std::optional<Refusal> Admission::set_kv(Reservation& reservation, ModelRecord* model,
                                         std::uint64_t bytes) {
  const auto give = [&reservation](std::uint64_t back) {
    if (back == 0) return;
    reservation.model_->kv.subtract(back);
    reservation.model_->kv_released.fetch_add(back, std::memory_order_relaxed);
    reservation.kv_bytes_ -= back;
  };
  if (model != reservation.model_) {
    give(reservation.kv_bytes_);
    reservation.model_ = model;
  }
  if (bytes <= reservation.kv_bytes_) {
    give(reservation.kv_bytes_ - bytes);
    return std::nullopt;
  }
  if (!model->kv.try_add(bytes - reservation.kv_bytes_)) {
    model->kv_refused.fetch_add(1, std::memory_order_relaxed);
    return Refusal{RefusalReason::kMemory,
                   "the request may need " + std::to_string(bytes) +
                       " bytes of the KV cache of model " + quoted(model->name) +
                       "; requests in progress need " + std::to_string(model->kv.value()) +
                       " of it and may need " + std::to_string(model->kv.limit()) +
                       " (queue.max_kv_ratio)",
                   model->kv_rate.time_for(bytes)};
  }
  reservation.kv_bytes_ = bytes;
  return std::nullopt;
}

Refusal Admission::no_memory(std::uint64_t bytes) const {
  Refusal refusal{RefusalReason::kMemory,
                  "the request may need " + std::to_string(bytes) + " bytes; of " +
                      std::to_string(memory_.limit()) + " (memory_bytes) " +
                      std::to_string(memory_.value()) + " are set aside for others",
                  std::nullopt};
  if (bytes <= memory_.limit()) refusal.retry_after = byte_rate_.time_for(bytes);
  return refusal;
}

Refusal Admission::rate_refusal(const RateRefusal& refused) const {
  const RateRule& rule = limiter_->rule(refused.rule);
  const auto each = [](const std::string& name) {
    return name.empty() ? std::string("each") : quoted(name);
  };
  const double rate = (refused.tokens ? rule.tokens_per_second : rule.requests_per_second)
                          .value_or(0);  // set: it has refused
  std::string number = std::to_string(rate);
  number.erase(number.find_last_not_of('0') + 1);
  if (number.ends_with('.')) number.pop_back();
  std::string message = number + (refused.tokens ? " tokens" : " requests") +
                        " per second are the limit (rate_limits[" + std::to_string(refused.rule) +
                        "]: tenant " + each(rule.tenant) + ", model " + each(rule.model) +
                        ", level " + (rule.level ? std::to_string(*rule.level) : "each") + ")";
  if (!refused.wait.has_value()) message += ", and the request has more than may come at once";
  Refusal refusal{RefusalReason::kRateLimited, std::move(message), std::nullopt};
  if (refused.wait.has_value()) refusal.retry_after = retry_seconds(*refused.wait);
  return refusal;
}

Refusal Admission::count(Stage stage, TenantRecord& tenant, Refusal refusal) {
  tenant.refused.fetch_add(1, std::memory_order_relaxed);
  refusals_[static_cast<std::size_t>(stage)][static_cast<std::size_t>(refusal.reason)].fetch_add(
      1, std::memory_order_relaxed);
  return refusal;
}

void Admission::untake(Reservation& reservation) {
  reservation.admission_ = nullptr;
  memory_.subtract(std::exchange(reservation.bytes_, 0));
  const std::uint64_t kv_bytes = std::exchange(reservation.kv_bytes_, 0);
  ModelRecord* const model = std::exchange(reservation.model_, nullptr);
  if (kv_bytes > 0) model->kv.subtract(kv_bytes);
  requests_.subtract(1);
  std::exchange(reservation.tenant_, nullptr)->requests.subtract(1);
}

void Admission::give_back(Reservation& reservation) {
  const std::uint64_t bytes = reservation.bytes_;
  if (reservation.kv_bytes_ > 0) {
    reservation.model_->kv_released.fetch_add(reservation.kv_bytes_, std::memory_order_relaxed);
  }
  untake(reservation);
  bytes_released_.fetch_add(bytes, std::memory_order_relaxed);
  requests_released_.fetch_add(1, std::memory_order_relaxed);
}

void Admission::sample() {
  const TimePoint now = clock_.now();
  request_rate_.update(requests_released_.load(std::memory_order_relaxed), now);
  byte_rate_.update(bytes_released_.load(std::memory_order_relaxed), now);
  if (options_.read_models) models_.update(options_.read_models());
  models_.sample(now);
  const auto pressure = options_.read_pressure ? options_.read_pressure() : std::nullopt;
  pressure_.store(pressure.value_or(-1), std::memory_order_relaxed);
  pressed_.store(options_.max_memory_pressure > 0 && pressure.has_value() &&
                     *pressure > options_.max_memory_pressure,
                 std::memory_order_relaxed);
}

AdmissionReading Admission::reading() const {
  AdmissionReading reading;
  reading.requests = requests_.value();
  reading.max_requests = requests_.limit();
  reading.reserved_bytes = memory_.value();
  reading.memory_bytes = memory_.limit();
  if (const double pressure = pressure_.load(std::memory_order_relaxed); pressure >= 0) {
    reading.memory_pressure = pressure;
  }
  const RateLimiter::Reading rates = limiter_->reading(clock_.now());
  reading.rate_buckets = rates.buckets;
  reading.rate_spills = rates.spills;
  for (std::size_t stage = 0; stage < kStages; ++stage) {
    for (std::size_t reason = 0; reason < schedule::kRefusalReasons; ++reason) {
      reading.refusals[stage][reason] = refusals_[stage][reason].load(std::memory_order_relaxed);
    }
  }
  for (const TenantRecord* const tenant : tenants_.records()) {
    reading.tenants.push_back({tenant->name, tenant->requests.value(),
                               tenant->admitted.load(std::memory_order_relaxed),
                               tenant->refused.load(std::memory_order_relaxed)});
  }
  for (const ModelRecord* const model : models_.with_kv()) {
    reading.kv_caches.push_back({model->name, model->kv.value(), model->kv_limit_bytes(),
                                 model->kv_refused.load(std::memory_order_relaxed)});
  }
  return reading;
}

}  // namespace weir::admit
