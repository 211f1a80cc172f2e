// SPDX-License-Identifier: Apache-2.0
//
// Random histories against a model that scans lists, and what the order promises: shares, weights,
// and a bound on every wait.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <tuple>

#include "agent/schedule/fair_queue.h"

namespace weir::schedule {
namespace {

using std::chrono::milliseconds;
using Queue = FairQueue<int>;

TimePoint at_ms(int ms) { return TimePoint(milliseconds(ms)); }

/// The same queue in the plainest way: everything is found by looking at everything.
class Model {
 public:
  struct Item {
    int id = 0;
    std::int32_t home = 0;
    std::optional<int> deadline;
    std::string tenant;
    std::uint64_t tokens = 0;
    int pushed = 0;
    std::int32_t level = 0;
    bool overdue = false;
  };

  Model(QueueOptions options, int ageing) : options_(std::move(options)), ageing_(ageing) {}

  std::vector<Item> items;
  std::uint64_t promoted = 0;

  std::optional<QueueBound> push(int now, Item item) {
    age(now);
    const auto sum = [&](auto&& counts) {
      QueueLoad load;
      for (const Item& other : items) {
        if (counts(other)) load = {load.requests + 1, load.tokens + other.tokens};
      }
      return load;
    };
    const QueueLoad all = sum([](const Item&) { return true; });
    const QueueLoad home = sum([&](const Item& other) { return other.home == item.home; });
    const QueueBounds& level = options_.levels[static_cast<std::size_t>(item.home)];
    if (all.requests == options_.all.max_requests) {
      refused_at_[item.tenant] = now;
      return QueueBound::kRequests;
    }
    if (all.tokens + item.tokens > options_.all.max_tokens) return QueueBound::kTokens;
    if (home.requests == level.max_requests) return QueueBound::kLevelRequests;
    if (home.tokens + item.tokens > level.max_tokens) return QueueBound::kLevelTokens;
    if (2 * all.requests >= options_.all.max_requests) {
      const QueueLoad own = sum([&](const Item& other) { return other.tenant == item.tenant; });
      if (static_cast<double>(own.requests) >= room_of(item.tenant, now)) {
        return QueueBound::kTenantRequests;
      }
    }
    item.level = item.home;
    item.pushed = now;
    lift(item.level, item.tenant);
    items.push_back(item);
    return std::nullopt;
  }

  std::optional<Item> pop(int now) {
    if (items.empty()) return std::nullopt;
    age(now);
    turn_ = std::min(turn_ + 1, 4);
    std::vector<Item>::iterator chosen;
    const bool any_overdue =
        std::any_of(items.begin(), items.end(), [](const Item& item) { return item.overdue; });
    if (turn_ == 4 && any_overdue) {
      turn_ = 0;
      chosen = std::min_element(items.begin(), items.end(), [&](const Item& a, const Item& b) {
        return overdue_key(a) < overdue_key(b);
      });
    } else {
      chosen = std::min_element(items.begin(), items.end(),
                                [&](const Item& a, const Item& b) { return key(a) < key(b); });
    }
    const Item item = *chosen;
    counter(item.level, item.tenant).value += static_cast<double>(item.tokens) / weight(item);
    remove(item.id);
    return item;
  }

  bool remove(int id) {
    const auto found =
        std::find_if(items.begin(), items.end(), [&](const Item& item) { return item.id == id; });
    if (found == items.end()) return false;
    const Item item = *found;
    items.erase(found);
    left(item.level, item.tenant);
    return true;
  }

  std::vector<int> expire(int now) {
    std::vector<Item> late;
    for (const Item& item : items) {
      if (item.deadline && *item.deadline <= now) late.push_back(item);
    }
    std::sort(late.begin(), late.end(), [](const Item& a, const Item& b) {
      return std::pair(*a.deadline, a.id) < std::pair(*b.deadline, b.id);
    });
    std::vector<int> ids;
    for (const Item& item : late) {
      remove(item.id);
      ids.push_back(item.id);
    }
    return ids;
  }

