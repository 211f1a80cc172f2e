// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/http_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <future>
#include <limits>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "agent/base/usable_cpus.h"
#include "agent/serve/handlers.h"
#include "agent/serve/http_session.h"
#include "agent/serve/thread_slice.h"

namespace weir::serve {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
namespace {

// Connections beyond max_connections that are held just long enough to be told so.
constexpr std::uint32_t kTurnedAwayAtOnce = 64;
// When accept() fails (no file descriptors left, mostly) it is tried again after this.
constexpr std::chrono::milliseconds kAcceptRetry{100};
// Connections accepted in one go, before sockets that are open already get their turn.
constexpr std::size_t kAcceptedAtOnce = 64;
// How often a listener of a group looks into its queue; see look_after().
constexpr std::chrono::milliseconds kLookAfter{250};

Error out_of_range(std::string_view field, std::uint64_t value, std::uint64_t min,
                   std::uint64_t max) {
  return make_error(Code::kInvalidArgument, std::string(field) + " is " + std::to_string(value) +
                                                "; it must be in " + std::to_string(min) + ".." +
                                                std::to_string(max));
}

Status validate(const ServeOptions& options) {
  struct Range {
    std::string_view field;
    std::uint64_t value, min, max;
  };
  const auto ms = [](std::chrono::milliseconds time) {
    return time.count() < 0 ? 0 : static_cast<std::uint64_t>(time.count());
  };
  constexpr std::chrono::milliseconds kAnyTimeout{1};  // in range
  constexpr std::uint64_t kGiB = 1ULL << 30U;
  constexpr std::uint64_t kDayMs = 24ULL * 60 * 60 * 1000;
  for (const Range& range : {
           Range{"io_threads", options.io_threads.value_or(1), 1, 256},
           Range{"max_body_bytes", options.max_body_bytes, 1024, kGiB},
           Range{"max_connections", options.max_connections, 1, 1U << 20U},
           Range{"max_stream_bytes", options.max_stream_bytes, 4096, kGiB},
           Range{"default_timeout_ms", ms(options.default_timeout.value_or(kAnyTimeout)), 1,
                 kDayMs},
           Range{"header_timeout_ms", ms(options.header_timeout), 1, kDayMs},
           Range{"body_timeout_ms", ms(options.body_timeout), 1, kDayMs},
           Range{"idle_timeout_ms", ms(options.idle_timeout), 1, kDayMs},
           Range{"write_timeout_ms", ms(options.write_timeout), 1, kDayMs},
           Range{"hand_over_grace_ms", ms(options.hand_over_grace), 1, kDayMs},
       }) {
    if (range.value < range.min || range.value > range.max) {
      return out_of_range(range.field, range.value, range.min, range.max);
    }
  }
  return {};
}

tcp::endpoint to_asio(const Endpoint& endpoint) {
  if (endpoint.is_v4()) {
    asio::ip::address_v4::bytes_type bytes{};
    std::copy(endpoint.ip.begin() + 12, endpoint.ip.end(), bytes.begin());
    return {asio::ip::address_v4(bytes), endpoint.port};
  }
  return {asio::ip::address_v6(endpoint.ip), endpoint.port};
}

Status bind_acceptor(tcp::acceptor& acceptor, const Endpoint& endpoint, bool share_port) {
  const tcp::endpoint address = to_asio(endpoint);
  const auto failed = [&](const error_code& error, std::string_view step) -> Status {
    return os_error(error.value(),
                    "cannot listen on " + endpoint.to_string() + ": " + std::string(step));
  };
  error_code error;
  acceptor.open(address.protocol(), error);
  if (error) return failed(error, "socket");
  acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (error) return failed(error, "SO_REUSEADDR");
  const int on = 1;
  if (share_port &&
      setsockopt(acceptor.native_handle(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) != 0) {
    return failed({errno, boost::system::system_category()}, "SO_REUSEPORT");
  }
  acceptor.bind(address, error);
  if (error) return failed(error, "bind");
  return {};
}

/// One I/O thread and its listening socket. Used by its own thread once that runs.
struct Listener {
  explicit Listener(std::size_t routes)
      : io(std::make_shared<IoThread>(routes)),
        acceptor(io->context),
        retry(io->context),
        look_after(io->context) {}

  const std::shared_ptr<IoThread> io;
  tcp::acceptor acceptor;
  asio::steady_timer retry;
  asio::steady_timer look_after;
  bool accept_failed = false;  ///< and was logged
  /// Keeps the loop running while only an engine has something to say.
  asio::executor_work_guard<asio::io_context::executor_type> work{io->context.get_executor()};
  std::jthread thread;
};

}  // namespace

class HttpServer::Impl final : public ServerState {
 public:
  Impl(const ServeOptions& options, model::Executor& executor, admit::Admission& admission,
       const telemetry::MetricsSource& metrics, const Clock& clock, model::ModelAdmin* admin,
       schedule::WorkerPool* workers)
      : shared_(options, executor, admission, clock) {
    const Services services{executor, admission, metrics, clock, *this, admin, workers};
    for (const auto add : {add_index, add_health, add_metrics, add_models, add_repository,
                           add_infer, add_completions, add_embeddings}) {
      add(shared_.router, services);
    }
  }

