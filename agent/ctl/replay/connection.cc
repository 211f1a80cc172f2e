// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>

namespace weir::replay {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

}  // namespace

Connection::Connection(ConnectionShared& shared, std::size_t index)
    : shared_(shared), index_(index), socket_(shared.io) {}

std::optional<std::uint64_t> Connection::serial() const {
  if (!exchange_) return std::nullopt;
  return exchange_->arrival.serial;
}

void Connection::start(const Arrival& arrival, TimePoint due) {
  exchange_.emplace();
  exchange_->arrival = arrival;
  exchange_->due = due;
  shared_.requests.write(request_, arrival);
  unsent_ = request_.size();
  reader_.begin();
  if (open_) {
    send();
  } else {
    connect();
  }
}

void Connection::connect() {
  const std::uint64_t life = ++life_;
  error_code failure;
  socket_.open(shared_.target.protocol(), failure);
  if (failure) return post_failure("connect_failed");
  // Both only fail on a socket that is not there.
  socket_.non_blocking(true, failure);
  socket_.set_option(asio::ip::tcp::no_delay(true), failure);
  socket_.async_connect(shared_.target, [this, life](const error_code& error) {
    if (life != life_) return;
    if (error) {
      const char* const reason =
          error == asio::error::connection_refused ? "connect_refused" : "connect_failed";
      close();
      return finish(error_answer(reason), shared_.clock.now());
    }
    open_ = true;
    shared_.observer.on_opened();
    wait_readable();
    send();
  });
}

void Connection::send() {
  error_code failure;
  while (unsent_ > 0) {
    const char* const from = request_.data() + request_.size() - unsent_;
    const std::size_t sent = socket_.write_some(asio::const_buffer(from, unsent_), failure);
    if (failure == asio::error::would_block) {
      socket_.async_wait(asio::ip::tcp::socket::wait_write,
                         [this, life = life_](const error_code& error) {
                           if (life == life_ && !error && exchange_) send();
                         });
      return;
    }
    // What the peer said before it hung up may still be there to be read.
    if (failure) return;
    unsent_ -= sent;
  }
  exchange_->sent = shared_.clock.now();
}

void Connection::wait_readable() {
  socket_.async_wait(asio::ip::tcp::socket::wait_read,
                     [this, life = life_](const error_code& error) {
                       if (life == life_ && !error) on_readable();
                     });
}

void Connection::on_readable() {
  const TimePoint now = shared_.clock.now();
  for (;;) {
    error_code failure;
    const std::size_t got = socket_.read_some(asio::buffer(shared_.chunk), failure);
    if (failure == asio::error::would_block) break;
    if (failure) return on_peer_closed(failure);
    if (!take({shared_.chunk.data(), got}, now)) return;
    // A short read emptied the socket.
    if (got < shared_.chunk.size()) break;
  }
  wait_readable();
}

bool Connection::take(std::string_view bytes, TimePoint now) {
  if (!exchange_) {  // bytes that nobody asked for
    close();
    return false;
  }
  if (!exchange_->first_byte) exchange_->first_byte = now;
  const ResponseReader::State state = reader_.put(bytes);
  take_texts(now);
  if (state == ResponseReader::State::kMore) {
    if (!reader_.begun()) exchange_->first_byte.reset();  // it was an interim response
    return true;
  }
  if (state == ResponseReader::State::kMalformed) {
    close();
    finish(error_answer("malformed"), now);
    return false;
  }
  // A server may answer before it has read all of the request; then it closes.
  const bool keep = reader_.keep_alive() && unsent_ == 0;
  const Answer answer = reader_.answer();
  if (!keep) close();
  const std::uint64_t life = life_;
  finish(answer, now);
  return keep && life == life_;
}

void Connection::take_texts(TimePoint now) {
  for (std::uint32_t left = reader_.new_texts(); left > 0; --left) {
    if (!exchange_->first_text) exchange_->first_text = now;
    if (exchange_->last_text) {
      shared_.observer.on_gap(*exchange_, now - *exchange_->last_text);
    }
    exchange_->last_text = now;
    ++exchange_->texts;
  }
}

void Connection::on_peer_closed(const error_code& error) {
  close();
  if (!exchange_) return;
  const TimePoint now = shared_.clock.now();
  if (error == asio::error::eof && reader_.begun() &&
      reader_.put_end() == ResponseReader::State::kDone) {
    return finish(reader_.answer(), now);
  }
  finish(error_answer(error == asio::error::eof ? "closed_early" : "reset"), now);
}

void Connection::abandon(const char* reason) {
  close();
  if (exchange_) finish(error_answer(reason), shared_.clock.now());
}

void Connection::close() {
  ++life_;
  open_ = false;
  error_code ignored;  // the descriptor is gone either way
  socket_.close(ignored);
}

void Connection::finish(const Answer& answer, TimePoint now) {
  const Exchange over = *exchange_;
  exchange_.reset();
  shared_.observer.on_end(index_, over, answer, now);
}

void Connection::post_failure(const char* reason) {
  asio::post(shared_.io, [this, life = life_, reason] {
    if (life == life_ && exchange_) finish(error_answer(reason), shared_.clock.now());
  });
}

}  // namespace weir::replay
