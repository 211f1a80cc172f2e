// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/mailbox.h"

#include <gtest/gtest.h>

#include <boost/asio/executor_work_guard.hpp>
#include <memory>
#include <thread>
#include <vector>

namespace weir::serve {
namespace {

TEST(Mailbox, DoesAllThatWasLeftInOneGoAndInOrder) {
  boost::asio::io_context context;
  Mailbox mailbox(context);
  std::vector<int> done;
  for (int i = 0; i < 3; ++i) {
    mailbox.post([&done, i] { done.push_back(i); });
  }
  EXPECT_TRUE(done.empty());
  EXPECT_EQ(context.poll(), 1U);
  EXPECT_EQ(done, (std::vector{0, 1, 2}));
}

TEST(Mailbox, WhatComesFromThePiecesIsDoneInTheNextGo) {
  boost::asio::io_context context;
  Mailbox mailbox(context);
  std::vector<int> done;
  mailbox.post([&] {
    mailbox.post([&] { done.push_back(3); });
    done.push_back(1);
  });
  mailbox.post([&] { done.push_back(2); });
  EXPECT_EQ(context.poll_one(), 1U);
  EXPECT_EQ(done, (std::vector{1, 2}));
  EXPECT_EQ(context.poll_one(), 1U);
  EXPECT_EQ(done, (std::vector{1, 2, 3}));
}

TEST(Mailbox, LetsGoOfEachPieceOnceItIsDone) {
  boost::asio::io_context context;
  Mailbox mailbox(context);
  auto held = std::make_shared<int>(0);
  long owners_seen = 0;
  mailbox.post([held] {});
  mailbox.post([&, counter = std::weak_ptr(held)] { owners_seen = counter.use_count(); });
  context.poll();
  EXPECT_EQ(owners_seen, 1);
}

TEST(Mailbox, DropsWhatItCouldNotDo) {
  auto held = std::make_shared<int>(0);
  {
    boost::asio::io_context context;
    Mailbox mailbox(context);
    mailbox.post([held] { FAIL() << "nobody ran the context"; });
  }
  EXPECT_EQ(held.use_count(), 1);
}

TEST(Mailbox, LosesNothingBetweenThreads) {
  constexpr int kThreads = 4;
  constexpr int kPieces = 5000;
  boost::asio::io_context context;
  auto work = boost::asio::make_work_guard(context);
  Mailbox mailbox(context);
  std::vector<std::vector<int>> done(kThreads);  // of each thread, in its order
  int in_all = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kPieces; ++i) {
        mailbox.post([&, t, i] {
          done[static_cast<std::size_t>(t)].push_back(i);
          if (++in_all == kThreads * kPieces) work.reset();
        });
      }
    });
  }
  context.run();
  for (const auto& of_one : done) {
    ASSERT_EQ(of_one.size(), static_cast<std::size_t>(kPieces));
    for (int i = 0; i < kPieces; ++i) ASSERT_EQ(of_one[static_cast<std::size_t>(i)], i);
  }
}

}  // namespace
}  // namespace weir::serve
