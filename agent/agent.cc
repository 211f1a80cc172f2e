// SPDX-License-Identifier: Apache-2.0
#include "agent/agent.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/balance/control_options.h"
#include "agent/base/descriptor_limit.h"
#include "agent/model/gguf_vetting.h"
#include "agent/stage_options.h"

namespace weir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// How long a running agent may take to let go of the pins.
constexpr milliseconds kHandOverAnswer{10'000};

/// Maps, links, model files, and what each thread has of its own.
constexpr std::uint64_t kOtherDescriptors = 1024;

/// Where processes of this host reach our listener: the loopback when it listens on every address.
Endpoint reachable(Endpoint bound) {
  const std::size_t host = bound.is_v4() ? 12 : 0;
  const bool any = std::all_of(bound.ip.begin() + static_cast<std::ptrdiff_t>(host), bound.ip.end(),
                               [](std::uint8_t byte) { return byte == 0; });
  if (!any) return bound;
  if (bound.is_v4()) bound.ip[host] = 127;
  bound.ip.back() = 1;
  return bound;
}

void make_room_for(std::uint64_t connections) {
  const std::uint64_t wanted = connections + kOtherDescriptors;
  const auto limit = raise_descriptor_limit(wanted);
  if (!limit) {
    spdlog::warn("cannot raise the limit of descriptors error=\"{}\"", limit.error().message);
  } else if (*limit < wanted) {
    spdlog::warn(
        "serve.max_connections cannot be reached limit={} wanted={} reason=\"the hard limit "
        "of descriptors (ulimit -Hn, LimitNOFILE=)\"",
        *limit, wanted);
  }
}

void log_capabilities(const kernel::Capabilities& capabilities) {
  constexpr std::string_view kUse[] = {"used", "fallback", "missing"};
  for (const auto& capability : capabilities) {
    spdlog::info("capability name=\"{}\" use={} detail=\"{}\"", capability.name,
                 kUse[static_cast<std::size_t>(capability.use)], capability.detail);
  }
}

}  // namespace

std::shared_ptr<const kernel::Snapshot> Agent::LastSnapshot::kernel_snapshot() const {
  const balance::ControlLoop* const control = control_;
  auto report = control != nullptr ? control->latest() : nullptr;
  if (!report) return nullptr;
  return {report, &report->snapshot};
}

model::VettingReading Agent::LastSnapshot::vetting_reading() const {
  return model::gguf_vetting().reading();
}

upstream::SlaReading Agent::LastSnapshot::sla_reading() const {
  return policies_ != nullptr ? policies_->reading() : upstream::SlaReading{};
}

std::optional<schedule::WorkerPoolReading> Agent::LastSnapshot::worker_reading() const {
  return workers_ != nullptr ? std::optional(workers_->read()) : std::nullopt;
}

Result<std::unique_ptr<Agent>> Agent::start(const weir::v1::Config& config, bool take_over,
                                            const std::function<bool()>& asked_to_stop) {
  std::unique_ptr<Agent> agent(new Agent);
  agent->config_ = config;
  agent->drain_timeout_ = seconds(config.serve().drain_timeout_seconds());
  if (take_over) {
    if (auto found = agent->find_running(); !found) return std::move(found).error();
  }
  const bool joins = agent->listeners_ != nullptr;
  if (auto served = agent->serve(joins); !served) return std::move(served).error();
  if (joins) {
    if (auto asked = agent->ask_running(asked_to_stop); !asked) {
      agent->give_up();
      return std::move(asked).error();
    }
  }
  if (config.kernel().enabled()) {
    if (auto steered = agent->steer(joins ? kHandOverAnswer : milliseconds(0)); !steered) {
      // Half a start leaves nothing behind; what an earlier agent left keeps steering.
      if (agent->data_plane_ && !agent->data_plane_->adopted()) {
        if (auto detached = agent->data_plane_->detach(); !detached) {
          spdlog::error("detach failed error=\"{}\"", detached.error().message);
        }
      }
      if (!joins) return std::move(steered).error();
      agent->give_up();
      return std::move(steered).error().context("the running agent did not hand over");
    }
    if (!joins) agent->share_listeners();
  }
  spdlog::info("agent ready http={} services={} models={} kernel={}",
               agent->http_->endpoint().to_string(), config.services_size(), config.models_size(),
               !agent->data_plane_             ? "off"
               : agent->data_plane_->adopted() ? "adopted"
                                               : "attached");
  return agent;
}

Agent::~Agent() {
  // Before the loop and the maps that it uses go.
  control_thread_ = {};
}

