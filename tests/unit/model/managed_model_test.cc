// SPDX-License-Identifier: Apache-2.0
//
// Loading, unloading, evicting and replacing, with the shipped model.
#include "agent/model/managed_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <latch>
#include <thread>

#include "tests/fixtures/fake_clock.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;
using State = ModelInfo::State;

std::uint64_t unloads(const ModelInfo& info, UnloadCause cause) {
  return info.unloads[static_cast<std::size_t>(cause)];
}

/// False after 60 s. What is waited for happens on other threads, which tell nobody.
template <typename Condition>
bool eventually(Condition condition) {
  const auto give_up = std::chrono::steady_clock::now() + seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

class ModelsTest : public testing::Test {
 protected:
  ModelsTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("weir-models-test-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~ModelsTest() override {
    registry_.reset();
    std::filesystem::remove_all(folder_);
  }

  void make(std::vector<ModelOptions> models, RegistryOptions options = {}) {
    auto made = Registry::create(std::move(models), clock_, workers(), std::move(options));
    ASSERT_TRUE(made.ok()) << made.error().message;
    registry_ = std::move(*made);
  }
  static ModelOptions named(const std::string& name) {
    ModelOptions options = shipped(2);
    options.name = name;
    return options;
  }
  ModelInfo info(const std::string& name = "tiny") const {
    for (ModelInfo& info : registry_->models()) {
      if (info.name == name) return info;
    }
    return {};
  }
  void ask(const std::string& model = "tiny") {
    const Call call = greedy_call("Once upon a time", 3);
    ASSERT_FALSE(registry_->submit(model, call.request));
    ASSERT_TRUE(call.heard->wait_end());
    EXPECT_TRUE(call.heard->completion()) << call.heard->error()->message;
    // The listener hears the end a moment before the model is idle.
    ASSERT_TRUE(registry_->wait_idle(seconds(60)));
  }
  using Done = ModelAdmin::Done;
  static Status wait(const std::function<void(Done)>& operation) {
    auto told = std::make_shared<std::promise<Status>>();
    auto answer = told->get_future();
    operation([told](const Status& status) { told->set_value(status); });
    if (answer.wait_for(seconds(60)) != std::future_status::ready) {
      return make_error(Code::kInternal, "no answer in 60 s");
    }
    return answer.get();
  }
  Status load(const std::string& name) {
    return wait([&](Done done) { registry_->load(name, std::move(done)); });
  }
  Status unload(const std::string& name) {
    return wait([&](Done done) { registry_->unload(name, std::move(done)); });
  }
  std::string put_model(const std::string& file) {
    const auto path = folder_ / file;
    // As it should be done: the loaded file stays what it is.
    std::filesystem::copy_file(kShippedModel, path.string() + ".new",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::rename(path.string() + ".new", path);
    return path;
  }
  void put(const std::string& file, const std::string& bytes) {
    const auto path = folder_ / file;
    std::ofstream(path.string() + ".new") << bytes;
    std::filesystem::rename(path.string() + ".new", path);
  }

  FakeClock clock_;
  const std::filesystem::path folder_;
  std::unique_ptr<Registry> registry_;
};

TEST_F(ModelsTest, IdleModelIsUnloadedAndLoadedAgainOnceForSixteenRequests) {
  ModelOptions options = shipped();
  options.keep_alive = seconds(30);
  make({options});
  ask();
  EXPECT_EQ(info().state, State::kReady);
  EXPECT_GT(info().memory_bytes, info().file_bytes);
  clock_.advance(seconds(29));
  registry_->wake();
  EXPECT_EQ(info().state, State::kReady);
  EXPECT_EQ(info().since_used, seconds(29));
  clock_.advance(seconds(1));
  registry_->wake();
  ASSERT_TRUE(eventually([&] { return info().state == State::kUnloaded; }));
  ASSERT_TRUE(eventually([&] { return registry_->memory_reserved() == 0; }));
  EXPECT_EQ(unloads(info(), UnloadCause::kIdle), 1U);
  EXPECT_EQ(info().completed, 1U);  // counters live on

  std::vector<Call> calls;
  for (int i = 0; i < 16; ++i) calls.push_back(greedy_call("Once upon a time", 3));
  std::latch start(16);
  {
    std::vector<std::jthread> threads;
    for (const Call& call : calls) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        EXPECT_FALSE(registry_->submit("tiny", call.request));
      });
    }
  }
  for (const Call& call : calls) {
    ASSERT_TRUE(call.heard->wait_end());
    EXPECT_TRUE(call.heard->completion());
  }
  EXPECT_EQ(info().loads, 2U);
  EXPECT_EQ(info().completed, 17U);
}

