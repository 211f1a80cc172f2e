// SPDX-License-Identifier: Apache-2.0
//
// One agent replaced by another while both serve: the Agent's methods for it. In order:
//
// 1. The successor joins the listeners of the port, so that it takes connections from now on, and
//    asks.
// 2. The predecessor ends its control loop and lets go of the pins; it goes on serving.
// 3. The successor adopts the pins and steers.
// 4. The predecessor sees that, leaves the port (what is queued there moves to the successor),
//    finishes its open connections and exits.
//
// At every moment one of the two serves, and the kernel steers throughout. When the successor fails
// or dies before it steers, the predecessor takes the pins back.
#include <spdlog/spdlog.h>

#include <thread>
#include <utility>

#include "agent/agent.h"
#include "agent/kernel/pin_dir.h"

namespace weir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kPoll{20};
// A model that takes longer is loaded while the first requests wait for it.
constexpr seconds kPreload{300};
// How long a successor may take from the lock to its first published decisions.
constexpr seconds kSuccessorAttaches{10};

}  // namespace

// ---- the successor ------------------------------------------------------------------------------

/// Sets listeners_ when there is an agent to take over from.
Status Agent::find_running() {
  if (!config_.kernel().enabled()) {
    return make_error(Code::kInvalidArgument,
                      "--takeover needs kernel.enabled: two agents meet in the pinned maps");
  }
  const std::string& pin_root = config_.kernel().pin_root();
  for (const std::string& version : kernel::pinned_versions(pin_root)) {
    if (version == kernel::version_path(pin_root) || !kernel::agent_is_alive(version)) continue;
    return make_error(Code::kUnsupported, "the agent that runs has another ABI version (" +
                                              version + "): stop it, then start this one");
  }
  if (!kernel::agent_is_alive(kernel::version_path(pin_root))) {
    spdlog::info("no agent to take over from, starting as usual pin_root={}", pin_root);
    return {};
  }
  auto address = Endpoint::parse(config_.serve().http(), /*allow_port_zero=*/true);
  if (!address) return std::move(address).error().context("serve.http");
  if (address->port == 0) {
    return make_error(Code::kInvalidArgument,
                      "--takeover needs the running agent's port in serve.http, not 0");
  }
  auto listeners =
      kernel::ListenSteering::open_running({kernel::version_path(pin_root), *address, {}});
  if (!listeners) return std::move(listeners).error().context("--takeover");
  listeners_ = std::move(*listeners);
  return {};
}

/// `asked_to_stop`: whoever started this need not sit it out.
Status Agent::await_preloads(const std::function<bool()>& asked_to_stop) {
  const TimePoint deadline = clock_.now() + kPreload;
  while (clock_.now() < deadline) {
    using State = model::ModelInfo::State;
    bool loading = false;
    for (const model::ModelInfo& model : models_->models()) {
      // One that found no memory is unloaded, and is not tried again before a request.
      if (!model.failure.empty()) {
        return make_error(Code::kUnavailable,
                          "model \"" + model.name + "\" could not be loaded: " + model.failure);
      }
      loading |= model.state == State::kLoading || model.state == State::kWarming;
    }
    if (!loading) break;
    if (asked_to_stop && asked_to_stop()) {
      return make_error(Code::kCancelled, "told to stop while it loaded its models");
    }
    std::this_thread::sleep_for(kPoll);
  }
  return {};
}

Status Agent::ask_running(const std::function<bool()>& asked_to_stop) {
  if (auto loaded = await_preloads(asked_to_stop); !loaded) return loaded;
  auto mailbox = kernel::TakeoverMailbox::open(config_.kernel().pin_root());
  if (!mailbox) return std::move(mailbox).error();
  mailbox_ = std::move(*mailbox);
  if (auto joined = http_->join(*listeners_); !joined) return joined;
  spdlog::info("asking the running agent to hand over pid={} http={}", mailbox_->agent_pid(),
               http_->endpoint().to_string());
  mailbox_->ask(listeners_->owner());
  return {};
}

/// Lets go of what it has taken, gives what it has accepted its answers; what is queued moves back.
void Agent::give_up() {
  if (mailbox_) mailbox_->withdraw(listeners_->owner());
  spdlog::warn("giving up the takeover, the running agent serves on");
  control_thread_ = {};
  data_plane_.reset();
  http_->begin_hand_over();
  if (!http_->wait_drained(drain_timeout_)) spdlog::warn("drain incomplete");
}

/// For an agent that takes over from nobody. Without it the kernel chooses a listener by its hash.
void Agent::share_listeners() {
  auto listeners = kernel::ListenSteering::open(
      {kernel::version_path(config_.kernel().pin_root()), http_->endpoint(), {}});
  if (listeners) {
    listeners_ = std::move(*listeners);
    if (auto joined = http_->join(*listeners_); !joined) {
      spdlog::warn("some listeners are chosen by hash error=\"{}\"", joined.error().message);
    }
    return;
  }
  spdlog::warn("listeners are chosen by hash, no agent can take over error=\"{}\"",
               listeners.error().message);
}

// ---- the predecessor ----------------------------------------------------------------------------

bool Agent::hand_over_if_asked() {
  const std::uint32_t ticket = mailbox_ ? mailbox_->asked() : 0;
  if (ticket == 0) return false;
  if (!data_plane_ || !listeners_ || !listeners_->has_listener_of(ticket)) {
    mailbox_->withdraw(ticket);
    spdlog::warn("a takeover was asked for by an agent that listens no longer");
    return false;
  }
  spdlog::info("handing over to another agent");
  control_thread_ = {};
  data_plane_.reset();  // lets go of the pins and leaves them as they are
  if (!await_successor(ticket) && !resume(ticket)) return false;

  http_->begin_hand_over();
  if (!http_->wait_drained(drain_timeout_)) {
    spdlog::warn("drain incomplete timeout_s={}", drain_timeout_.count());
  }
  models_->begin_drain();
  spdlog::info("agent handed over");
  return true;
}

/// Whether the successor steers.
bool Agent::await_successor(std::uint32_t ticket) {
  const TimePoint deadline = clock_.now() + kSuccessorAttaches;
  const auto steers = [this](const kernel::TakeoverMailbox& mailbox) {
    return mailbox.agent_start_ns() != start_ns_ && mailbox.agent_steers();
  };
  while (clock_.now() < deadline && listeners_->has_listener_of(ticket)) {
    // Needs no descriptor: connections may have taken the last one.
    if (steers(*mailbox_)) return true;
    // What is pinned now: the successor may have put larger maps in the place of ours.
    auto pinned = kernel::TakeoverMailbox::open(config_.kernel().pin_root());
    if (pinned && steers(*pinned)) return true;
    std::this_thread::sleep_for(kPoll);
  }
  return false;
}

/// Takes the pins back from a successor that is gone. True when it holds them after all.
bool Agent::resume(std::uint32_t ticket) {
  auto steered = steer(kPoll);
  if (steered) {
    mailbox_->withdraw(ticket);
    spdlog::warn("the other agent did not take over, steering on");
    return false;
  }
  if (steered.error().code == Code::kAlreadyExists && listeners_->has_listener_of(ticket)) {
    return true;
  }
  spdlog::error("serving on without the kernel side error=\"{}\"", steered.error().message);
  return false;
}

}  // namespace weir
