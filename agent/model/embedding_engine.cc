// SPDX-License-Identifier: Apache-2.0
#include "agent/model/embedding_engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "agent/model/embedding_tokens.h"

namespace weir::model {

namespace {

using JobPtr = std::shared_ptr<EmbeddingJob>;

// Far beyond any window, and far from overflowing what a condition variable adds to its clock.
constexpr Duration kLongestRest = std::chrono::hours(1);

constexpr std::size_t kWarmUpTokens = 16;

// As many as can be configured.
constexpr std::size_t kMostInstances = 64;

std::size_t texts_per_batch(const ModelOptions& options) {
  return std::min(options.batch.max_batch_size, kMostTextsPerCall);
}

schedule::BatchOptions batch_options(const ModelOptions& options) {
  schedule::BatchOptions batch = options.batch;
  batch.max_batch_size = texts_per_batch(options);
  batch.preferred_batch_size = std::min(batch.preferred_batch_size, batch.max_batch_size);
  return batch;
}

}  // namespace

EmbeddingEngine::EmbeddingEngine(ModelOptions options, const Clock& clock,
                                 schedule::TimerThread& timers, schedule::WorkerPool& workers,
                                 VersionHost* host)
    : options_(std::move(options)),
      clock_(clock),
      queue_(RequestQueue::create(queue_options(options_),
                                  texts_per_batch(options_) * options_.batch.instances, clock,
                                  timers)),
      workers_(workers),
      life_(*this, options_, clock, queue_, workers, host),
      former_(batch_options(options_)),
      budget_(options_.max_batch_tokens) {
  thread_ = std::jthread([this] { run(); });
}

EmbeddingEngine::~EmbeddingEngine() {
  abandon();
  thread_.join();
}

std::optional<Refusal> EmbeddingEngine::submit(std::shared_ptr<GenerationRequest> request) {
  return queue_->submit(std::move(request));
}

void EmbeddingEngine::begin_drain() { queue_->begin_drain(); }

bool EmbeddingEngine::wait_idle(TimePoint deadline) { return queue_->wait_idle(deadline); }

std::optional<Duration> EmbeddingEngine::predicted_wait(std::int32_t level) const {
  return queue_->predicted_wait(level);
}

ModelInfo EmbeddingEngine::info() const {
  ModelInfo info = life_.info();
  const std::lock_guard lock(mutex_);
  info.running = static_cast<std::uint32_t>(jobs_.all().size());
  info.prompt_tokens += computed_tokens_;
  info.decode_steps += calls_;
  info.batches = batches_;
  info.batches->step_time = former_.step_time().line();
  if (learns()) info.batches->token_bound = budget_.learned();
  return info;
}

// ---- the first instance ------------------------------------------------------------------------

void EmbeddingEngine::run() {
  const std::string name = "embed-" + options_.name;
  name_this_thread(name);
  if (life_.wait_until_wanted()) {
    if (Status loaded = load(); !loaded) {
      life_.fail(loaded.error());
      return stop();
    }
    std::vector<std::jthread> others;
    try {
      for (std::size_t i = 1; i < models_.size(); ++i) {
        others.emplace_back([this, i, name] {
          name_this_thread(name);
          serve(i);
        });
      }
    } catch (const std::system_error& failure) {
      spdlog::warn("instances missing name={} have={} want={} reason=\"{}\"", options_.name,
                   others.size() + 1, models_.size(), failure.what());
    }
    serve(0);
  }
  stop();
}

Status EmbeddingEngine::load() {
  const TimePoint start = clock_.now();
  auto weights = load_file();
  if (!weights) return std::move(weights).error();
  if (Status warmed = warm_up(); !warmed) {
    return std::move(warmed).error().context("the first call failed");
  }
  const llama_model* const model = weights->model.get();
  const std::uint32_t most_tokens = most_text_tokens(options_, model);
  tokenizer_.emplace(
      *queue_,
      [tokenizer = EmbeddingTokenizer(*weights, most_tokens)](const GenerationRequest& request) {
        return tokenizer.tokenize(*request.embedding);
      },
      workers_);
  const ModelInfo info = life_.ready(llama_model_n_params(model), most_tokens);
  spdlog::info(
      "model loaded name={} path={} task={} ms={} bytes={} parameters={} instances={} "
      "context_tokens={} values={}",
      info.name, info.path, to_string(info.task),
      std::chrono::duration_cast<std::chrono::milliseconds>(clock_.now() - start).count(),
      info.file_bytes, info.parameters, models_.size(), info.context_tokens, values_per_text_);
  life_.warmed();
  return {};
}

Result<Weights> EmbeddingEngine::load_file() {
  const auto file = life_.open();
  if (!file) return file.error();
  MemoryReading estimate;
  estimate.mapped_bytes = file->bytes;
  if (Status reserved = life_.reserve(estimate); !reserved) return std::move(reserved).error();
  auto weights = life_.load_weights(*file);
  if (!weights) return weights;
  threads_ = threads_of(options_, file->bytes);
  const std::size_t instances = options_.instance_per_thread
                                    ? std::min<std::size_t>(threads_, kMostInstances)
                                    : options_.batch.instances;
  estimate.copied_bytes = weights->copied_bytes;
  estimate.compute_bytes = instances * embedding_model_bytes(options_, weights->model.get());
  if (Status reserved = life_.reserve(estimate); !reserved) return std::move(reserved).error();
  if (Status made = make_instances(*weights, instances); !made) return std::move(made).error();
  share_ = std::max(1U, threads_ / static_cast<std::uint32_t>(instances));
  MemoryReading memory;
  for (const EmbeddingModel& made : models_) memory.add(made.memory());
  memory.mapped_bytes = weights->file_bytes;
  memory.copied_bytes = weights->copied_bytes;
  if (Status reserved = life_.reserve(memory); !reserved) return std::move(reserved).error();
  life_.loaded(*weights, memory);
  return weights;
}

Status EmbeddingEngine::make_instances(const Weights& weights, std::size_t instances) {
  for (std::size_t i = 0; i < instances; ++i) {
    auto made = EmbeddingModel::make(weights, options_, life_.stopping());
    if (!made) return std::move(made).error();
    models_.push_back(std::move(*made));
  }
  values_per_text_ = models_.front().values_per_text();
  return {};
}

/// The first call reserves what a graph needs, and reads the weights.
Status EmbeddingEngine::warm_up() {
  std::vector<float> values(values_per_text_);
  const std::vector<std::int32_t> tokens(kWarmUpTokens, 0);
  for (EmbeddingModel& model : models_) {
    const EmbeddingModel::Text text{tokens, values};
    if (Status warmed = model.run({&text, 1}, threads_); !warmed) return warmed;
  }
  return {};
}

/// The others have ended, or were never started.
void EmbeddingEngine::stop() {
  const Error error = life_.retire();
  std::vector<JobPtr> left;
  {
    const std::lock_guard lock(mutex_);
    for (const JobPtr& job : jobs_.all()) {
      if (!job->error) job->error = error;
    }
    left = take_ended_locked();
  }
  settle(left);
  queue_->fail_waiting(error);
  tokenizer_.reset();
  models_.clear();
  life_.end();
}

// ---- each instance -----------------------------------------------------------------------------

void EmbeddingEngine::serve(std::size_t instance) {
  while (true) {
    Batch batch;
    {
      const std::lock_guard turn(turn_);
      batch = next_batch();
    }
    if (batch.pieces.empty()) return;
    execute(instance, batch);
  }
}

EmbeddingEngine::Batch EmbeddingEngine::next_batch() {
  while (!life_.abandoned()) {
    take_requests();
    drop_leavers();
    std::optional<TimePoint> look_again;
    Batch batch = due_batch(look_again);
    if (!batch.pieces.empty()) return batch;
    if (!look_again && queue_->idle()) {
      if (queue_->retired()) return {};
      life_.idle();
    }
    wait_for_requests(look_again);
  }
  return {};
}

void EmbeddingEngine::take_requests() {
  // A request at a time: how many texts it has is seen then.
  while (true) {
    const auto level = queue_->most_urgent();
    if (!level) return;
    {
      const std::lock_guard lock(mutex_);
      if (!jobs_.wants(*level, bound_locked().times(sharers_locked()))) return;
    }
    std::vector<Taken> taken = queue_->take(1);
    if (taken.empty()) return;
    auto job = std::make_shared<EmbeddingJob>(std::move(taken.front()), values_per_text_);
    // The one of that level may not be ready yet: what came instead is enough for now.
    const bool is_other = job->taken.request->priority != *level;
    const std::lock_guard lock(mutex_);
    former_.arrived(job->taken.accepted);
    jobs_.add(std::move(job));
    if (is_other) return;
  }
}

void EmbeddingEngine::drop_leavers() {
  std::vector<JobPtr> ended;
  {
    const std::lock_guard lock(mutex_);
    const TimePoint now = clock_.now();
    for (const JobPtr& job : jobs_.all()) {
      if (!job->error) job->error = reason_to_leave(*job->taken.request, now);
    }
    ended = take_ended_locked();
  }
  settle(ended);
}

EmbeddingBound EmbeddingEngine::bound_locked() const {
  return {texts_per_batch(options_), learns() ? budget_.tokens() : options_.max_batch_tokens};
}

std::size_t EmbeddingEngine::sharers_locked() const {
  return learns() ? models_.size() - executing_ : 1;
}

EmbeddingEngine::Batch EmbeddingEngine::due_batch(std::optional<TimePoint>& look_again) {
  const std::lock_guard lock(mutex_);
  const TimePoint now = clock_.now();
  const std::size_t sharers = sharers_locked();
  EmbeddingBound bound = bound_locked();
  const EmbeddingJobs::Waiting waiting = jobs_.waiting(bound.times(sharers));
  if (waiting.texts == 0) return {};
  const schedule::BatchDecision decision =
      former_.decide({waiting.texts, waiting.oldest, waiting.deadline}, now);
  const bool is_enough = waiting.fills(bound);
  if (!is_enough && decision.take == 0) {
    look_again = decision.look_again.value_or(now + kLongestRest);
    return {};
  }
  Batch batch;
  batch.cause = is_enough ? schedule::BatchCause::kFull : decision.cause;
  if (!is_enough) bound.texts = std::min(bound.texts, decision.take);
  budget_.made(waiting.fills(bound.times(sharers)));
  if (sharers > 1) bound = bound.share(waiting.tokens, sharers);
  batch.pieces = jobs_.pack(bound);
  const bool is_alone = ++executing_ == 1 && jobs_.waiting({}).texts == 0 && !queue_->has_work();
  batch.threads = is_alone ? threads_ : share_;
  return batch;
}

void EmbeddingEngine::wait_for_requests(std::optional<TimePoint> look_again) {
  bool is_busy = look_again.has_value();
  {
    const std::lock_guard lock(mutex_);
    is_busy = is_busy || executing_ > 0 || !jobs_.all().empty();
  }
  if (!is_busy) {
    queue_->wait_for_work();
  } else {
    const Duration longest = look_again ? *look_again - clock_.now() : kLongestRest;
    queue_->rest(std::clamp(longest, Duration::zero(), kLongestRest), /*for_requests=*/true);
  }
}

void EmbeddingEngine::execute(std::size_t instance, const Batch& batch) {
  std::vector<EmbeddingModel::Text> texts;
  texts.reserve(batch.pieces.size());
  std::uint64_t tokens = 0;
  for (const auto& [job, text] : batch.pieces) {
    const std::span values(job->values);
    texts.push_back({job->texts[text], values.subspan(text * values_per_text_, values_per_text_)});
    tokens += texts.back().tokens.size();
  }
  const TimePoint start = clock_.now();
  Status ran = models_[instance].run(texts, batch.threads);
  const TimePoint end = clock_.now();
  std::vector<JobPtr> ended;
  {
    const std::lock_guard lock(mutex_);
    --executing_;
    former_.ran(batch.pieces.size(), end - start);
    if (batch.threads == share_) budget_.ran(tokens, end - start);
    batches_.add(batch.pieces.size(), batch.cause);
    computed_tokens_ += tokens;
    ++calls_;
    for (const auto& [job, text] : batch.pieces) {
      --job->computing;
      ++job->done;
      if (!ran && !job->error) job->error = ran.error();
      if (!job->first_done) job->first_done = end;
    }
    ended = take_ended_locked();
  }
  settle(ended);
}

std::vector<JobPtr> EmbeddingEngine::take_ended_locked() {
  std::vector<JobPtr> ended;
  for (const JobPtr& job : jobs_.all()) {
    if (job->ended()) ended.push_back(job);
  }
  for (const JobPtr& job : ended) jobs_.forget(job.get());
  return ended;
}

void EmbeddingEngine::settle(const std::vector<JobPtr>& ended) {
  if (ended.empty()) return;
  const TimePoint now = clock_.now();
  std::vector<Outcome> outcomes;
  outcomes.reserve(ended.size());
  for (const JobPtr& job : ended) {
    Outcome& outcome = outcomes.emplace_back();
    if (!job->error) job->error = reason_to_leave(*job->taken.request, now);
    if (job->error) {
      outcome.result = *job->error;
      outcome.tokens = job->done == 0 ? 0 : job->texts.tokens();
    } else {
      job->taken.request->listener->on_vectors(job->values);
      Completion completion;
      completion.usage.prompt_tokens = static_cast<std::uint32_t>(job->texts.tokens());
      completion.queued = job->taken.taken - job->taken.accepted;
      completion.first_token = *job->first_done - job->taken.accepted;
      completion.total = now - job->taken.accepted;
      outcome.result = completion;
      outcome.tokens = job->texts.tokens();
    }
    outcome.of = std::move(job->taken);
  }
  queue_->settle(outcomes);
}

}  // namespace weir::model
