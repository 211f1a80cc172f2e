// SPDX-License-Identifier: Apache-2.0
//
// The gate in front of everything: decides from the head of a request alone whether it may come in,
// and sets aside what it may need, before a byte of its body is read. Once the body is parsed,
// settle() holds the request against the limits of its model and corrects what was set aside.
//
//   head ──reserve()──► Reservation ──settle()──► the same, exact ──► travels with the request
//           │                          │                              and goes back when that ends
//           └── Refusal                └── Refusal
//
// Thread-safe: all methods from any thread, without locks but for the first request of a tenant.
// Owns nothing of the request; must outlive every Reservation it gave. Refusals carry the reason
// and when to come back.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "agent/admit/bounded_count.h"
#include "agent/admit/model_table.h"
#include "agent/admit/rate_limiter.h"
#include "agent/admit/release_rate.h"
#include "agent/admit/tenant_table.h"
#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/schedule/level.h"
#include "agent/schedule/refusal.h"

namespace weir::admit {

inline constexpr std::string_view kDefaultTenant = "default";

/// What the connection and the header fields say.
struct RequestHead {
  std::string_view tenant = kDefaultTenant;
  std::string_view model{};  ///< empty: only the body will tell
  std::int32_t level = schedule::kDefaultLevel;
  std::optional<TimePoint> deadline{};
  std::uint64_t body_bytes = 0;  ///< declared, or the most it may have
};

/// What the parsed body says. The tenant is that of the head.
struct RequestNeeds {
  std::string_view model{};
  std::int32_t level = schedule::kDefaultLevel;
  std::optional<TimePoint> deadline{};
  std::uint64_t prompt_bytes = 0;
  std::uint64_t tokens = 0;  ///< prompt and completion, estimated
};

class Admission;

/// What is set aside for one request. Goes back exactly once: on release(), or when the last owner
/// lets go of it. Move-only; one thread at a time.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { release(); }

  void release();
  [[nodiscard]] bool held() const { return admission_ != nullptr; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::uint64_t kv_bytes() const { return kv_bytes_; }

 private:
  friend class Admission;

  Admission* admission_ = nullptr;  ///< null: holds nothing
  TenantRecord* tenant_ = nullptr;  ///< set while admission_ is
  ModelRecord* model_ = nullptr;    ///< null: not known
  std::uint64_t bytes_ = 0;         ///< of the memory budget
  std::uint64_t kv_bytes_ = 0;      ///< of the model's KV cache
  RateKey charged_;                 ///< whose buckets were charged for the request
};

// What a request costs in memory, at most, while only its head is known: its body, the document
// parsed from it, and the strings copied out of that.
inline constexpr std::uint64_t kBodyFactor = 3;
/// And its answer, with the objects that carry it.
inline constexpr std::uint64_t kAnswerBytes = 16 * 1024;
/// Once it is parsed: its prompt, and of each token its number (4) and its text in the answer (8).
inline constexpr std::uint64_t kTokenBytes = 12;
/// Tokens beyond the context are never made, however many are asked for. Where the context is not
/// known it counts as this.
inline constexpr std::uint32_t kAssumedContextTokens = 32'768;

/// Of a body that is not there yet, as of a prompt: a token for so many bytes.
inline constexpr std::uint64_t kBytesPerToken = 4;

enum class Stage { kHead, kBody };
inline constexpr std::size_t kStages = 2;
[[nodiscard]] std::string_view to_string(Stage stage);

struct AdmissionReading {
  std::uint64_t requests = 0;  ///< in progress
  std::uint64_t max_requests = 0;
  std::uint64_t reserved_bytes = 0;
  std::uint64_t memory_bytes = 0;         ///< the limit
  std::optional<double> memory_pressure;  ///< some avg10, percent; unset: not known
  std::uint64_t rate_buckets = 0;         ///< in use, full ones aside
  std::uint64_t rate_spills = 0;          ///< charges that found no bucket of their own
  std::array<std::array<std::uint64_t, schedule::kRefusalReasons>, kStages> refusals{};
  struct Tenant {
    std::string name;
    std::uint64_t requests = 0;
    std::uint64_t admitted = 0;
    std::uint64_t refused = 0;
  };
  std::vector<Tenant> tenants;
  struct KvCache {
    std::string model;
    std::uint64_t reserved_bytes = 0;          ///< what requests in progress need
    std::optional<std::uint64_t> limit_bytes;  ///< unset: none
    std::uint64_t refused = 0;                 ///< requests, cumulative
  };
  std::vector<KvCache> kv_caches;  ///< of the models that have one
};

class Admission {
 public:
  /// How long a request of this level that came now would wait; unset: not known.
  using PredictedWait =
      std::function<std::optional<Duration>(std::string_view model, std::int32_t level)>;
  /// Percent, as some_avg10(); unset: not known.
  using ReadPressure = std::function<std::optional<double>()>;
  /// What is known of all models by now.
  using ReadModels = std::function<std::vector<ModelCosts>()>;

