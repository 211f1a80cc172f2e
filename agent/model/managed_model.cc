// SPDX-License-Identifier: Apache-2.0
#include "agent/model/managed_model.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "agent/model/embedding_engine.h"
#include "agent/model/engine.h"
#include "agent/model/gguf_check.h"

namespace weir::model {

namespace {

using State = ModelInfo::State;

LifecycleOptions lifecycle_options(const ModelOptions& options) {
  return {options.name, options.keep_alive, options.preload};
}

void tell(std::vector<ManagedModel::Done>& waiters, const Status& status) {
  for (const ManagedModel::Done& done : waiters) done(status);
}

}  // namespace

ManagedModel::ManagedModel(ModelOptions options, const Shared& shared)
    : options_(std::move(options)), shared_(shared), lifecycle_(lifecycle_options(options_)) {
  counts_.name = options_.name;
  counts_.path = options_.path;
  counts_.task = options_.task;
  if (options_.task == Task::kGenerate) {
    counts_.instances.resize(options_.instances);
  } else {
    counts_.batches.emplace();
  }
  if (const auto file = file_stamp(options_.path)) {
    counts_.file_bytes = static_cast<std::uint64_t>(file->bytes);
    counts_.created_unix_seconds = file->modified_unix_seconds();
  }
  if (!options_.preload) return;
  const std::lock_guard lock(mutex_);
  if (lifecycle_.load(/*changed=*/false) == Lifecycle::Action::kStart) start_locked(current_);
}

ManagedModel::~ManagedModel() {
  Engines engines;
  std::vector<Done> waiters;
  {
    const std::lock_guard lock(mutex_);
    engines = std::move(leaving_);
    engines.push_back(std::move(current_));
    engines.push_back(std::move(successor_));
    waiters = std::exchange(load_waiters_, {});
    waiters.insert(waiters.end(), unload_waiters_.begin(), unload_waiters_.end());
    unload_waiters_.clear();
  }
  for (const auto& engine : engines) {
    if (engine) engine->abandon();  // all at once
  }
  engines.clear();
  tell(waiters, make_error(Code::kUnavailable, "the agent is stopping"));
}

/// Throws std::system_error when the system has no more threads.
void ManagedModel::start_locked(std::unique_ptr<ModelVersion>& place, bool at_once) {
  ++counts_.loads;
  ModelOptions options = options_;
  options.preload = at_once;
  VersionHost* const host = this;
  if (options_.task == Task::kGenerate) {
    place = std::make_unique<Engine>(std::move(options), shared_.clock, shared_.timers,
                                     shared_.workers, host);
  } else {
    place = std::make_unique<EmbeddingEngine>(std::move(options), shared_.clock, shared_.timers,
                                              shared_.workers, host);
  }
  if (draining_) place->begin_drain();
}

std::optional<Refusal> ManagedModel::submit(std::shared_ptr<GenerationRequest> request) {
  // A version may be let go between its choice and its queue's answer; the next one is asked then.
  constexpr int kMostVersions = 16;
  for (int i = 0; i < kMostVersions; ++i) {
    std::shared_ptr<RequestQueue> queue;
    bool started = false;
    {
      const std::lock_guard lock(mutex_);
      std::optional<Refusal> refusal;
      if (draining_ && !current_) {
        refusal = Refusal{RefusalReason::kDraining, "the agent is draining", std::nullopt};
      } else {
        auto action = Lifecycle::Action::kNone;
        const TimePoint now = shared_.clock.now();
        refusal = lifecycle_.request(now, action);
        if (action == Lifecycle::Action::kStart) {
          try {
            start_locked(current_, /*at_once=*/false);
            started = true;
          } catch (const std::system_error& failure) {
            ++counts_.load_failures;
            lifecycle_.failed(now, fmt::format("starting its thread: {}", failure.what()));
            refusal = lifecycle_.request(now, action);
          }
        }
      }
      if (refusal) {
        ++counts_.refused[static_cast<std::size_t>(refusal->reason)];
        return refusal;
      }
      queue = current_->queue();
    }
    auto refusal = queue->submit(request);
    if (started) {
      // Not before: who had it loaded is to wait for that, and hear it if it fails at once.
      const std::lock_guard lock(mutex_);
      if (current_ && current_->queue() == queue) current_->begin();
    }
    if (!refusal || refusal->reason != RefusalReason::kDraining || !queue->retired()) {
      return refusal;
    }
  }
  const std::lock_guard lock(mutex_);
  ++counts_.refused[static_cast<std::size_t>(RefusalReason::kLoading)];
  return Refusal{RefusalReason::kLoading, "the model is unloaded again and again",
                 std::chrono::seconds(1)};
}

std::vector<std::shared_ptr<RequestQueue>> ManagedModel::queues() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<RequestQueue>> all;
  for (const auto& engine : leaving_) all.push_back(engine->queue());
  if (current_) all.push_back(current_->queue());
  if (successor_) all.push_back(successor_->queue());
  return all;
}