  void charge(const std::string& tenant, std::int32_t level, std::int64_t tokens) {
    auto& counters = counters_[level];
    if (!counters.contains(tenant)) {
      if (tokens <= 0) return;
      counters[tenant] = {floor(level), floor(level)};
    }
    Counter& entry = counters[tenant];
    entry.value =
        std::max(entry.lifted_to, entry.value + static_cast<double>(tokens) / weight_of(tenant));
    forget(level);
  }

  void age(int now) {
    // One step at a time, in the order in which they are due.
    for (;;) {
      const auto next =
          std::min_element(items.begin(), items.end(), [&](const Item& a, const Item& b) {
            return std::tuple(a.overdue, due(a), a.id) < std::tuple(b.overdue, due(b), b.id);
          });
      if (next == items.end() || next->overdue || due(*next) > now) return;
      if (next->level == 0) {
        next->overdue = true;
        continue;
      }
      const int id = next->id;
      Item moved = *next;
      items.erase(next);
      left(moved.level, moved.tenant);
      --moved.level;
      ++promoted;
      lift(moved.level, moved.tenant);
      const auto place =
          std::find_if(items.begin(), items.end(), [&](const Item& item) { return item.id > id; });
      items.insert(place, moved);
    }
  }

 private:
  struct Counter {
    double value = 0;
    double lifted_to = 0;
  };

  /// Places that a tenant may hold when places are scarce.
  double room_of(const std::string& tenant, int now) const {
    std::map<std::string, double> weights{{tenant, weight_of(tenant)}};
    for (const Item& item : items) weights[item.tenant] = weight_of(item.tenant);
    for (const auto& [name, at] : refused_at_) {
      if (at + 1000 > now) weights[name] = weight_of(name);
    }
    double all = 0;
    for (const auto& [name, value] : weights) all += value;
    const auto places = static_cast<double>(options_.all.max_requests);
    return std::max(1.0, places * weight_of(tenant) / all);
  }

  double weight_of(const std::string& tenant) const {
    const auto found = options_.weights.find(tenant);
    return found == options_.weights.end() ? 1.0 : found->second;
  }
  double weight(const Item& item) const { return weight_of(item.tenant); }
  int due(const Item& item) const { return item.pushed + (item.home - item.level + 1) * ageing_; }
  std::tuple<bool, int, int> overdue_key(const Item& item) const {
    return {!item.overdue, due(item), item.id};
  }
  std::tuple<int, double, std::string, int, int> key(const Item& item) {
    return {item.level, counter(item.level, item.tenant).value, item.tenant,
            item.deadline.value_or(INT32_MAX), item.id};
  }
  Counter& counter(std::int32_t level, const std::string& tenant) {
    return counters_[level][tenant];
  }
  bool waits(std::int32_t level, const std::string& tenant) const {
    return std::any_of(items.begin(), items.end(), [&](const Item& item) {
      return item.level == level && item.tenant == tenant;
    });
  }
  double floor(std::int32_t level) {
    std::optional<double> least;
    for (const Item& item : items) {
      if (item.level != level) continue;
      const double value = counter(level, item.tenant).value;
      least = std::min(least.value_or(value), value);
    }
    return least.value_or(last_left_[level]);
  }
  void lift(std::int32_t level, const std::string& tenant) {
    if (waits(level, tenant)) return;
    const double least = floor(level);
    auto [entry, fresh] = counters_[level].try_emplace(tenant, Counter{least, least});
    entry->second.value = std::max(entry->second.value, least);
    entry->second.lifted_to = least;
  }
  void left(std::int32_t level, const std::string& tenant) {
    if (!waits(level, tenant)) last_left_[level] = counter(level, tenant).value;
    forget(level);
  }
  void forget(std::int32_t level) {
    const double least = floor(level);
    std::erase_if(counters_[level], [&](const auto& entry) {
      return entry.second.value <= least && !waits(level, entry.first);
    });
  }

