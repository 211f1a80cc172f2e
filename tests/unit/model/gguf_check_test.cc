// SPDX-License-Identifier: Apache-2.0
//
// Every rule has a file here that breaks this one alone, and the sentence that it gets.
#include "agent/model/gguf_check.h"

#include <ggml.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "tests/fixtures/gguf_writer.h"

namespace weir::model {
namespace {

std::string refusal(const std::string& file) {
  const auto parsed = parse_gguf(std::as_bytes(std::span(file)), file.size());
  if (const auto* error = std::get_if<Error>(&parsed)) return error->message;
  const auto& metadata = std::get<GgufMetadata>(parsed);
  if (const Status status = check_gguf_layout(metadata, file.size()); !status) {
    return status.error().message;
  }
  const Status status = check_gguf_model(metadata);
  return status ? "accepted" : status.error().message;
}

/// The sentence that the small model gets once it has been changed.
std::string refusal(const std::function<void(GgufWriter&)>& change) {
  GgufWriter model = small_model();
  change(model);
  return refusal(model.file());
}

TEST(GgufCheck, AcceptsGoodModels) {
  EXPECT_EQ(refusal(small_model().file()), "accepted");
  for (const char* path : {"deploy/models/tiny-stories-1m-q8_0.gguf"}) {
    const auto checked = check_gguf_file(path);
    ASSERT_TRUE(checked.ok()) << checked.error().message;
    EXPECT_EQ(checked->parts.size(), 1U);
    EXPECT_EQ(checked->bytes, std::filesystem::file_size(path));
  }
}

// ---- layout -------------------------------------------------------------------------------------

TEST(GgufLayout, HasEachKeyAndTensorOnce) {
  EXPECT_EQ(refusal([](GgufWriter& m) { m.entries.push_back(m.entries[1]); }),
            "the key \"llama.block_count\" occurs twice in its metadata");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensors[3].name = m.tensors[2].name; }),
            "the tensor \"blk.0.attn_norm.weight\" occurs twice");
  // For libllama a name ends at its first NUL.
  EXPECT_EQ(
      refusal([](GgufWriter& m) { m.tensors[3].name = m.tensors[2].name + std::string("\0x", 2); }),
      "the tensor \"blk.0.attn_norm.weight\" occurs twice");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensors[3].name = ""; }), "a tensor has no name");
}

TEST(GgufLayout, HasAnAlignmentThatIsAPowerOfTwo) {
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("general.alignment", 0); }),
            "general.alignment is 0, not a power of two");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("general.alignment", 48); }),
            "general.alignment is 48, not a power of two");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u16("general.alignment", 32); }),
            "general.alignment is of type uint16; it must be a uint32");
  EXPECT_EQ(refusal([](GgufWriter& m) {
              m.u32("general.alignment", 64);
              m.alignment = 64;
            }),
            "accepted");
}

TEST(GgufLayout, HasTensorsOfKnownTypesAndShapes) {
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensor("output_norm.weight").type = GGML_TYPE_COUNT; }),
            "the tensor \"output_norm.weight\" has type " + std::to_string(GGML_TYPE_COUNT) +
                ", which libllama does not know");
  // A type that once was.
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensor("output_norm.weight").type = 4; }),
            "the tensor \"output_norm.weight\" has type 4, which libllama does not know");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensor("output_norm.weight").shape = {0}; }),
            "the tensor \"output_norm.weight\" has a dimension of 0");
  EXPECT_EQ(
      refusal([](GgufWriter& m) {
        m.tensor("output_norm.weight").shape = {std::uint64_t{1} << 32, std::uint64_t{1} << 32};
      }),
      "the tensor \"output_norm.weight\" has more elements than can be counted: 4294967296 x "
      "4294967296 x 1 x 1");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensor("output_norm.weight").shape = {UINT64_MAX}; }),
            "the tensor \"output_norm.weight\" has more elements than can be counted: "
            "18446744073709551615 x 1 x 1 x 1");
  EXPECT_EQ(refusal([](GgufWriter& m) {
              m.tensor("output_norm.weight").shape = {std::uint64_t{1} << 61};
            }),
            "the tensor \"output_norm.weight\" has more bytes than can be counted");
  EXPECT_EQ(
      refusal([](GgufWriter& m) {
        m.tensor("output_norm.weight").type = GGML_TYPE_Q8_0;
        m.tensor("output_norm.weight").shape = {48};
      }),
      "the tensor \"output_norm.weight\" has rows of 48 elements, not a multiple of the 32 in "
      "a block of type q8_0");
}