void ManagedModel::begin_drain() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  for (const auto& queue : queues()) queue->begin_drain();
}

bool ManagedModel::wait_idle(TimePoint deadline) {
  bool idle = true;
  for (const auto& queue : queues()) idle = queue->wait_idle(deadline) && idle;
  return idle;
}

std::optional<Duration> ManagedModel::predicted_wait(std::int32_t level) const {
  std::shared_ptr<RequestQueue> queue;
  {
    const std::lock_guard lock(mutex_);
    if (!current_) return std::nullopt;
    queue = current_->queue();
  }
  return queue->predicted_wait(level);
}

ModelInfo ManagedModel::info() const {
  const std::lock_guard lock(mutex_);
  ModelInfo info = counts_;
  for (const auto& engine : leaving_) info.add_counts(engine->info());
  if (successor_) info.add_counts(successor_->info());
  if (current_) {
    const ModelInfo live = current_->info();
    info.add_counts(live);
    info.parameters = live.parameters;
    info.context_tokens = live.context_tokens;
    if (live.file_bytes > 0) {
      info.file_bytes = live.file_bytes;
      info.created_unix_seconds = live.created_unix_seconds;
    }
  }
  info.state = lifecycle_.state();
  if (draining_ && info.state != State::kFailed) info.state = State::kDraining;
  info.load_progress = lifecycle_.progress();
  info.failure = lifecycle_.failure();
  info.disabled = lifecycle_.disabled();
  if (lifecycle_.has_successor()) info.successor_progress = lifecycle_.successor_progress();
  info.successor_failure = lifecycle_.successor_failure();
  for (const auto& [engine, bytes] : bytes_) info.memory_bytes += bytes;
  const TimePoint now = shared_.clock.now();
  if (info.queued + info.running > 0) {
    info.since_used = Duration::zero();
  } else if (const auto since = served_locked() ? idle_since_locked() : last_used_) {
    info.since_used = now - *since;
  }
  return info;
}

KvCapacity ManagedModel::kv_capacity(std::size_t& reads_left) {
  if (options_.task != Task::kGenerate) return {};
  const auto stamp = file_stamp(options_.path);
  {
    const std::lock_guard lock(mutex_);
    const bool known = lifecycle_.state() == State::kReady || !stamp || stamp == kv_stamp_;
    if (known || reads_left == 0) return kv_;
  }
  --reads_left;
  // Not by gguf_vetting(): what is wrong with the file, the load will say and count.
  const auto file = check_gguf_file(options_.path);
  const std::lock_guard lock(mutex_);
  if (lifecycle_.state() != State::kReady) {
    kv_ = file ? model::kv_capacity(options_, file->shape) : KvCapacity{};
    kv_stamp_ = stamp;
  }
  return kv_;
}

std::optional<TimePoint> ManagedModel::idle_since_locked() const {
  return current_ ? current_->queue()->idle_since() : std::nullopt;
}

bool ManagedModel::served_locked() const { return current_ && current_->queue()->served(); }