TEST_F(ModelsTest, KeepAliveOfZeroUnloadsBehindEachRequest) {
  ModelOptions options = shipped();
  options.keep_alive = Duration::zero();
  make({options});
  for (std::uint64_t i = 1; i <= 3; ++i) {
    ask();
    ASSERT_TRUE(eventually([&] { return unloads(info(), UnloadCause::kIdle) == i; }));
  }
  EXPECT_EQ(info().loads, 3U);
  EXPECT_EQ(info().completed, 3U);
}

TEST_F(ModelsTest, UnloadFinishesWhatWasAcceptedAndRefusesTheRestUntilLoad) {
  make({shipped(1)});
  Gate gate;
  const Call running = greedy_call("Once upon a time", 5, [&] { gate.pass(); });
  const Call waiting = greedy_call("One windy day", 5);
  ASSERT_FALSE(registry_->submit("tiny", running.request));
  ASSERT_TRUE(gate.wait_reached());
  ASSERT_FALSE(registry_->submit("tiny", waiting.request));
  std::promise<Status> unloaded;
  registry_->unload("tiny", [&](const Status& status) { unloaded.set_value(status); });
  ASSERT_TRUE(eventually([&] { return info().state == State::kDraining; }));
  const Call late = greedy_call("Once upon a time", 5);
  const auto refusal = registry_->submit("tiny", late.request);
  ASSERT_TRUE(refusal);
  EXPECT_THAT(refusal->message, HasSubstr("/v2/repository/models/tiny/load"));
  gate.open();
  EXPECT_TRUE(unloaded.get_future().get().ok());
  EXPECT_TRUE(running.heard->completion());
  EXPECT_TRUE(waiting.heard->completion());
  EXPECT_EQ(info().state, State::kUnloaded);
  EXPECT_TRUE(info().disabled);
  EXPECT_EQ(registry_->memory_reserved(), 0U);
  EXPECT_TRUE(registry_->submit("tiny", late.request));
  ASSERT_TRUE(load("tiny").ok());
  EXPECT_EQ(info().state, State::kReady);
  ask();
}

TEST_F(ModelsTest, LoadSaysWhyItFailedAndWhatThereIsNot) {
  put("torn.gguf", "not a model");
  ModelOptions torn = named("torn");
  torn.path = folder_ / "torn.gguf";
  make({torn});
  EXPECT_THAT(load("torn").error().message, HasSubstr("not a GGUF file"));
  EXPECT_EQ(info("torn").state, State::kFailed);
  EXPECT_EQ(info("torn").load_failures, 1U);
  EXPECT_EQ(load("other").error().code, Code::kNotFound);
  EXPECT_EQ(unload("other").error().code, Code::kNotFound);
}

TEST_F(ModelsTest, WeightsOfOneFileCountOnceWhateverModelsHaveThem) {
  make({named("a")});
  ask("a");
  const std::uint64_t each = info("a").memory_bytes;
  make({named("a"), named("b")}, {.memory_bytes = 2 * each - 1});
  ask("a");
  ask("b");
  EXPECT_EQ(info("a").state, State::kReady);
  EXPECT_EQ(info("b").state, State::kReady);
}