  const QueueOptions options_;
  const int ageing_;
  int turn_ = 0;
  std::map<std::string, int> refused_at_;
  std::map<std::int32_t, std::map<std::string, Counter>> counters_;
  std::map<std::int32_t, double> last_left_;
};

// 300 random histories of 500 steps. Weights and tokens are such that doubles are exact.
TEST(FairQueue, BehavesAsTheModelUnderRandomOperations) {
  std::uint64_t promotions = 0;
  std::uint64_t refusals = 0;
  std::uint64_t expiries = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](unsigned n) { return static_cast<int>(random() % n); };
    const int ageing = seed % 3 == 0 ? 1'000'000 : 20 + below(100);
    QueueOptions options;
    options.all = {40, 1500};
    options.levels[1] = {10, 400};
    options.ageing = milliseconds(ageing);
    options.weights = {{"b", 2.0}, {"c", 0.5}};
    Queue queue(options);
    Model model(options, ageing);
    std::map<int, Queue::Handle> handles;
    std::vector<Model::Item> served;
    int now = 1000;
    for (int step = 0; step < 500; ++step) {
      now += below(6);
      const int action = below(20);
      if (action < 9) {
        Model::Item item;
        item.id = step;
        item.home = below(3);
        if (below(2) == 0) item.deadline = now + below(300);
        item.tenant = std::string(1, static_cast<char>('a' + below(4)));
        item.tokens = static_cast<std::uint64_t>(below(80));
        const QueueKey where{item.home,
                             item.deadline ? std::optional(at_ms(*item.deadline)) : std::nullopt,
                             item.tenant, item.tokens};
        const auto pushed = queue.push(at_ms(now), where, int{step});
        const auto refused = model.push(now, item);
        ASSERT_EQ(std::holds_alternative<QueueBound>(pushed), refused.has_value());
        if (refused) {
          ASSERT_EQ(std::get<QueueBound>(pushed), *refused);
          ++refusals;
        } else {
          handles[step] = std::get<Queue::Handle>(pushed);
        }
      } else if (action < 16) {
        const auto popped = queue.pop(at_ms(now));
        const auto expected = model.pop(now);
        ASSERT_EQ(popped.has_value(), expected.has_value());
        if (popped) {
          ASSERT_EQ(popped->value, expected->id) << "seed " << seed << " step " << step;
          ASSERT_EQ(popped->level, expected->level);
          ASSERT_EQ(popped->tenant, expected->tenant);
          ASSERT_EQ(popped->tokens, expected->tokens);
          ASSERT_EQ(popped->pushed, at_ms(expected->pushed));
          served.push_back(*expected);
        }
      } else if (action == 16) {
        // One that waits, or one that has left.
        const int id = below(static_cast<unsigned>(step + 1));
        const auto handle = handles.find(id);
        if (handle != handles.end()) {
          ASSERT_EQ(queue.remove(handle->second).has_value(), model.remove(id));
        }
      } else if (action == 17) {
        const auto expired = queue.expire(at_ms(now));
        ASSERT_EQ(expired, model.expire(now));
        expiries += expired.size();
      } else if (action == 18) {
        queue.age(at_ms(now));
        model.age(now);
      } else if (!served.empty()) {
        const auto chosen = served.begin() + below(static_cast<unsigned>(served.size()));
        const std::int64_t tokens = below(160) - static_cast<std::int64_t>(chosen->tokens);
        queue.charge(chosen->tenant, chosen->level, tokens);
        model.charge(chosen->tenant, chosen->level, tokens);
        served.erase(chosen);
      }
      // What is told about the whole.
      QueueLoad all;
      std::array<QueueLoad, kLevels> at{};
      std::optional<int> deadline;
      std::optional<int> oldest;
      for (const Model::Item& item : model.items) {
        QueueLoad& level = at[static_cast<std::size_t>(item.level)];
        level = {level.requests + 1, level.tokens + item.tokens};
        all = {all.requests + 1, all.tokens + item.tokens};
        if (item.deadline) deadline = std::min(deadline.value_or(INT32_MAX), *item.deadline);
        oldest = std::min(oldest.value_or(INT32_MAX), item.pushed);
      }
      ASSERT_EQ(queue.load(), all);
      for (std::int32_t level = 0; level < 3; ++level) {
        ASSERT_EQ(queue.load(level), at[static_cast<std::size_t>(level)]);
      }
      ASSERT_EQ(queue.next_event(), deadline ? std::optional(at_ms(*deadline)) : std::nullopt);
      ASSERT_EQ(queue.oldest(), oldest ? std::optional(at_ms(*oldest)) : std::nullopt);
      ASSERT_EQ(queue.promoted(), model.promoted);
    }
    promotions += queue.promoted();
  }
  // The histories went where they should.
  EXPECT_GT(promotions, 1000U);
  EXPECT_GT(refusals, 1000U);
  EXPECT_GT(expiries, 1000U);
}