Status Agent::serve(bool share_port) {
  // A prompt may take a worker a second: what waits behind it needs another one at once.
  auto workers = schedule::WorkerPool::create({.name = "worker",
                                               .min_workers = 1,
                                               .max_workers = config_.serve().workers(),
                                               .grow_after = Duration::zero()});
  if (!workers) return std::move(workers).error().context("serve.workers");
  workers_ = std::move(*workers);
  last_snapshot_.follow(*workers_);
  auto shared = registry_options(config_);
  if (!shared) return std::move(shared).error();
  auto models =
      model::Registry::create(model_options(config_), clock_, *workers_, *std::move(shared));
  if (!models) return std::move(models).error();
  models_ = std::move(*models);
  model::Executor& executor = with_policies();

  auto options = serve_options(config_.serve());
  if (!options) return std::move(options).error();
  options->share_port = share_port;
  make_room_for(options->max_connections);
  options->tenant_header = config_.admission().tenant_header();
  auto admission = admission_options(config_);
  if (!admission) return std::move(admission).error();
  admission->predicted_wait = [this](std::string_view model, std::int32_t level) {
    return models_->predicted_wait(model, level);
  };
  admission->read_models = [this] { return model_costs(*models_); };
  auto admits = admit::Admission::create(*std::move(admission), clock_);
  if (!admits) return std::move(admits).error().context("admission");
  admission_ = *std::move(admits);
  admission_sampler_.emplace(*admission_);
  auto http = serve::HttpServer::create(*options, executor, *admission_, last_snapshot_, clock_,
                                        models_.get(), workers_.get());
  if (!http) return std::move(http).error();
  http_ = std::move(*http);
  return {};
}

model::Executor& Agent::with_policies() {
  if (config_.sla().empty()) return *models_;
  std::vector<upstream::SlaOptions> policies;
  for (const auto& policy : config_.sla()) policies.push_back(upstream::sla_options(policy));
  timer_thread_.emplace(clock_);
  timers_.emplace(*timer_thread_);
  policies_.emplace(std::move(policies), *models_, *timers_, clock_, std::random_device{}());
  last_snapshot_.follow(*policies_);
  return *policies_;
}

Status Agent::steer(milliseconds wait_for_lock) {
  const Endpoint local = reachable(http_->endpoint());
  auto options = kernel_options(config_, local);
  if (!options) return std::move(options).error();
  options->wait_for_lock = wait_for_lock;
  auto data_plane = kernel::DataPlane::attach(*options);
  if (!data_plane) return std::move(data_plane).error();
  data_plane_ = std::move(*data_plane);
  log_capabilities(data_plane_->capabilities());

  auto control_options = balance::control_options(config_, local);
  if (!control_options) return std::move(control_options).error();
  auto control =
      balance::ControlLoop::create(std::move(*control_options), *data_plane_, *data_plane_, clock_);
  if (!control) return std::move(control).error();
  if (control_) retired_.push_back(std::move(control_));
  control_ = std::move(*control);
  // The first tick comes before the thread: whoever sees us ready is steered.
  if (auto ticked = control_->tick(); !ticked) return std::move(ticked).error();
  last_snapshot_.follow(*control_);
  auto mailbox = kernel::TakeoverMailbox::open(config_.kernel().pin_root());
  if (!mailbox) return std::move(mailbox).error();
  mailbox_ = std::move(*mailbox);
  start_ns_ = mailbox_->agent_start_ns();
  control_thread_ = std::jthread([this](const std::stop_token& stop) { control_->run(stop); });
  return {};
}

Status Agent::publish_without_local() {
  std::vector<kernel::BackendDecision> decisions;
  for (const auto& backend : control_->latest()->backends) {
    if (!backend.is_local) decisions.push_back(balance::decision_of(backend));
  }
  return data_plane_->publish(decisions);
}

/// Waits until every connect that was steered to the local backend has reached its listener or
/// failed: a listener resets what arrives after it closed. A second is enough for a SYN that was
/// lost once. Until then a connection is `fresh`, and so it is until its first request; the
/// counters would tell exactly, were it not that a connect which fails before its SYN counts as
/// failed only.
void Agent::await_steered_connects() {
  const TimePoint deadline = clock_.now() + seconds(1);
  bool under_way = true;
  while (under_way && clock_.now() < deadline) {
    // First, so that a pick that read the table before the flip has counted its connect.
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    auto snapshot = data_plane_->read_gauges();
    if (!snapshot) return;
    under_way = std::any_of(snapshot->backends.begin(), snapshot->backends.end(),
                            [](const kernel::BackendReading& backend) {
                              return backend.is_local && backend.fresh > 0;
                            });
  }
}

Status Agent::shutdown() {
  spdlog::info("agent draining timeout_s={}", drain_timeout_.count());
  if (data_plane_) {
    // From here on the maps are ours; new connections must find another backend before the
    // listener closes.
    control_thread_ = {};
    if (auto published = publish_without_local(); !published) {
      spdlog::error("drain error=\"{}\"", published.error().message);
    }
    await_steered_connects();
  }
  // Only the listener closes: the models take the requests of connections that are still open.
  http_->begin_drain();
  const TimePoint deadline = clock_.now() + drain_timeout_;
  bool drained = http_->wait_drained(seconds(0));
  while (!drained && clock_.now() < deadline) {
    drained = http_->wait_drained(seconds(1));
    // The heartbeat: no other agent takes over while this one drains.
    if (data_plane_ && !publish_without_local()) break;
  }
  if (!drained) spdlog::warn("drain incomplete timeout_s={}", drain_timeout_.count());
  models_->begin_drain();
  if (data_plane_) {
    if (auto detached = data_plane_->detach(); !detached) return detached;
  }
  spdlog::info("agent stopped");
  return {};
}

}  // namespace weir
