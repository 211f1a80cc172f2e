// SPDX-License-Identifier: Apache-2.0
//
// Those who take the requests of one queue: who of them is woken for the next one, and how many
// each may take, so that all hold about the same number and nobody waits beside a busy one.
//
// Thread-compatible: whoever owns the queue has one mutex for both. Waits give it up.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>

#include "agent/base/clock.h"

namespace weir::model {

class RequestTakers {
 public:
  /// `count` >= 1; they are numbered from 0. `has_work`: whether there is something to come for; it
  /// is called with the mutex held.
  RequestTakers(std::size_t count, std::function<bool()> has_work);

  /// What all of them have taken and not given back.
  [[nodiscard]] std::size_t held() const { return held_; }
  /// Whether one of them has taken something since it last began to wait for work.
  [[nodiscard]] bool any_busy() const;

  /// One of those who wait, if any does, is to come for a request.
  void wake_one();
  /// Ends the taker's wait, or its next one if there is none now.
  void poke(std::size_t taker);
  void poke_all();
  /// Those who hold something.
  void poke_holders();

  // ---- a taker's thread ------------------------------------------------------------------------

  /// It is not busy any more.
  void idle(std::size_t taker);
  /// Blocks until there is work, or poke().
  void wait(std::unique_lock<std::mutex>& lock, std::size_t taker);
  /// Blocks until poke(), until `longest` is over or, with `for_requests`, until there is work.
  void rest(std::unique_lock<std::mutex>& lock, std::size_t taker, Duration longest,
            bool for_requests);

  /// How many of `ready` requests are this taker's, if all are to hold the same number.
  [[nodiscard]] std::size_t share(std::size_t taker, std::size_t ready) const;
  /// The same for one who comes to take at most `most` of them. Who has found that it is another
  /// one's turn gets one nevertheless when it finds so again: the other may be in a long step.
  [[nodiscard]] std::size_t claim(std::size_t taker, std::size_t ready, std::size_t most);
  void took(std::size_t taker, std::size_t count);
  void gave_back(std::size_t taker, std::size_t count);

 private:
  struct Taker {
    std::condition_variable wake;  ///< its turn to take, or poked
    bool waits = false;            ///< for requests
    bool woken = false;            ///< waits, and was told of one
    bool poked = false;
    bool busy = false;
    bool stood_back = false;  ///< left what there was to others the last time
    std::size_t held = 0;     ///< taken and not given back
  };

  [[nodiscard]] bool comes(Taker& taker) const;

  const std::function<bool()> has_work_;
  std::deque<Taker> takers_;  ///< never grows after construction
  std::size_t held_ = 0;      ///< by all of them
};

}  // namespace weir::model