double jain(const std::vector<double>& shares) {
  double sum = 0;
  double squares = 0;
  for (const double share : shares) {
    sum += share;
    squares += share * share;
  }
  return sum * sum / (static_cast<double>(shares.size()) * squares);
}

// Three tenants of equal weight at twice what can be served, one of which asks for three times as
// much as the others: the bounded queue must not become its own.
TEST(FairQueue, AGreedyTenantDoesNotKeepTheOthersOutOfAFullQueue) {
  QueueOptions options;
  options.all.max_requests = 64;
  Queue queue(options);
  std::mt19937 random(7);
  std::map<std::string, double> served{{"greedy", 0}, {"b", 0}, {"c", 0}};
  // The greedy one was here first, alone, and may have it all.
  for (int i = 0; i < 64; ++i) {
    ASSERT_TRUE(std::holds_alternative<Queue::Handle>(
        queue.push(at_ms(0), {kDefaultLevel, std::nullopt, "greedy", 1}, int{i})));
  }
  for (int ms = 1; ms < 20'000; ++ms) {
    for (int i = 0; i < 2; ++i) {
      const auto who = random() % 5;
      const char* const tenant = who < 3 ? "greedy" : who == 3 ? "b" : "c";
      static_cast<void>(queue.push(at_ms(ms), {kDefaultLevel, std::nullopt, tenant, 1}, int{ms}));
    }
    if (const auto popped = queue.pop(at_ms(ms)); popped && ms > 1000) ++served[popped->tenant];
  }
  EXPECT_GT(jain({served["greedy"], served["b"], served["c"]}), 0.99)
      << served["greedy"] << " " << served["b"] << " " << served["c"];
}

/// Tokens served to each of `tenants` that always have requests waiting, of sizes around
/// `sizes`; an estimate is off by up to a factor of four, and corrected later.
std::vector<double> served_tokens(const std::vector<int>& sizes, const TenantWeights& weights,
                                  unsigned seed) {
  std::mt19937 random(seed);
  QueueOptions options;
  options.weights = weights;
  Queue queue(options);
  const auto name = [](std::size_t tenant) { return "t" + std::to_string(tenant); };
  const auto submit = [&](std::size_t tenant) {
    const int size =
        sizes[tenant] / 2 + static_cast<int>(random() % static_cast<unsigned>(sizes[tenant]));
    const auto pushed =
        queue.push(at_ms(0), {4, std::nullopt, name(tenant), static_cast<std::uint64_t>(size)},
                   static_cast<int>(tenant));
    EXPECT_TRUE(std::holds_alternative<Queue::Handle>(pushed));
  };
  for (std::size_t tenant = 0; tenant < sizes.size(); ++tenant) {
    for (int i = 0; i < 3; ++i) submit(tenant);
  }
  std::vector<double> served(sizes.size(), 0);
  struct Running {
    std::string tenant;
    std::int32_t level;
    std::int64_t correction;
  };
  std::vector<Running> running;
  double total = 0;
  while (total < 3e6) {
    const auto popped = queue.pop(at_ms(0));
    const std::uint64_t real = popped->tokens / (1 + random() % 4) + 1;
    const auto tenant = static_cast<std::size_t>(popped->value);
    served[tenant] += static_cast<double>(real);
    total += static_cast<double>(real);
    running.push_back(
        {popped->tenant, popped->level,
         static_cast<std::int64_t>(real) - static_cast<std::int64_t>(popped->tokens)});
    if (running.size() == 8) {
      const auto done = running.begin() + static_cast<std::ptrdiff_t>(random() % 8);
      queue.charge(done->tenant, done->level, done->correction);
      running.erase(done);
    }
    submit(tenant);
  }
  return served;
}

