// SPDX-License-Identifier: Apache-2.0
//
// The ring and the slot, the very code that the pool runs, through every interleaving of an owner
// and its thieves.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "agent/schedule/worker_ring.h"
#include "tests/unit/schedule/worker_model_types.h"

namespace weir::schedule {
namespace {

using model::Explorer;
using model::Limits;
using model::Outcome;
using model::Scenario;
using model::Value;

using Ring = WorkerRing<Value, 4, model::Atomic>;
using Slot = WorkerSlot<Value, model::Atomic>;

/// What the threads of one run share and what came out of it.
struct World {
  Ring ring;
  Ring thief[2];
  Slot slot;
  std::array<std::vector<int>, 3> taken;  ///< by owner and thieves; each writes its own

  World() {
    for (auto& numbers : taken) {
      numbers.reserve(16);
    }
  }

  void push(std::initializer_list<int> numbers) {
    for (const int number : numbers) {
      Value value(number);
      if (!ring.push(value)) {
        taken[0].push_back(number);  // as the pool: to the shared queue
      }
    }
  }
  void pop(int times) {
    for (int i = 0; i < times; ++i) {
      Value value;
      if (ring.pop(value)) {
        taken[0].push_back(value.number());
      }
    }
  }
  void overflow() {
    alignas(Value) std::byte raw[sizeof(Value) * Ring::kHalf];
    auto* const out = reinterpret_cast<Value*>(raw);
    const std::uint32_t count = ring.take_half(out);
    for (std::uint32_t i = 0; i < count; ++i) {
      taken[0].push_back(out[i].number());
      out[i].~Value();
    }
  }
  void steal(std::size_t who) {
    static_cast<void>(ring.steal_into(thief[who]));
    Value value;
    while (thief[who].pop(value)) {
      taken[who + 1].push_back(value.number());
    }
  }

  /// Empty, or what is wrong: everything pushed is somewhere, once, and each saw its part in order.
  [[nodiscard]] std::string check(int pushed) {
    std::vector<int> all;
    for (auto& numbers : taken) {
      all.insert(all.end(), numbers.begin(), numbers.end());
    }
    for (std::size_t i = 1; i < taken.size(); ++i) {
      if (!std::is_sorted(taken[i].begin(), taken[i].end())) {
        return "a thief saw them out of order";
      }
    }
    Value value;
    while (ring.pop(value)) {
      all.push_back(value.number());
    }
    if (slot.take(value)) {
      all.push_back(value.number());
    }
    std::sort(all.begin(), all.end());
    for (int i = 0; i < pushed; ++i) {
      if (all.size() != static_cast<std::size_t>(pushed) ||
          all[static_cast<std::size_t>(i)] != i + 1) {
        return "lost or doubled";
      }
    }
    return "";
  }
};

template <typename... Thread>
Outcome explore(int pushed, Limits limits, Thread... threads) {
  return Explorer::explore(
      [&] {
        auto world = std::make_shared<World>();
        Scenario scenario;
        (scenario.threads.push_back([world, threads] { threads(*world); }), ...);
        scenario.check = [world, pushed] { return world->check(pushed); };
        return scenario;
      },
      limits);
}

void expect_holds(const Outcome& outcome, std::size_t least_runs) {
  EXPECT_EQ(outcome.failure, "");
  // Else the threads hardly met, and nothing was shown.
  EXPECT_GE(outcome.runs, least_runs);
  ::testing::Test::RecordProperty("runs", static_cast<int>(outcome.runs));
}

class RingModel : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!model::kCanExplore) GTEST_SKIP() << "fibers; the other builds run this";
  }
  [[nodiscard]] static Limits limits() {
    Limits limits;
    limits.store_buffers = GetParam();
    return limits;
  }
};
INSTANTIATE_TEST_SUITE_P(StoreBuffers, RingModel, ::testing::Bool());

TEST_P(RingModel, OwnerPopsWhileOneSteals) {
  expect_holds(explore(
                   3, limits(),
                   [](World& world) {
                     world.push({1, 2, 3});
                     world.pop(3);
                   },
                   [](World& world) { world.steal(0); }),
               50);
}

TEST_P(RingModel, SlotsAreUsedAgainOnlyAfterTheThiefHasLeftThem) {
  expect_holds(explore(
                   7, limits(),
                   [](World& world) {
                     world.push({1, 2, 3, 4, 5});
                     world.pop(1);
                     world.push({6, 7});
                   },
                   [](World& world) { world.steal(0); }),
               50);
}

TEST_P(RingModel, OverflowAndThiefDoNotTakeTheSame) {
  expect_holds(explore(
                   6, limits(),
                   [](World& world) {
                     world.push({1, 2, 3, 4});
                     world.overflow();
                     world.push({5, 6});
                     world.pop(1);
                   },
                   [](World& world) { world.steal(0); }),
               50);
}