TEST(GgufLayout, HasTensorsOneBehindTheOther) {
  // The first has 33,792 bytes, the second, with 128, follows at once.
  EXPECT_EQ(
      refusal([](GgufWriter& m) { m.tensor("output_norm.weight").offset = 33'793; }),
      "the tensor \"output_norm.weight\" begins at 33793 of the tensor data, not a multiple of "
      "the alignment 32");
  EXPECT_EQ(
      refusal([](GgufWriter& m) { m.tensor("output_norm.weight").offset = 64; }),
      "the tensor \"output_norm.weight\" begins at 64 of the tensor data and overlaps others: "
      "the one before it, \"token_embd.weight\", ends at 33792");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensor("output_norm.weight").offset = 33'824; }),
            "the tensor \"output_norm.weight\" begins at 33824 of the tensor data; after "
            "\"token_embd.weight\" it has to begin at 33792");
  EXPECT_EQ(
      refusal([](GgufWriter& m) { m.tensor("token_embd.weight").offset = 32; }),
      "the tensor \"token_embd.weight\" begins at 32 of the tensor data; the first one has to "
      "begin at 0");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.tensor("output_norm.weight").offset = UINT64_MAX - 31; }),
            "the tensor \"output_norm.weight\" begins at 18446744073709551584 of the tensor data; "
            "after \"token_embd.weight\" it has to begin at 33792");
}

TEST(GgufLayout, HasAllItsBytes) {
  const std::string file = small_model().file();
  EXPECT_EQ(refusal(file.substr(0, file.size() - 1)),
            "truncated: 1 bytes are missing (its tensors end at byte " +
                std::to_string(file.size()) + ", the file at byte " +
                std::to_string(file.size() - 1) + ")");
  const std::string head = small_model().head();
  EXPECT_EQ(refusal(head), "truncated: " + std::to_string(file.size() - head.size()) +
                               " bytes are missing (its tensors end at byte " +
                               std::to_string(file.size()) + ", the file at byte " +
                               std::to_string(head.size()) + ")");
  // Two that each could be counted, and together not.
  const auto huge = [](GgufWriter& m) {
    m.tensors.erase(m.tensors.begin() + 3, m.tensors.end());
    for (auto& tensor : m.tensors) {
      tensor.shape = {std::uint64_t{1} << 60};
      tensor.data.clear();
    }
    m.tensors[1].offset = std::uint64_t{1} << 62;
    m.tensors[2].offset = std::uint64_t{1} << 63;
    for (int i = 0; i < 2; ++i) m.tensors.push_back(m.tensors[2]);
    m.tensors[3].name = "x";
    m.tensors[3].offset = (std::uint64_t{1} << 63) + (std::uint64_t{1} << 62);
  };
  EXPECT_EQ(refusal(huge), "the tensors as far as \"x\" have more bytes than can be counted");
}

// ---- model --------------------------------------------------------------------------------------

TEST(GgufModel, NamesItsArchitecture) {
  EXPECT_EQ(refusal([](GgufWriter& m) { m.erase("general.architecture"); }),
            "it does not name its architecture: there is no general.architecture");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("general.architecture", 3); }),
            "it does not name its architecture: general.architecture is of type uint32, not a "
            "string");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.text("general.architecture", ""); }),
            "general.architecture is \"\"");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.text("general.type", "adapter"); }),
            "its general.type is \"adapter\": it is no model by itself");
}

TEST(GgufModel, HasWhatEveryModelHas) {
  for (const std::string name : {"block_count", "context_length", "embedding_length"}) {
    const std::string key = "llama." + name;
    EXPECT_EQ(refusal([&](GgufWriter& m) { m.erase(key); }),
              "there is no " + key + " in its metadata");
    EXPECT_EQ(refusal([&](GgufWriter& m) { m.f32(key, 32); }),
              key + " is of type float32; it must be a uint32");
    const std::string most = name == "block_count" ? "512" : "2147483647";
    EXPECT_EQ(refusal([&](GgufWriter& m) { m.u32(key, 0); }),
              key + " is 0; possible are 1 to " + most);
  }
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("llama.context_length", UINT32_MAX); }),
            "llama.context_length is 4294967295; possible are 1 to 2147483647");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("llama.block_count", 12); }),
            "llama.block_count is 12, but the file has only 11 tensors");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("llama.nextn_predict_layers", 2); }),
            "llama.nextn_predict_layers is 2, more than the 1 layers of the model");
}