// ---- let go -------------------------------------------------------------------------------------

bool ManagedModel::retire_locked(UnloadCause cause, bool if_idle) {
  if (!current_->queue()->retire(if_idle)) return false;
  ++counts_.unloads[static_cast<std::size_t>(cause)];
  if (served_locked()) last_used_ = idle_since_locked().value_or(shared_.clock.now());
  spdlog::info("model unloading name={} cause={}", options_.name, to_string(cause));
  shared_.memory.releasing(current_.get());
  leaving_.push_back(std::move(current_));
  return true;
}

void ManagedModel::drop_successor_locked() {
  if (!successor_) return;
  successor_->abandon();
  leaving_.push_back(std::move(successor_));
}

std::optional<ModelMemory::Candidate> ManagedModel::candidate() {
  const std::lock_guard lock(mutex_);
  if (!lifecycle_.evictable() || draining_) return std::nullopt;
  const auto since = idle_since_locked();
  if (!since) return std::nullopt;
  return ModelMemory::Candidate{current_.get(), *since, [this] { return evict(); }};
}

bool ManagedModel::evict() {
  const std::lock_guard lock(mutex_);
  if (!lifecycle_.evictable() || draining_) return false;
  if (!retire_locked(UnloadCause::kEvicted, /*if_idle=*/true)) return false;
  lifecycle_.unloaded();
  return true;
}

std::optional<TimePoint> ManagedModel::tick() {
  Engines finished;
  std::optional<TimePoint> next;
  {
    const std::lock_guard lock(mutex_);
    for (const ModelVersion* const engine : std::exchange(gone_, {})) {
      const auto at = std::find_if(leaving_.begin(), leaving_.end(),
                                   [&](const auto& leaving) { return leaving.get() == engine; });
      if (at == leaving_.end()) continue;
      counts_.add_counts((*at)->info());
      finished.push_back(std::move(*at));
      leaving_.erase(at);
    }
    const auto action = lifecycle_.tick(shared_.clock.now(), idle_since_locked(), served_locked());
    if (action == Lifecycle::Action::kRetireIfIdle &&
        retire_locked(UnloadCause::kIdle, /*if_idle=*/true)) {
      lifecycle_.unloaded();
    } else if (action == Lifecycle::Action::kStart) {
      try {
        start_locked(current_);
      } catch (const std::system_error& failure) {
        ++counts_.load_failures;
        lifecycle_.failed(shared_.clock.now(),
                          fmt::format("starting its thread: {}", failure.what()));
      }
    }
    next = lifecycle_.next_tick(idle_since_locked(), served_locked());
  }
  finished.clear();  // their threads have nothing left to do
  return next;
}

// ---- told by somebody ---------------------------------------------------------------------------

bool ManagedModel::file_changed() const {
  std::optional<FileStamp> loaded;
  {
    const std::lock_guard lock(mutex_);
    if (!current_ || lifecycle_.state() != State::kReady) return false;
    loaded = current_->stamp();
  }
  const auto stamp = file_stamp(options_.path);
  return stamp && loaded && *stamp != *loaded;
}

void ManagedModel::load(Done done) {
  const bool changed = file_changed();
  Status answer;
  {
    const std::lock_guard lock(mutex_);
    try {
      const auto action = lifecycle_.load(changed);
      if (action == Lifecycle::Action::kStart) start_locked(current_);
      if (action == Lifecycle::Action::kStartSuccessor) start_locked(successor_);
      if (lifecycle_.state() != State::kReady || lifecycle_.has_successor()) {
        load_waiters_.push_back(std::move(done));
        return;
      }
    } catch (const std::system_error& failure) {
      ++counts_.load_failures;
      const std::string why = fmt::format("starting its thread: {}", failure.what());
      lifecycle_.failed(shared_.clock.now(), why);
      answer = make_error(Code::kUnavailable, why);
    }
  }
  done(answer);
}