  ~Impl() override {
    closing_ = true;
    for (const auto& listener : listeners_) {
      asio::post(listener->io->context, [this, l = listener.get()] {
        stop_listening(*l);
        for (const auto& session : sessions_of(*l)) session->abort();
        l->io->poller.close();
        l->work.reset();
      });
    }
    // Each loop ends when nothing is left to wait for; then its thread does.
    for (const auto& listener : listeners_) {
      if (listener->thread.joinable()) listener->thread.join();
    }
  }

  Status listen() {
    endpoint_ = shared_.options.listen;
    const unsigned threads =
        shared_.options.io_threads.value_or(std::clamp(usable_cpus() / 2, 1U, 256U));
    if (endpoint_.port != 0 && !shared_.options.share_port) {
      // SO_REUSEPORT would let a second agent share the port unnoticed: ask once without it.
      asio::io_context context;
      tcp::acceptor probe(context);
      if (Status status = bind_acceptor(probe, endpoint_, false); !status) return status;
    }
    for (unsigned i = 0; i < threads; ++i) {
      auto listener = std::make_unique<Listener>(shared_.router.paths().size() + 1);
      if (Status status = listener->io->poller.open(); !status) return status;
      if (Status status = bind_acceptor(listener->acceptor, endpoint_, true); !status) {
        return status;
      }
      error_code error;
      endpoint_.port = listener->acceptor.local_endpoint(error).port();
      if (!error) listener->acceptor.non_blocking(true, error);
      if (!error) listener->acceptor.listen(asio::socket_base::max_listen_connections, error);
      if (error) return os_error(error.value(), "cannot listen on " + endpoint_.to_string());
      listeners_.push_back(std::move(listener));
    }
    open_listeners_ = threads;
    for (unsigned i = 0; i < threads; ++i) {
      Listener& listener = *listeners_[i];
      accept_next(listener);
      listener.thread = std::jthread([&context = listener.io->context, first = i == 0] {
        // Else whoever computes goes on for some milliseconds while a request lies here.
        if (Status asked = ask_for_slice(kShortSlice); !asked && first) {
          spdlog::info("I/O threads have no shorter slices reason=\"{}\"", asked.error().message);
        }
        context.run();
      });
      pthread_setname_np(listener.thread.native_handle(), ("weir-io-" + std::to_string(i)).c_str());
    }
    return {};
  }

  [[nodiscard]] const Endpoint& endpoint() const { return endpoint_; }