TEST_F(ModelsTest, LeastRecentlyUsedGoesForAnotherButNeverOneWithRequests) {
  // Of one file they would share the weights.
  const auto own_file = [this](const std::string& name) {
    ModelOptions options = named(name);
    options.path = put_model(name + ".gguf");
    return options;
  };
  make({own_file("a")});
  ask("a");
  const std::uint64_t each = info("a").memory_bytes;
  make({own_file("a"), own_file("b"), own_file("c")}, {.memory_bytes = 2 * each + each / 2});
  ask("a");
  clock_.advance(seconds(1));
  ask("b");
  clock_.advance(seconds(1));
  ask("a");
  clock_.advance(seconds(1));
  ask("c");
  EXPECT_EQ(info("a").state, State::kReady);
  EXPECT_EQ(info("b").state, State::kUnloaded);
  EXPECT_EQ(unloads(info("b"), UnloadCause::kEvicted), 1U);
  EXPECT_EQ(info("c").state, State::kReady);

  Gate gate;
  const Call of_a = greedy_call("Once upon a time", 3, [&] { gate.pass(); });
  const Call of_c = greedy_call("Once upon a time", 3, [&] { gate.pass(); });
  ASSERT_FALSE(registry_->submit("a", of_a.request));
  ASSERT_FALSE(registry_->submit("c", of_c.request));
  const Call of_b = greedy_call("Once upon a time", 3);
  ASSERT_FALSE(registry_->submit("b", of_b.request));
  ASSERT_TRUE(of_b.heard->wait_end());
  ASSERT_TRUE(of_b.heard->error());
  EXPECT_EQ(of_b.heard->error()->code, Code::kResourceExhausted);
  EXPECT_THAT(of_b.heard->error()->message, HasSubstr("too few of those are idle"));
  const Call again = greedy_call("Once upon a time", 3);
  const auto refusal = registry_->submit("b", again.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kMemory);
  EXPECT_EQ(refusal->retry_after, seconds(1));
  gate.open();
  ASSERT_TRUE(of_a.heard->wait_end());
  ASSERT_TRUE(of_c.heard->wait_end());
  EXPECT_TRUE(of_a.heard->completion());
  EXPECT_TRUE(of_c.heard->completion());
  ASSERT_TRUE(registry_->wait_idle(seconds(60)));
  clock_.advance(seconds(1));
  ask("b");
}

TEST_F(ModelsTest, NewFileTakesOverUnderLoadAndNoRequestIsLost) {
  ModelOptions options = named("m");
  options.path = put_model("m.gguf");
  make({options});
  ask("m");
  std::atomic<bool> stop{false};
  std::atomic<int> finished{0};
  std::vector<std::jthread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      while (!stop.load()) {
        const Call call = greedy_call("Once upon a time", 10);
        ASSERT_FALSE(registry_->submit("m", call.request));
        ASSERT_TRUE(call.heard->wait_end());
        ASSERT_TRUE(call.heard->completion()) << call.heard->error()->message;
        ++finished;
      }
    });
  }
  for (std::uint64_t i = 1; i <= 5; ++i) {
    put_model("m.gguf");
    ASSERT_TRUE(load("m").ok());
    EXPECT_EQ(unloads(info("m"), UnloadCause::kReplaced), i);
    const int so_far = finished.load();
    ASSERT_TRUE(eventually([&] { return finished.load() > so_far; }));
  }
  // One that is none changes nothing.
  put("m.gguf", "not a model");
  EXPECT_THAT(load("m").error().message, HasSubstr("not a GGUF file"));
  EXPECT_EQ(info("m").state, State::kReady);
  EXPECT_THAT(info("m").successor_failure, HasSubstr("not a GGUF file"));
  const int so_far = finished.load();
  ASSERT_TRUE(eventually([&] { return finished.load() > so_far; }));
  stop = true;
  clients.clear();
  ASSERT_TRUE(registry_->wait_idle(seconds(60)));
  EXPECT_EQ(info("m").completed, static_cast<std::uint64_t>(finished.load()) + 1);
  EXPECT_EQ(info("m").failed, 0U);
  EXPECT_EQ(info("m").loads, 7U);
  EXPECT_EQ(unloads(info("m"), UnloadCause::kReplaced), 5U);
}

