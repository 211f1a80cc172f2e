// SPDX-License-Identifier: Apache-2.0
#include "agent/model/version_life.h"

#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "agent/model/gguf_vetting.h"

namespace weir::model {

namespace {

// Files below load within a second or two from a disk; a progress line would be noise.
constexpr std::uint64_t kBigFileBytes = std::uint64_t{256} << 20;

std::string name_of_weights(const CheckedGguf& file, bool repack) {
  std::string name = repack ? "repacked" : "plain";
  for (const FileIdentity& part : file.parts) {
    name += fmt::format(" {}:{}:{}:{}", part.device, part.inode, part.bytes, part.modified_ns);
  }
  return name;
}

}  // namespace

schedule::QueueOptions queue_options(const ModelOptions& options) {
  schedule::QueueOptions queue = options.queue;
  queue.all.max_requests = options.max_queue;
  return queue;
}

void name_this_thread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

VersionLife::VersionLife(const ModelVersion& version, const ModelOptions& options,
                         const Clock& clock, std::shared_ptr<RequestQueue> queue,
                         schedule::WorkerPool& workers, VersionHost* host)
    : version_(version),
      options_(options),
      clock_(clock),
      queue_(std::move(queue)),
      workers_(workers),
      host_(host),
      load_wanted_(options.preload) {
  info_.name = options.name;
  info_.path = options.path;
  info_.task = options.task;
  if (host_ != nullptr) queue_->poke_when_idle();
}

void VersionLife::begin() {
  {
    const std::lock_guard lock(mutex_);
    load_wanted_ = true;
  }
  queue_->poke();
}

void VersionLife::abandon() {
  stopping_.store(true, std::memory_order_relaxed);
  queue_->poke();
}

std::optional<FileStamp> VersionLife::stamp() const {
  const std::lock_guard lock(mutex_);
  return stamp_;
}

ModelInfo VersionLife::info() const {
  ModelInfo info;
  std::shared_ptr<ModelFile> file;
  {
    const std::lock_guard lock(mutex_);
    info = info_;
    file = file_;
  }
  if (file) info.memory.resident_bytes = file->recently_resident(clock_.now(), workers_);
  queue_->read(info);
  return info;
}

void VersionLife::idle() {
  if (host_ != nullptr) host_->idle(version_);
}

bool VersionLife::wait_until_wanted() {
  while (!abandoned()) {
    if (take_load_wanted() || queue_->has_work()) return true;
    if (queue_->idle()) {
      if (queue_->retired()) return false;
      idle();
    }
    queue_->wait_for_work();
  }
  return false;
}

bool VersionLife::take_load_wanted() {
  const std::lock_guard lock(mutex_);
  return std::exchange(load_wanted_, false);
}

Result<CheckedGguf> VersionLife::open() {
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kLoading;
    ++info_.loads;
    stamp_ = file_stamp(options_.path);
  }
  auto file = gguf_vetting().check(options_.path);
  if (!file) return file.error();
  weights_ = name_of_weights(*file, options_.repack);
  const std::lock_guard lock(mutex_);
  info_.file_bytes = file->bytes;
  if (stamp_) info_.created_unix_seconds = stamp_->modified_unix_seconds();
  return *file;
}

Status VersionLife::reserve(const MemoryReading& memory) {
  if (host_ == nullptr) return {};
  const std::uint64_t weights_bytes = memory.mapped_bytes + memory.copied_bytes;
  Status reserved =
      host_->reserve(version_, {memory.all() - weights_bytes, weights_bytes, weights_});
  no_memory_ = !reserved.ok();
  return reserved;
}

Result<Weights> VersionLife::load_weights(const CheckedGguf& file) {
  logged_tenths_ = 0;
  return LoadedModel::load_weights(options_, file,
                                   [this](float progress) { return on_progress(progress); });
}

bool VersionLife::on_progress(float progress) {
  std::uint64_t file_bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    info_.load_progress = std::clamp(progress, 0.0F, 1.0F);
    file_bytes = info_.file_bytes;
  }
  const int tenths = static_cast<int>(progress * 10);
  if (file_bytes >= kBigFileBytes && tenths > logged_tenths_) {
    logged_tenths_ = tenths;
    spdlog::info("model loading name={} percent={}", options_.name, tenths * 10);
  }
  if (host_ != nullptr) host_->load_progressed(version_, progress);
  return !abandoned();
}

void VersionLife::loaded(const Weights& weights, const MemoryReading& memory) {
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kWarming;
    info_.memory = memory;
    if (weights.thin) ++info_.thin_loads;
    file_ = weights.file;
  }
  if (host_ != nullptr) host_->loaded(version_);
}

ModelInfo VersionLife::ready(std::uint64_t parameters, std::uint32_t context_tokens) {
  const std::lock_guard lock(mutex_);
  info_.state = ModelInfo::State::kReady;
  info_.load_progress = 1;
  info_.parameters = parameters;
  info_.context_tokens = context_tokens;
  return info_;
}

void VersionLife::warmed() {
  if (host_ != nullptr) host_->warmed(version_);
}

void VersionLife::fail(const Error& error) {
  if (abandoned()) return;  // which ended the load; retire() tells the listeners
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kFailed;
    info_.failure = error.message;
  }
  spdlog::error("model load failed name={} reason=\"{}\"", options_.name, error.message);
  // First the host: nobody may slip in between and wait for a load that is not tried.
  if (host_ != nullptr) host_->load_failed(version_, error, no_memory_);
  queue_->retire(/*if_idle=*/false);
  queue_->fail_waiting(make_error(no_memory_ ? Code::kResourceExhausted : Code::kUnavailable,
                                  "the model could not be loaded: " + error.message));
}

Error VersionLife::retire() {
  queue_->retire(/*if_idle=*/false);
  return make_error(Code::kUnavailable, "the agent is stopping");
}

void VersionLife::end() {
  {
    const std::lock_guard lock(mutex_);
    info_.memory = {};
    file_.reset();
  }
  queue_->close();
  if (host_ != nullptr) host_->released(version_);
}

}  // namespace weir::model
