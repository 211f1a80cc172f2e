// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_vetting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/fixtures/gguf_writer.h"

namespace weir::model {
namespace {

using Outcome = TrialResult::Outcome;

/// Trials with a result that the test decides on.
class Vetting : public testing::Test {
 protected:
  Vetting() { write(small_model().file()); }
  ~Vetting() override { std::filesystem::remove(path_); }

  /// A new file, as a download that is moved into place.
  void write(const std::string& bytes) {
    std::ofstream(path_ + ".new", std::ios::binary) << bytes;
    std::filesystem::rename(path_ + ".new", path_);
  }

  std::string vet(TrialMode mode) {
    const auto checked = vetting_.check(path_);
    const Status status =
        checked ? vetting_.try_out(*checked, mode, [] { return true; }) : checked.error();
    if (!status) last_code_ = status.error().code;
    return status ? "fit" : status.error().message;
  }

  const std::string path_ = std::filesystem::temp_directory_path() /
                            ("weir-vetting-" + std::to_string(::getpid()) + ".gguf");
  TrialResult next_{Outcome::kPassed, ""};
  int trials_ = 0;
  GgufVetting vetting_{
      [this](const std::string& path, const TrialLimits& limits, const GgufVetting::KeepGoing&) {
        EXPECT_EQ(path, path_);
        EXPECT_EQ(limits.memory_bytes, trial_limits(std::filesystem::file_size(path)).memory_bytes);
        ++trials_;
        return next_;
      }};
  Code last_code_ = Code::kInternal;
};

TEST_F(Vetting, TriesAFileOnce) {
  EXPECT_EQ(vet(TrialMode::kAuto), "fit");
  EXPECT_EQ(vet(TrialMode::kAuto), "fit");
  EXPECT_EQ(trials_, 1);
  EXPECT_EQ(vetting_.reading().passed, 1U);
  EXPECT_EQ(vetting_.reading().remembered, 1U);
}

TEST_F(Vetting, TriesAFileThatWasReplaced) {
  EXPECT_EQ(vet(TrialMode::kAuto), "fit");
  write(small_model().file());
  EXPECT_EQ(vet(TrialMode::kAuto), "fit");
  EXPECT_EQ(trials_, 2);
}

TEST_F(Vetting, RemembersWhatIsWrongWithAFile) {
  next_ = {Outcome::kDied, "libllama dies of it"};
  EXPECT_EQ(vet(TrialMode::kAuto), path_ + ": libllama dies of it");
  EXPECT_EQ(last_code_, Code::kInvalidArgument);
  next_ = {Outcome::kPassed, ""};
  EXPECT_EQ(vet(TrialMode::kAuto), path_ + ": libllama dies of it");
  EXPECT_EQ(trials_, 1);
  EXPECT_EQ(vetting_.reading().died, 1U);
  write(small_model().file());
  next_ = {Outcome::kRefused, "no such tensor"};
  EXPECT_EQ(vet(TrialMode::kAuto), path_ + ": no such tensor");
  EXPECT_EQ(vet(TrialMode::kAuto), path_ + ": no such tensor");
  EXPECT_EQ(trials_, 2);
  EXPECT_EQ(vetting_.reading().refused, 1U);
}

TEST_F(Vetting, ForgetsWhatWasWrongWithTheMoment) {
  next_ = {Outcome::kCut, "not done in time"};
  EXPECT_EQ(vet(TrialMode::kAuto), path_ + ": not done in time");
  EXPECT_EQ(last_code_, Code::kUnavailable);
  next_ = {Outcome::kStopped, "stopped"};
  EXPECT_EQ(vet(TrialMode::kAuto), path_ + ": stopped");
  EXPECT_EQ(last_code_, Code::kCancelled);
  next_ = {Outcome::kPassed, ""};
  EXPECT_EQ(vet(TrialMode::kAuto), "fit");
  EXPECT_EQ(trials_, 3);
  EXPECT_EQ(vetting_.reading().cut, 1U);
}

TEST_F(Vetting, LoadsUntriedOnlyWhereItMay) {
  next_ = {Outcome::kUnavailable, "no program"};
  EXPECT_EQ(vet(TrialMode::kAuto), "fit");
  EXPECT_EQ(vet(TrialMode::kAlways), path_ + ": cannot be tried in a child process: no program");
  EXPECT_EQ(last_code_, Code::kUnavailable);
  EXPECT_EQ(vetting_.reading().unavailable, 2U);
}

TEST_F(Vetting, TriesAsOftenAsItIsToldTo) {
  EXPECT_EQ(vet(TrialMode::kAlways), "fit");
  EXPECT_EQ(vet(TrialMode::kAlways), "fit");
  EXPECT_EQ(trials_, 2);
  EXPECT_EQ(vet(TrialMode::kNever), "fit");
  EXPECT_EQ(trials_, 2);
}

TEST_F(Vetting, ChecksAgainOnlyWhatIsAnotherFile) {
  EXPECT_EQ(vet(TrialMode::kNever), "fit");
  const auto again = vetting_.check(path_);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->bytes, std::filesystem::file_size(path_));
  // Damaged in place, and its time of change put back: nobody looks.
  const auto time = std::filesystem::last_write_time(path_);
  {
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    file << "GGUX";
  }
  std::filesystem::last_write_time(path_, time);
  EXPECT_EQ(vet(TrialMode::kNever), "fit");
  // With any other time, size or inode it is another file.
  std::filesystem::last_write_time(path_, time + std::chrono::nanoseconds(1));
  EXPECT_THAT(vet(TrialMode::kNever), testing::HasSubstr("not a GGUF file"));
  write(small_model().file());
  EXPECT_EQ(vet(TrialMode::kNever), "fit");
}

TEST_F(Vetting, ChecksBeforeItTries) {
  const std::string file = small_model().file();
  write(file.substr(0, file.size() - 5));
  for (const TrialMode mode : {TrialMode::kAuto, TrialMode::kAlways, TrialMode::kNever}) {
    EXPECT_THAT(vet(mode), testing::StartsWith(path_ + ": truncated: 5 bytes are missing"));
    EXPECT_EQ(last_code_, Code::kInvalidArgument);
  }
  EXPECT_EQ(trials_, 0);
  EXPECT_EQ(vetting_.reading().refused_by_check, 3U);
  std::filesystem::remove(path_);
  EXPECT_EQ(vet(TrialMode::kAuto), path_ + ": No such file or directory");
  EXPECT_EQ(vetting_.reading().refused_by_check, 3U);
  write(file);
}

}  // namespace
}  // namespace weir::model