void ManagedModel::unload(Done done) {
  std::vector<Done> load_waiters;
  bool nothing_left = false;
  {
    const std::lock_guard lock(mutex_);
    load_waiters = std::exchange(load_waiters_, {});
    drop_successor_locked();
    if (lifecycle_.unload() == Lifecycle::Action::kDrain) {
      // What loads for nobody need not load to its end.
      if (retire_locked(UnloadCause::kExplicit, /*if_idle=*/true)) {
        leaving_.back()->abandon();
      } else {
        (void)retire_locked(UnloadCause::kExplicit, /*if_idle=*/false);
      }
    }
    nothing_left = leaving_.size() == gone_.size();
    if (nothing_left) {
      lifecycle_.drained();
    } else {
      unload_waiters_.push_back(std::move(done));
    }
  }
  tell(load_waiters, make_error(Code::kUnavailable, "the model was unloaded meanwhile"));
  if (nothing_left) done({});
}

void ManagedModel::enable() {
  const std::lock_guard lock(mutex_);
  lifecycle_.enable();
}

// ---- told by engines ----------------------------------------------------------------------------

bool ManagedModel::loads_locked(const ModelVersion& engine) const {
  return &engine == (lifecycle_.has_successor() ? successor_ : current_).get();
}

Status ManagedModel::reserve(const ModelVersion& engine, const MemoryClaim& claim) {
  Status reserved =
      shared_.memory.reserve(&engine, claim, [&engine] { return engine.abandoned(); });
  if (!reserved) return reserved;
  const std::lock_guard lock(mutex_);
  bytes_[&engine] = claim.all();
  return {};
}

void ManagedModel::load_progressed(const ModelVersion& engine, float progress) {
  const std::lock_guard lock(mutex_);
  if (loads_locked(engine)) lifecycle_.progressed(progress);
}

void ManagedModel::loaded(const ModelVersion& engine) {
  const std::lock_guard lock(mutex_);
  if (loads_locked(engine)) lifecycle_.loaded();
}

void ManagedModel::warmed(const ModelVersion& engine) {
  std::vector<Done> waiters;
  const ModelInfo info = engine.info();
  const auto stamp = engine.stamp();
  {
    const std::lock_guard lock(mutex_);
    if (!loads_locked(engine)) return;
    if (lifecycle_.warmed() == Lifecycle::Action::kSwap) {
      (void)retire_locked(UnloadCause::kReplaced, /*if_idle=*/false);
      current_ = std::move(successor_);
    }
    if (options_.task == Task::kGenerate) {
      kv_ = model::kv_capacity(options_, info.context_tokens, info.memory.kv_bytes);
      kv_stamp_ = stamp;
    }
    waiters = std::exchange(load_waiters_, {});
  }
  tell(waiters, {});
  shared_.look_soon();
}

void ManagedModel::load_failed(const ModelVersion& engine, const Error& error, bool no_memory) {
  std::vector<Done> waiters;
  {
    const std::lock_guard lock(mutex_);
    ++counts_.load_failures;
    if (!loads_locked(engine)) return;
    leaving_.push_back(std::move(lifecycle_.has_successor() ? successor_ : current_));
    const TimePoint now = shared_.clock.now();
    if (no_memory) {
      lifecycle_.no_memory(now, error.message);
    } else {
      lifecycle_.failed(now, error.message);
    }
    waiters = std::exchange(load_waiters_, {});
  }
  tell(waiters, error);
  shared_.look_soon();
}

void ManagedModel::idle(const ModelVersion& /*engine*/) {
  if (options_.keep_alive) shared_.look_soon();
}

void ManagedModel::released(const ModelVersion& engine) {
  shared_.memory.release(&engine);
  std::vector<Done> waiters;
  {
    const std::lock_guard lock(mutex_);
    bytes_.erase(&engine);
    gone_.push_back(&engine);
    if (!current_ && leaving_.size() == gone_.size()) {
      lifecycle_.drained();
      waiters = std::exchange(unload_waiters_, {});
    }
  }
  tell(waiters, {});
  shared_.look_soon();
}

}  // namespace weir::model