  Status join(ListenerGroup& group) {
    group_ = &group;
    for (const auto& listener : listeners_) {
      std::promise<Status> joined;
      // On its own thread: between the first connection that the kernel counts and the first that
      // we do, none is accepted.
      asio::post(listener->io->context, [this, &group, &joined, l = listener.get()] {
        auto seat = group.join(l->acceptor.native_handle());
        if (!seat) return joined.set_value(std::move(seat).error());
        l->io->own_seat = std::move(*seat);
        l->io->seat = l->io->own_seat.get();
        l->io->tell_waiting();
        look_after(*l);
        joined.set_value({});
      });
      if (Status status = joined.get_future().get(); !status) return status;
    }
    return {};
  }

  void begin_hand_over() {
    if (shared_.draining.load()) return;
    shared_.handing_over = true;
    // All of them first, or the queue of the first to close would go to another one of these.
    if (group_ != nullptr) group_->leave();
    drain(/*take_queued=*/false);
  }

  void begin_drain() { drain(/*take_queued=*/true); }

  void drain(bool take_queued) {
    if (shared_.draining.exchange(true)) return;
    for (const auto& listener : listeners_) {
      asio::post(listener->io->context, [this, take_queued, l = listener.get()] {
        // Those whom the kernel has already connected are still answered.
        if (take_queued) accept_some(*l, std::numeric_limits<std::size_t>::max());
        stop_listening(*l);
        for (const auto& session : sessions_of(*l)) session->drain();
      });
    }
  }

  bool wait_drained(std::chrono::milliseconds at_most) {
    std::unique_lock lock(shared_.drain_mutex);
    return shared_.drained.wait_for(
        lock, at_most, [this] { return open_listeners_ == 0 && shared_.connections == 0; });
  }

  // What handlers refuse while a server stops, one that hands over still does.
  [[nodiscard]] bool draining() const override {
    return shared_.draining.load() && !shared_.handing_over.load();
  }
  [[nodiscard]] const Router& router() const override { return shared_.router; }

  [[nodiscard]] telemetry::HttpReading http_reading() const override {
    telemetry::HttpReading reading;
    for (const std::string& path : shared_.router.paths())
      reading.routes.emplace_back().path = path;
    reading.routes.emplace_back().path = "other";
    for (const auto& listener : listeners_) {
      const IoThread& io = *listener->io;
      io.counters.add_to(reading);
      const ListenerSeat* const seat = io.seat.load();
      const ListenerReading listening = seat != nullptr ? seat->read() : ListenerReading{};
      reading.listeners.push_back(
          {io.counters.connections(), listening.depth, listening.taken_over});
    }
    return reading;
  }

 private:
  /// A copy: sessions leave the set as they close.
  static std::vector<std::shared_ptr<HttpSession>> sessions_of(const Listener& listener) {
    return {listener.io->sessions.begin(), listener.io->sessions.end()};
  }

  void accept_next(Listener& listener) {
    listener.acceptor.async_wait(
        tcp::acceptor::wait_read, [this, &listener](const error_code& closed) {
          if (closed || !listener.acceptor.is_open()) return;
          const int failure = accept_some(listener, kAcceptedAtOnce);
          if (failure == 0) {
            listener.accept_failed = false;
            return accept_next(listener);
          }
          listener.io->counters.accept_failed();
          if (!std::exchange(listener.accept_failed, true)) {
            spdlog::warn("cannot accept connections, trying on address={} reason=\"{}\"",
                         endpoint_.to_string(), std::generic_category().message(failure));
          }
          listener.retry.expires_after(kAcceptRetry);
          listener.retry.async_wait([this, &listener](const error_code& cancelled) {
            if (!cancelled && listener.acceptor.is_open()) accept_next(listener);
          });
        });
  }