TEST_P(RingModel, TwoThievesAndTheOwner) {
  expect_holds(explore(
                   2, limits(),
                   [](World& world) {
                     world.push({1, 2});
                     world.pop(1);
                   },
                   [](World& world) { world.steal(0); }, [](World& world) { world.steal(1); }),
               500);
}

TEST_P(RingModel, AThiefIsRobbedItself) {
  expect_holds(explore(
                   4, limits(),
                   [](World& world) {
                     world.push({1, 2, 3, 4});
                   },
                   [](World& world) { world.steal(0); },
                   [](World& world) {
                     static_cast<void>(world.thief[0].steal_into(world.thief[1]));
                     Value value;
                     while (world.thief[1].pop(value)) {
                       world.taken[2].push_back(value.number());
                     }
                   }),
               100);
}

TEST_P(RingModel, SlotIsTakenOnce) {
  expect_holds(explore(
                   3, limits(),
                   [](World& world) {
                     for (const int number : {1, 2, 3}) {
                       Value value(number);
                       if (!world.slot.put(value)) {
                         static_cast<void>(world.slot.displace(value));
                         world.taken[0].push_back(value.number());
                       }
                     }
                     Value value;
                     if (world.slot.take(value)) {
                       world.taken[0].push_back(value.number());
                     }
                   },
                   [](World& world) {
                     Value value;
                     if (world.slot.take(value)) {
                       world.taken[1].push_back(value.number());
                     }
                   },
                   [](World& world) {
                     Value value;
                     if (world.slot.take(value)) {
                       world.taken[2].push_back(value.number());
                     }
                   }),
               100);
}

// ---- the checker itself finds what it is for ----------------------------------------------------

class Interleavings : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!model::kCanExplore) GTEST_SKIP() << "fibers; the other builds run this";
  }
};

TEST_F(Interleavings, FindsAnUpdateThatIsLost) {
  struct Shared {
    model::Atomic<int> count{0};
  };
  const Outcome outcome = Explorer::explore([] {
    auto shared = std::make_shared<Shared>();
    const auto add = [shared] {
      shared->count.store(shared->count.load(std::memory_order_seq_cst) + 1,
                          std::memory_order_seq_cst);
    };
    return Scenario{{add, add}, [shared] {
                      return shared->count.load(std::memory_order_seq_cst) == 2 ? "" : "lost";
                    }};
  });
  EXPECT_NE(outcome.failure.find("lost"), std::string::npos);
}

Outcome hand_over(std::memory_order store, std::memory_order load) {
  struct Shared {
    model::Atomic<int> ready{0};
    Value value{1};
  };
  return Explorer::explore([=] {
    auto shared = std::make_shared<Shared>();
    return Scenario{{[=] {
                       shared->value = Value(2);
                       shared->ready.store(1, store);
                     },
                     [=] {
                       if (shared->ready.load(load) == 1) {
                         shared->value = Value(3);
                       }
                     }},
                    [] { return ""; }};
  });
}

TEST_F(Interleavings, FindsARaceThatOnlyTheOrdersTell) {
  EXPECT_EQ(hand_over(std::memory_order_release, std::memory_order_acquire).failure, "");
  EXPECT_NE(hand_over(std::memory_order_relaxed, std::memory_order_acquire).failure, "");
  EXPECT_NE(hand_over(std::memory_order_release, std::memory_order_relaxed).failure, "");
}

Outcome flag_and_look(bool fenced, bool store_buffers) {
  struct Shared {
    model::Atomic<int> flag[2]{0, 0};
    int seen[2] = {1, 1};
  };
  Limits limits;
  limits.store_buffers = store_buffers;
  return Explorer::explore(
      [=] {
        auto shared = std::make_shared<Shared>();
        const auto side = [=](std::size_t self) {
          return [=] {
            shared->flag[self].store(1, std::memory_order_release);
            if (fenced) {
              model::fence();
            }
            shared->seen[self] = shared->flag[1 - self].load(std::memory_order_acquire);
          };
        };
        return Scenario{
            {side(0), side(1)},
            [=] { return shared->seen[0] + shared->seen[1] > 0 ? "" : "neither saw the other"; }};
      },
      limits);
}

TEST_F(Interleavings, FindsWhatNeedsAFence) {
  EXPECT_EQ(flag_and_look(false, false).failure, "");
  EXPECT_NE(flag_and_look(false, true).failure, "");
  EXPECT_EQ(flag_and_look(true, true).failure, "");
}

}  // namespace
}  // namespace weir::schedule