TEST(FairQueue, EqualTenantsGetEqualTokensHoweverUnequalTheirRequests) {
  for (unsigned seed = 0; seed < 10; ++seed) {
    EXPECT_GE(jain(served_tokens({10, 100, 1000, 4000}, {}, seed)), 0.99);
  }
}

TEST(FairQueue, TokensFollowTheWeights) {
  for (unsigned seed = 0; seed < 10; ++seed) {
    auto served = served_tokens({2000, 20, 200}, {{"t0", 1.0}, {"t1", 4.0}, {"t2", 0.5}}, seed);
    EXPECT_GE(jain({served[0] / 1.0, served[1] / 4.0, served[2] / 0.5}), 0.99);
  }
}

// The bound that fair_queue.h states, against an adversary: each millisecond one is served, and
// the queue is filled up with requests that go before the victim, from its own tenant and from
// others.
TEST(FairQueue, EveryWaitHasTheBoundThatIsStated) {
  constexpr int kAgeing = 50;
  constexpr int kMost = 32;
  for (std::int32_t level = 0; level < kLevels; ++level) {
    for (unsigned seed = 0; seed < 20; ++seed) {
      std::mt19937 random(seed);
      QueueOptions options;
      options.all.max_requests = kMost;
      options.ageing = milliseconds(kAgeing);
      Queue queue(options);
      int now = 0;
      const auto push = [&](std::int32_t at, std::optional<TimePoint> deadline,
                            const std::string& tenant) {
        return std::holds_alternative<Queue::Handle>(
            queue.push(at_ms(now), {at, deadline, tenant, 1}, int{0}));
      };
      // One place is left for the victim; the rest is older, and as urgent or less.
      for (int i = 0; i + 1 < kMost; ++i) {
        ASSERT_TRUE(push(static_cast<std::int32_t>(random() % kLevels), std::nullopt,
                         "t" + std::to_string(i % 3)));
      }
      ASSERT_TRUE(std::holds_alternative<Queue::Handle>(
          queue.push(at_ms(0), {level, std::nullopt, "victim", 1000}, int{1})));
      const int bound = (level + 1) * kAgeing + static_cast<int>(Queue::kOverdueEvery) * kMost;
      bool served = false;
      int names = 0;
      while (!served && now <= bound) {
        ++now;
        served = queue.pop(at_ms(now))->value == 1;
        while (queue.size() < kMost) {
          // The victim's tenant has no more than its share of the places.
          if (random() % 2 == 0 && push(0, at_ms(now + 1), "victim")) continue;
          ASSERT_TRUE(push(0, at_ms(now + 1), "n" + std::to_string(names++)));
        }
      }
      EXPECT_TRUE(served) << "level " << level << ", seed " << seed;
      // The adversary is one: only ageing helped.
      EXPECT_GT(now, level * kAgeing);
    }
  }
}

TEST(FairQueue, WithoutAgeingTheLowestLevelWaitsForEver) {
  Queue queue(QueueOptions{});
  ASSERT_TRUE(std::holds_alternative<Queue::Handle>(
      queue.push(at_ms(0), {7, std::nullopt, "a", 1}, int{1})));
  for (int now = 1; now < 10'000; ++now) {
    ASSERT_TRUE(std::holds_alternative<Queue::Handle>(
        queue.push(at_ms(now), {6, std::nullopt, "a", 1}, int{0})));
    ASSERT_EQ(queue.pop(at_ms(now))->value, 0);
  }
}

}  // namespace
}  // namespace weir::schedule