TEST_F(ModelsTest, LoadOfAnUnchangedFileDoesNothing) {
  make({shipped()});
  ASSERT_TRUE(load("tiny").ok());
  ASSERT_TRUE(load("tiny").ok());
  EXPECT_EQ(info().loads, 1U);
}

TEST_F(ModelsTest, FolderGivesModelsThatComeAndGo) {
  put_model("one.gguf");
  put_model("bad name.gguf");
  put("notes.txt", "nothing");
  ModelOptions configured = named("kept");
  put_model("kept.gguf");
  make({configured}, {.directory = folder_, .of_directory = shipped(2)});
  EXPECT_TRUE(registry_->has_model("one"));
  EXPECT_FALSE(registry_->has_model("bad name"));
  EXPECT_EQ(info("kept").path, kShippedModel);
  ask("one");
  EXPECT_FALSE(registry_->has_model("two"));
  put_model("two.gguf");
  ASSERT_TRUE(load("two").ok());  // looks for it
  ask("two");
  std::filesystem::remove(folder_ / "one.gguf");
  ASSERT_TRUE(wait([&](Done done) { registry_->rescan(std::move(done)); }).ok());
  EXPECT_FALSE(registry_->has_model("one"));
  EXPECT_EQ(registry_->models().size(), 2U);
  put_model("one.gguf");
  ASSERT_TRUE(wait([&](Done done) { registry_->rescan(std::move(done)); }).ok());
  ask("one");
}

TEST_F(ModelsTest, PollFindsNewModelsAndReplacesChangedOnes) {
  make({}, {.directory = folder_, .of_directory = shipped(2), .poll = seconds(10)});
  put_model("one.gguf");
  EXPECT_FALSE(registry_->has_model("one"));
  clock_.advance(seconds(10));
  registry_->wake();
  ASSERT_TRUE(eventually([&] { return registry_->has_model("one"); }));
  ask("one");
  put_model("one.gguf");
  clock_.advance(seconds(10));
  registry_->wake();
  ASSERT_TRUE(eventually([&] { return unloads(info("one"), UnloadCause::kReplaced) == 1; }));
  ask("one");
}

TEST_F(ModelsTest, FolderThatCannotBeReadIsAnError) {
  auto made = Registry::create({}, clock_, workers(), {.directory = folder_ / "none"});
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(made.error().message, HasSubstr("registry.model_dir"));
}

// Requests, loads, unloads and evictions from many threads: each request ends once.
TEST_F(ModelsTest, EveryRequestEndsOnceWhateverHappensToItsModel) {
  ModelOptions a = named("a");
  a.keep_alive = Duration::zero();
  make({a, named("b")});
  std::atomic<int> accepted{0};
  std::vector<Call> calls;
  for (int i = 0; i < 120; ++i) calls.push_back(greedy_call("Once upon a time", 2));
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < calls.size(); i += 3) {
          if (!registry_->submit(i % 2 == 0 ? "a" : "b", calls[i].request)) {
            ++accepted;
            ASSERT_TRUE(calls[i].heard->wait_end());
          }
        }
      });
    }
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) {
        EXPECT_TRUE(unload("b").ok());
        const Status loaded = load("b");
        EXPECT_TRUE(loaded.ok()) << (loaded.ok() ? "" : loaded.error().message);
      }
    });
  }
  ASSERT_TRUE(registry_->wait_idle(seconds(60)));
  int ended = 0;
  for (const Call& call : calls) {
    EXPECT_LE(call.heard->ends(), 1);
    EXPECT_EQ(call.heard->late_events(), 0);
    ended += call.heard->ends();
  }
  EXPECT_EQ(ended, accepted.load());
  EXPECT_EQ(info("a").completed, 60U);  // it is refused to nobody
}

}  // namespace
}  // namespace weir::model
