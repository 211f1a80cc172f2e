// SPDX-License-Identifier: Apache-2.0
//
// What a load is expected to take, against what libllama says that it took.
#include "agent/model/load_estimate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/model/llama_log.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
// libllama rounds to a hundredth of a MiB.
constexpr double kRounding = 0.01 * kMiB;

CheckedGguf shipped_file() {
  auto checked = check_gguf_file(kShippedModel);
  EXPECT_TRUE(checked.ok()) << checked.error().message;
  return checked.ok() ? *checked : CheckedGguf();
}

double number(std::uint64_t bytes) { return static_cast<double>(bytes); }

struct Shape {
  std::uint32_t sequences;
  std::optional<std::uint32_t> context_tokens;
  std::optional<std::uint32_t> kv_tokens;
};

class Estimate : public testing::TestWithParam<Shape> {};

TEST_P(Estimate, IsWhatTheContextHas) {
  ModelOptions options = shipped(GetParam().sequences);
  options.context_tokens = GetParam().context_tokens;
  options.kv_tokens = GetParam().kv_tokens;
  const MemoryReading expected = estimate_memory(options, shipped_file());
  const auto loaded = LoadedModel::load(options, [](float) { return true; });
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const MemoryReading& has = loaded->context_memory();
  EXPECT_NEAR(number(expected.kv_bytes), number(has.kv_bytes), kRounding);
  EXPECT_NEAR(number(expected.output_bytes), number(has.output_bytes), kRounding);
  // Too little would let a load in that does not fit; the tables of the graph are not counted.
  EXPECT_GE(number(expected.compute_bytes), 0.9 * number(has.compute_bytes));
  EXPECT_LE(number(expected.compute_bytes), 1.1 * number(has.compute_bytes) + 1.5 * kMiB);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Estimate,
                         testing::Values(Shape{1, 512, std::nullopt}, Shape{8, 512, std::nullopt},
                                         Shape{8, std::nullopt, std::nullopt},
                                         Shape{3, 100, std::nullopt}, Shape{64, 512, std::nullopt},
                                         Shape{16, 512, 1024}, Shape{16, 300, 700},
                                         Shape{32, 4096, std::nullopt},
                                         Shape{2, 1024, std::nullopt}, Shape{8, 2048, 4096}));

TEST(Estimate, CountsTheFileAndWhatIsCopiedOfIt) {
  CheckedGguf file = shipped_file();
  const MemoryReading shipped_model = estimate_memory(shipped(1), file);
  EXPECT_EQ(shipped_model.mapped_bytes, file.bytes);
  file.repacked_bytes = 1000;
  EXPECT_EQ(estimate_memory(shipped(1), file).copied_bytes, 1000U);
  ModelOptions options = shipped(1);
  options.repack = false;
  EXPECT_EQ(estimate_memory(options, file).copied_bytes, 0U);
  EXPECT_EQ(shipped_model.all(), shipped_model.mapped_bytes + shipped_model.copied_bytes +
                                     shipped_model.kv_bytes + shipped_model.compute_bytes +
                                     shipped_model.output_bytes);
}

TEST(LlamaBuffers, AreReadFromTheLog) {
  LlamaBuffers buffers;
  for (const char* line :
       {"load_tensors:   CPU_Mapped model buffer size =   323.00 MiB",
        "load_tensors:   CPU_REPACK model buffer size =   192.00 MiB",
        "load_tensors:          CPU model buffer size =     1.00 MiB",
        "llama_context:        CPU  output buffer size =     4.50 MiB",
        "llama_kv_cache:        CPU KV buffer size =    48.00 MiB",
        "llama_memory_recurrent:        CPU RS buffer size =     2.00 MiB",
        "sched_reserve:        CPU compute buffer size =    36.00 MiB",
        "sched_reserve:       CPU2 compute buffer size =     1.00 MiB",
        "llama_kv_cache: size =   48.00 MiB (   512 cells,  24 layers,  8/8 seqs)",
        "x buffer size = much MiB", "x model buffer size = 5.00 KiB", ""}) {
    buffers.read(line);
  }
  EXPECT_EQ(buffers.mapped, 323 * kMiB);
  EXPECT_EQ(buffers.copied, 193 * kMiB);
  EXPECT_EQ(buffers.output, 9 * kMiB / 2);
  EXPECT_EQ(buffers.kv, 50 * kMiB);
  EXPECT_EQ(buffers.compute, 37 * kMiB);
}

}  // namespace
}  // namespace weir::model