TEST(GgufModel, HasHeadsThatFit) {
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("llama.attention.head_count", 0); }),
            "llama.attention.head_count is 0, but there are tensors of attention heads "
            "(\"blk.0.attn_q.weight\")");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("llama.attention.head_count", 3); }),
            "llama.embedding_length is 32, not a multiple of llama.attention.head_count, which is "
            "3");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("llama.attention.head_count_kv", 0); }),
            "llama.attention.head_count_kv is 0, which does not divide llama.attention.head_count, "
            "which is 2");
  EXPECT_EQ(refusal([](GgufWriter& m) {
              m.u32("llama.attention.head_count", 16).u32("llama.attention.head_count_kv", 3);
            }),
            "llama.attention.head_count_kv is 3, which does not divide llama.attention.head_count, "
            "which is 16");
  // Heads of a length of their own need not divide anything; models without attention have none.
  EXPECT_EQ(refusal([](GgufWriter& m) {
              m.u32("llama.attention.head_count", 3).u32("llama.attention.key_length", 16);
            }),
            "accepted");
  EXPECT_EQ(refusal([](GgufWriter& m) {
              m.u32("llama.attention.head_count", 0);
              m.tensor("blk.0.attn_q.weight").name = "blk.0.ssm_in.weight";
            }),
            "accepted");
}

TEST(GgufModel, HasExpertsThatFit) {
  const auto experts = [](std::uint32_t count, std::uint32_t used, std::uint32_t groups,
                          std::uint32_t groups_used) {
    return refusal([&](GgufWriter& m) {
      m.u32("llama.expert_count", count)
          .u32("llama.expert_used_count", used)
          .u32("llama.expert_group_count", groups)
          .u32("llama.expert_group_used_count", groups_used);
    });
  };
  EXPECT_EQ(experts(8, 2, 0, 0), "accepted");
  EXPECT_EQ(experts(8, 2, 4, 2), "accepted");
  EXPECT_EQ(experts(1025, 2, 0, 0), "llama.expert_count is 1025; at most 1024 are possible");
  EXPECT_EQ(experts(8, 9, 0, 0),
            "llama.expert_used_count is 9, with 8 experts (llama.expert_count)");
  EXPECT_EQ(experts(8, 0, 0, 0),
            "llama.expert_used_count is 0, with 8 experts (llama.expert_count)");
  EXPECT_EQ(experts(0, 1, 0, 0),
            "llama.expert_used_count is 1, with 0 experts (llama.expert_count)");
  EXPECT_EQ(experts(8, 2, 3, 2),
            "llama.expert_group_count is 3, which does not divide the 8 experts "
            "(llama.expert_count) into groups");
  EXPECT_EQ(experts(8, 2, 4, 4),
            "llama.expert_group_used_count is 4, with 4 groups (llama.expert_group_count)");
  EXPECT_EQ(refusal([](GgufWriter& m) {
              m.u32("llama.expert_count", 4).i32s("llama.expert_used_count", {2, 5});
            }),
            "llama.expert_used_count is 5, with 4 experts (llama.expert_count)");
}

TEST(GgufModel, ScalesItsPositionsInAKnownWay) {
  EXPECT_EQ(refusal([](GgufWriter& m) { m.text("llama.rope.scaling.type", "yarn"); }), "accepted");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.text("llama.rope.scaling.type", "cubic"); }),
            "llama.rope.scaling.type is \"cubic\"; there are none, linear, yarn and longrope");
}

TEST(GgufVocabulary, IsThere) {
  EXPECT_EQ(refusal([](GgufWriter& m) { m.erase("tokenizer.ggml.model"); }),
            "no tokenizer in the file: there is no tokenizer.ggml.model");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.text("tokenizer.ggml.model", "no_vocab"); }),
            "no tokenizer in the file: tokenizer.ggml.model is \"no_vocab\"");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("tokenizer.ggml.model", 1); }),
            "tokenizer.ggml.model is of type uint32; it must be a string");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.erase("tokenizer.ggml.tokens"); }),
            "no vocabulary: there is no tokenizer.ggml.tokens");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.i32s("tokenizer.ggml.tokens", {1}); }),
            "tokenizer.ggml.tokens is an array of int32; it must be an array of strings");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.text("tokenizer.ggml.tokens", "a"); }),
            "tokenizer.ggml.tokens is of type string; it must be an array of strings");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.strings("tokenizer.ggml.tokens", {}); }),
            "no vocabulary: tokenizer.ggml.tokens is empty");
}

TEST(GgufVocabulary, HasEachTokenOnce) {
  const auto with = [](const std::vector<std::string>& tokens) {
    return refusal([&](GgufWriter& m) {
      m.strings("tokenizer.ggml.tokens", tokens).erase("tokenizer.ggml.scores");
      m.erase("tokenizer.ggml.token_type");
    });
  };
  EXPECT_EQ(with({"a", "b", "c"}), "accepted");
  EXPECT_EQ(with({"a", "b", "a"}), "the token \"a\" occurs twice in its vocabulary");
  // libllama sees both as "a".
  EXPECT_EQ(with({"a", "b", std::string("a\0c", 3)}),
            "the token \"a\" occurs twice in its vocabulary");
  EXPECT_EQ(with({"", "", std::string(1, '\0')}), "accepted");
  EXPECT_EQ(with({"x", "", "[EMPTY_1]"}),
            "its vocabulary has a token \"[EMPTY_1]\", as libllama calls the one without text at "
            "that place");
  EXPECT_EQ(with({"x", "", "[EMPTY_0]"}), "accepted");
}

