// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/session_exchange.h"

#include "agent/serve/http_session.h"

namespace weir::serve {
namespace {

class SessionExchange final : public Exchange {
 public:
  SessionExchange(std::weak_ptr<IoThread> io, std::weak_ptr<HttpSession> session,
                  std::uint64_t serial, std::shared_ptr<SharedRequest> request,
                  std::uint64_t max_unsent_bytes)
      : io_(std::move(io)),
        session_(std::move(session)),
        serial_(serial),
        request_(std::move(request)),
        max_unsent_bytes_(max_unsent_bytes) {}

  ~SessionExchange() override {
    if (answered_) return;
    ApiError error;
    error.code = "internal_error";
    error.message = "the request was dropped without an answer";
    on_io_thread([session = session_, serial = serial_, error = std::move(error)] {
      if (const auto live = session.lock()) live->respond(serial, to_response(error));
    });
  }

  const Request& request() const override { return *request_; }
  std::string take_body() override { return std::move(request_->body); }

  void respond(Response response) override {
    answered_ = true;
    with_session([serial = serial_, response = std::move(response)](HttpSession& session) mutable {
      session.respond(serial, std::move(response));
    });
  }

  void begin_stream(Response head) override {
    answered_ = true;
    with_session([serial = serial_, head = std::move(head)](HttpSession& session) {
      session.begin_stream(serial, head);
    });
  }

  void write(std::string piece) override {
    with_session([serial = serial_, piece = std::move(piece)](HttpSession& session) {
      session.write(serial, piece);
    });
  }

  void end_stream(bool complete) override {
    with_session([serial = serial_, complete](HttpSession& session) {
      session.end_stream(serial, complete);
    });
  }

  bool wants_more(std::size_t coming_bytes) const override {
    return request_->unsent_bytes.load(std::memory_order_relaxed) + coming_bytes <=
           max_unsent_bytes_ / 2;
  }

  void on_abort(std::function<void()> callback) override {
    if (const auto session = session_.lock()) {
      session->set_abort_callback(serial_, std::move(callback));
    }
  }

  void post(schedule::Task work) override {
    if (const auto io = io_.lock()) io->mailbox.post(std::move(work));
  }

 private:
  template <typename Work>
  void on_io_thread(Work work) {
    const auto io = io_.lock();
    if (!io) return;
    if (io->context.get_executor().running_in_this_thread()) {
      work();
    } else {
      io->mailbox.post(schedule::Task::boxed(std::move(work)));
    }
  }

  template <typename Work>
  void with_session(Work work) {
    on_io_thread([session = session_, work = std::move(work)]() mutable {
      if (const auto live = session.lock()) work(*live);
    });
  }

  const std::weak_ptr<IoThread> io_;
  const std::weak_ptr<HttpSession> session_;
  const std::uint64_t serial_;
  const std::shared_ptr<SharedRequest> request_;
  const std::uint64_t max_unsent_bytes_;
  bool answered_ = false;
};

}  // namespace

std::shared_ptr<Exchange> make_session_exchange(std::weak_ptr<IoThread> io,
                                                std::weak_ptr<HttpSession> session,
                                                std::uint64_t serial,
                                                std::shared_ptr<SharedRequest> request,
                                                std::uint64_t max_unsent_bytes) {
  return std::make_shared<SessionExchange>(std::move(io), std::move(session), serial,
                                           std::move(request), max_unsent_bytes);
}

}  // namespace weir::serve