  struct Options {
    std::vector<TenantLimit> tenants;
    std::vector<RateRule> rate_rules;
    std::vector<ModelCosts> models;               ///< of a single one, heads need not name it
    std::uint32_t max_requests = 65'536;          ///< 1..1048576
    std::uint64_t memory_bytes = 1 << 30;         ///< 1 MiB..1 TiB
    double max_memory_pressure = 20;              ///< 0..100 %; 0: never refuses
    PredictedWait predicted_wait;                 ///< empty: never known
    ReadPressure read_pressure;                   ///< empty likewise; called by sample()
    ReadModels read_models;                       ///< empty: `models` is all; called by sample()
    std::size_t max_unconfigured_tenants = 1024;  ///< beyond, they are counted together
    std::size_t max_rate_buckets = 65'536;        ///< a power of two
  };

  /// kInvalidArgument names the option and its limit. `clock` must outlive it.
  static Result<std::unique_ptr<Admission>> create(Options options, const Clock& clock);
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  [[nodiscard]] std::variant<Reservation, schedule::Refusal> reserve(const RequestHead& head);

  /// Once per reservation, which is held. Set: refused; the caller lets the reservation go.
  [[nodiscard]] std::optional<schedule::Refusal> settle(Reservation& reservation,
                                                        const RequestNeeds& needs);

  /// Instead of settle(), when the deadline passed before the body had come: the refusal, counted.
  [[nodiscard]] schedule::Refusal refuse_late(const Reservation& reservation);

  /// Looks at memory pressure, at the models and at how fast requests end. To be called every 100
  /// ms to 1 s, by one thread; see AdmissionSampler.
  void sample();

  [[nodiscard]] AdmissionReading reading() const;

 private:
  friend class Reservation;

  Admission(Options options, std::unique_ptr<RateLimiter> limiter, const Clock& clock);

  [[nodiscard]] std::optional<schedule::Refusal> check_deadline(std::optional<TimePoint> deadline,
                                                                std::string_view model,
                                                                std::int32_t level,
                                                                TimePoint now) const;
  [[nodiscard]] std::optional<schedule::Refusal> take(Reservation& reservation,
                                                      std::uint64_t bytes);
  [[nodiscard]] std::optional<schedule::Refusal> set_bytes(Reservation& reservation,
                                                           std::uint64_t bytes);
  /// Of this model and no other one from now on; null: of none.
  [[nodiscard]] std::optional<schedule::Refusal> set_kv(Reservation& reservation,
                                                        ModelRecord* model, std::uint64_t bytes);
  [[nodiscard]] schedule::Refusal no_memory(std::uint64_t bytes) const;
  [[nodiscard]] schedule::Refusal rate_refusal(const RateRefusal& refused) const;
  schedule::Refusal count(Stage stage, TenantRecord& tenant, schedule::Refusal refusal);
  void untake(Reservation& reservation);
  void give_back(Reservation& reservation);

  const Options options_;
  const Clock& clock_;
  const std::unique_ptr<RateLimiter> limiter_;
  TenantTable tenants_;
  ModelTable models_;

  // Apart from each other: every request writes both.
  alignas(64) BoundedCount requests_;
  alignas(64) BoundedCount memory_;
  alignas(64) std::atomic<std::uint64_t> requests_released_{0};
  std::atomic<std::uint64_t> bytes_released_{0};

  alignas(64) std::atomic<bool> pressed_{false};
  std::atomic<double> pressure_{-1};  ///< below 0: not known
  ReleaseRate request_rate_;
  ReleaseRate byte_rate_;
  std::array<std::array<std::atomic<std::uint64_t>, schedule::kRefusalReasons>, kStages>
      refusals_{};
};

}  // namespace weir::admit