  /// Accepts what is queued. The errno of a failure that may last, or 0.
  int accept_some(Listener& listener, std::size_t at_most) {
    for (std::size_t i = 0; i < at_most; ++i) {
      const int client = accept4(listener.acceptor.native_handle(), nullptr, nullptr,
                                 SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (client >= 0) {
        admit(listener, ClientSocket(client));
      } else if (errno == EAGAIN) {
        return 0;
      } else if (errno != EINTR && errno != ECONNABORTED) {
        return errno;
      }
    }
    return 0;
  }

  /// Tells the group what the queue really holds, and accepts what nobody announced: Linux 6.18
  /// wakes a listener for connections that it moves there from a closed one, but promises nothing.
  void look_after(Listener& listener) {
    tcp_info info{};
    socklen_t bytes = sizeof(info);
    if (getsockopt(listener.acceptor.native_handle(), IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0) {
      listener.io->own_seat->set_queued(info.tcpi_unacked);  // of a listener: its accept queue
      if (info.tcpi_unacked > 0) accept_some(listener, kAcceptedAtOnce);
    }
    listener.look_after.expires_after(kLookAfter);
    listener.look_after.async_wait([this, &listener](const error_code& cancelled) {
      if (!cancelled && listener.acceptor.is_open()) look_after(listener);
    });
  }

  void admit(Listener& listener, ClientSocket socket) {
    if (ListenerSeat* const seat = listener.io->seat.load()) seat->accepted();
    if (closing_) return;  // closes it
    const std::uint32_t open = shared_.connections.load();
    const std::uint32_t limit = shared_.options.max_connections;
    if (open >= limit + kTurnedAwayAtOnce) {
      listener.io->counters.connection_refused();
      return;  // closes it
    }
    const auto session = std::make_shared<HttpSession>(std::move(socket), shared_, listener.io);
    if (open < limit) {
      session->start();
      if (shared_.draining.load()) session->drain();
      return;
    }
    ApiError error;
    error.status = 503;
    error.code = "too_many_connections";
    error.message = "all " + std::to_string(limit) + " connections (max_connections) are in use";
    error.retry_after = std::chrono::seconds(1);
    session->turn_away(error);
  }

  void stop_listening(Listener& listener) {
    if (!listener.acceptor.is_open()) return;
    if (listener.io->own_seat) listener.io->own_seat->leave();
    error_code ignored;
    listener.acceptor.close(ignored);
    listener.retry.cancel();
    listener.look_after.cancel();
    // Behind a connection that was accepted and is not admitted yet.
    asio::post(listener.io->context, [this] {
      --open_listeners_;
      shared_.notify_drain();
    });
  }

  ServerShared shared_;
  Endpoint endpoint_;
  ListenerGroup* group_ = nullptr;
  std::atomic<bool> closing_{false};  ///< being destroyed
  std::atomic<unsigned> open_listeners_{0};
  std::vector<std::unique_ptr<Listener>> listeners_;
};

Result<std::unique_ptr<HttpServer>> HttpServer::create(const ServeOptions& options,
                                                       model::Executor& executor,
                                                       admit::Admission& admission,
                                                       const telemetry::MetricsSource& metrics,
                                                       const Clock& clock, model::ModelAdmin* admin,
                                                       schedule::WorkerPool* workers) {
  if (Status status = validate(options); !status) return std::move(status).error();
  auto impl = std::make_unique<Impl>(options, executor, admission, metrics, clock, admin, workers);
  if (Status status = impl->listen(); !status) return std::move(status).error();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

const Endpoint& HttpServer::endpoint() const { return impl_->endpoint(); }
Status HttpServer::join(ListenerGroup& group) { return impl_->join(group); }
void HttpServer::begin_hand_over() { impl_->begin_hand_over(); }
void HttpServer::begin_drain() { impl_->begin_drain(); }
bool HttpServer::wait_drained(std::chrono::milliseconds at_most) {
  return impl_->wait_drained(at_most);
}
telemetry::HttpReading HttpServer::http_reading() const { return impl_->http_reading(); }

}  // namespace weir::serve