TEST(GgufVocabulary, HasSomethingForEachToken) {
  EXPECT_EQ(refusal([](GgufWriter& m) {
              m.f32s("tokenizer.ggml.scores", {1, 2});
            }),
            "tokenizer.ggml.scores has 2 elements for 264 tokens");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.i32s("tokenizer.ggml.token_type", {}); }),
            "tokenizer.ggml.token_type has 0 elements for 264 tokens");
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("tokenizer.ggml.token_type", 1); }),
            "tokenizer.ggml.token_type is of type uint32; it must be an array");
}

TEST(GgufVocabulary, HasTheTokensThatGenerationNeeds) {
  for (const std::string key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                "tokenizer.ggml.eot_token_id"}) {
    EXPECT_EQ(refusal([&](GgufWriter& m) { m.u32(key, 264); }),
              key + " is 264, but the vocabulary has only 264 tokens");
  }
  // libllama does without it, and there are such files.
  EXPECT_EQ(refusal([](GgufWriter& m) { m.u32("tokenizer.ggml.padding_token_id", 264); }),
            "accepted");
}

// ---- split models -------------------------------------------------------------------------------

class SplitGguf : public testing::Test {
 protected:
  SplitGguf() { std::filesystem::create_directories(folder_); }
  ~SplitGguf() override { std::filesystem::remove_all(folder_); }

  /// Part `number`, from 0, of two: the first half of the tensors, or the rest.
  static GgufWriter part(std::uint16_t number) {
    GgufWriter model = small_model();
    const auto half = model.tensors.begin() + 5;
    if (number == 0) {
      model.tensors.erase(half, model.tensors.end());
    } else {
      model.tensors.erase(model.tensors.begin(), half);
      model.entries.clear();
    }
    model.u16("split.no", number).u16("split.count", 2);
    return model;
  }

  std::string write(const std::string& name, const std::string& bytes) {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  static std::string first_error(const std::string& path) {
    const auto checked = check_gguf_file(path);
    return checked.ok() ? "accepted" : checked.error().message;
  }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("weir-split-gguf-" + std::to_string(::getpid()));
};

TEST_F(SplitGguf, IsOneModel) {
  const std::string first = write("m-00001-of-00002.gguf", part(0).file());
  const std::string second = write("m-00002-of-00002.gguf", part(1).file());
  const auto checked = check_gguf_file(first);
  ASSERT_TRUE(checked.ok()) << checked.error().message;
  EXPECT_EQ(checked->paths, (std::vector<std::string>{first, second}));
  EXPECT_EQ(checked->parts.size(), 2U);
  EXPECT_EQ(checked->bytes, part(0).file().size() + part(1).file().size());
}

TEST_F(SplitGguf, IsRefusedWithTheReason) {
  const std::string first = write("m-00001-of-00002.gguf", part(0).file());
  const std::string second = folder_ / "m-00002-of-00002.gguf";
  EXPECT_EQ(first_error(first), second + ": No such file or directory");
  const std::string rest = part(1).file();
  write("m-00002-of-00002.gguf", rest.substr(0, rest.size() - 10));
  EXPECT_THAT(first_error(first),
              testing::StartsWith(second + ": truncated: 10 bytes are missing"));
  write("m-00002-of-00002.gguf", part(0).file());
  EXPECT_EQ(first_error(first),
            second + ": it says that it is part 1 of 2, by its name it is 2 of 2");
  const std::string renamed = write("renamed.gguf", part(0).file());
  EXPECT_EQ(first_error(renamed),
            renamed +
                ": the first of 2 parts, but not named like it: its name has to end in "
                "-00001-of-00002.gguf");
  GgufWriter later = part(0);
  later.u16("split.no", 1);
  const std::string not_first = write("later.gguf", later.file());
  EXPECT_EQ(first_error(not_first),
            not_first + ": part 2 of 2 of a split model; give the path of part 1");
  GgufWriter typed = part(0);
  typed.u32("split.count", 2);
  const std::string wrong = write("typed.gguf", typed.file());
  EXPECT_EQ(first_error(wrong), wrong + ": split.count is of type uint32; it must be a uint16");
  GgufWriter unnumbered = part(0);
  const std::string without = write("without.gguf", unnumbered.erase("split.no").file());
  EXPECT_EQ(first_error(without), without + ": a part of a split model without split.no");
}

}  // namespace
}  // namespace weir::model
