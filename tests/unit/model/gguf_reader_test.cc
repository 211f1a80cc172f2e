// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <variant>

#include "tests/fixtures/gguf_writer.h"

namespace weir::model {
namespace {

using testing::HasSubstr;

constexpr const char* kShipped = "deploy/models/tiny-stories-1m-q8_0.gguf";

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

/// Why the reader cannot make its way through a file with this start, of `file_bytes` bytes.
std::string refusal(const std::string& head, std::uint64_t file_bytes) {
  const auto parsed = parse_gguf(bytes(head), file_bytes);
  if (const auto* more = std::get_if<GgufNeedsMore>(&parsed)) {
    return "needs " + std::to_string(more->bytes);
  }
  const auto* error = std::get_if<Error>(&parsed);
  return error == nullptr ? "accepted" : error->message;
}

std::string refusal(const GgufWriter& writer) {
  const std::string file = writer.file();
  return refusal(file, file.size());
}

GgufWriter one_entry() {
  GgufWriter writer;
  writer.u32("a", 1);
  writer.tensors.push_back({"t", {1}, 0, std::string(4, '\0'), std::nullopt});
  return writer;
}

GgufWriter one_entry(std::uint32_t type, const std::string& value) {
  return one_entry().raw("a", type, value);
}

TEST(GgufReader, ReadsWhatWasWritten) {
  GgufWriter writer;
  writer.text("name", "x y")
      .u32("count", 77)
      .f32("scale", 1.5F)
      .strings("words", {"one", "", "three"})
      .i32s("ids", {1, -2});
  writer.tensors.push_back({"first", {2, 3}, 0, std::string(24, '\0'), std::nullopt});
  writer.tensors.push_back({"second", {4}, 8, "", 64});
  const std::string file = writer.file();
  const auto parsed = parse_gguf(bytes(file), file.size());
  ASSERT_TRUE(std::holds_alternative<GgufMetadata>(parsed)) << refusal(writer);
  const auto& metadata = std::get<GgufMetadata>(parsed);
  EXPECT_EQ(metadata.find("name")->text(), "x y");
  EXPECT_EQ(metadata.find("name")->uint32(), std::nullopt);
  EXPECT_EQ(metadata.find("count")->uint32(), 77U);
  EXPECT_EQ(metadata.find("count")->text(), std::nullopt);
  EXPECT_EQ(metadata.find("scale")->type, GgufType::kFloat32);
  EXPECT_EQ(metadata.find("gone"), nullptr);
  ASSERT_TRUE(metadata.find("words")->is_array_of(GgufType::kString));
  GgufStrings words(*metadata.find("words"));
  EXPECT_EQ(words.next(), "one");
  EXPECT_EQ(words.next(), "");
  EXPECT_EQ(words.next(), "three");
  EXPECT_EQ(words.next(), std::nullopt);
  EXPECT_TRUE(metadata.find("ids")->is_array_of(GgufType::kInt32));
  EXPECT_EQ(metadata.find("ids")->count, 2U);
  EXPECT_EQ(metadata.find("ids")->value.size(), 8U);
  ASSERT_EQ(metadata.tensors.size(), 2U);
  EXPECT_EQ(metadata.tensors[0].name, "first");
  EXPECT_EQ(metadata.tensors[0].dimensions, 2U);
  EXPECT_THAT(metadata.tensors[0].shape, testing::ElementsAre(2, 3, 1, 1));
  EXPECT_EQ(metadata.tensors[1].type, 8U);
  EXPECT_EQ(metadata.tensors[1].offset, 64U);
  EXPECT_EQ((metadata.bytes + 31) / 32 * 32, writer.head().size());
}

TEST(GgufReader, AsksForAsMuchAsItNeedsAndNoMore) {
  const GgufWriter writer = small_model();
  const std::string head = writer.head();
  const std::uint64_t file_bytes = writer.file().size();
  const auto whole = parse_gguf(bytes(head), file_bytes);
  ASSERT_TRUE(std::holds_alternative<GgufMetadata>(whole));
  std::size_t have = 0;
  std::size_t rounds = 0;
  for (;; ++rounds) {
    const auto parsed = parse_gguf(bytes(head).first(have), file_bytes);
    if (std::holds_alternative<GgufMetadata>(parsed)) break;
    const auto* more = std::get_if<GgufNeedsMore>(&parsed);
    ASSERT_NE(more, nullptr) << std::get<Error>(parsed).message;
    ASSERT_GT(more->bytes, have);
    ASSERT_LE(more->bytes, std::get<GgufMetadata>(whole).bytes);
    have = more->bytes;
  }
  EXPECT_EQ(have, std::get<GgufMetadata>(whole).bytes);
  EXPECT_GT(rounds, 100U);  // a field at a time
}

/// The first 24 bytes of a file.
std::string header(std::uint32_t version, std::uint64_t tensors, std::uint64_t entries) {
  return "GGUF" + bytes_of(version, 4) + bytes_of(tensors, 8) + bytes_of(entries, 8);
}

TEST(GgufReader, RefusesAHeaderWithTheReason) {
  EXPECT_EQ(refusal("", 0), "the file is empty");
  EXPECT_THAT(refusal("ve", 2), HasSubstr("not a GGUF file"));
  EXPECT_THAT(refusal(header(3, 1, 1).substr(0, 10), 10), HasSubstr("truncated: 10 bytes"));
  EXPECT_EQ(refusal(header(3, 1, 1).substr(0, 10), 1000), "needs 24");
  EXPECT_THAT(refusal(header(1, 1, 1), 1000), HasSubstr("GGUF version 1;"));
  EXPECT_THAT(refusal(header(4, 1, 1), 1000), HasSubstr("GGUF version 4;"));
  EXPECT_THAT(refusal(header(0, 1, 1), 1000), HasSubstr("GGUF version 0;"));
  EXPECT_THAT(refusal(header(0x03000000, 1, 1), 1000), HasSubstr("big-endian"));
  EXPECT_THAT(refusal(header(3, 0, 10), 1000), HasSubstr("a vocabulary without weights"));
  EXPECT_THAT(refusal(header(3, 10, 0), 1000), HasSubstr("no metadata"));
  EXPECT_THAT(refusal(header(3, 1, 1), 24), HasSubstr("truncated or corrupt: 24 bytes cannot"));
}

TEST(GgufReader, SaysWhereTheFileEnds) {
  const GgufWriter writer = one_entry();
  const std::string file = writer.file();
  // Cut within the value of the entry, and within the tensor: 24 bytes of header, 8 + 1 of key,
  // 4 of type, 4 of value; 8 + 1 of name, 4 of dimension count, 8 of dimension.
  EXPECT_THAT(refusal(file.substr(0, 39), 39), HasSubstr("truncated or corrupt: 39 bytes cannot"));
  GgufWriter longer = one_entry();
  longer.u32("b", 2).u32("c", 3);
  const std::string cut = longer.file().substr(0, 24 + 2 * 17 + 15);
  EXPECT_EQ(
      refusal(cut, cut.size()),
      "truncated or corrupt: metadata entry 3 of 3 (\"c\") takes 4 bytes from byte 71 on, but "
      "the file ends at byte 73");
  GgufWriter tensors = one_entry();
  tensors.entry_count = 1;
  const std::string within = tensors.file().substr(0, 24 + 17 + 33 - 4);
  EXPECT_THAT(
      refusal(within + "xxx", within.size() + 3),
      HasSubstr("truncated or corrupt: tensor 1 of 1 (\"t\") takes 8 bytes from byte 66 on, "
                "but the file ends at byte 73"));
}

TEST(GgufReader, RefusesCountsThatTheFileCannotHold) {
  GgufWriter writer = one_entry();
  writer.entry_count = UINT64_MAX;
  EXPECT_THAT(refusal(writer),
              HasSubstr("cannot hold 1 tensors and 18446744073709551615 metadata"));
  writer = one_entry();
  writer.tensor_count = std::uint64_t{1} << 63;
  EXPECT_THAT(refusal(writer), HasSubstr("cannot hold 9223372036854775808 tensors"));
  // A file that could hold them, by its size: a hole costs nothing.
  const std::uint64_t huge = std::uint64_t{1} << 40;
  writer = one_entry();
  writer.entry_count = 1'000'000'000;
  EXPECT_EQ(refusal(writer.head(), huge), "1000000000 metadata entries; at most 65536 are read");
  writer = one_entry();
  writer.tensor_count = 1'000'000'000;
  EXPECT_EQ(refusal(writer.head(), huge), "1000000000 tensors; at most 65536 are read");
}

TEST(GgufReader, RefusesLengthsThatTheFileCannotHold) {
  EXPECT_THAT(
      refusal(one_entry(8, bytes_of(UINT64_MAX, 8))),
      HasSubstr("(\"a\") takes 18446744073709551615 bytes from byte 45 on, but the file ends"));
  const std::string array = bytes_of(4, 4) + bytes_of(UINT64_MAX / 4 + 1, 8);
  EXPECT_THAT(refusal(one_entry(9, array)),
              HasSubstr("metadata entry 1 of 1 (\"a\") claims 4611686018427387904 elements of "
                        "uint32, but"));
  const std::string strings = bytes_of(8, 4) + bytes_of(1'000'000, 8);
  EXPECT_THAT(refusal(one_entry(9, strings)), HasSubstr("claims 1000000 elements of string, but"));
  // The last string of the array goes on behind the end.
  const std::string last = bytes_of(8, 4) + bytes_of(2, 8) + bytes_of(0, 8) + bytes_of(600, 8);
  EXPECT_THAT(refusal(one_entry(9, last)),
              HasSubstr("(\"a\") takes 600 bytes from byte 65 on, but the file ends at byte"));
  const std::uint64_t huge = std::uint64_t{1} << 40;
  EXPECT_EQ(refusal(one_entry(9, bytes_of(8, 4) + bytes_of(3'000'000, 8)).head(), huge),
            "metadata entry 1 of 1 (\"a\") has 3000000 strings; at most 2097152 are read");
  EXPECT_EQ(refusal(one_entry(8, bytes_of(std::uint64_t{1} << 30, 8)).head(), huge),
            "more than 64 MiB of metadata, as far as metadata entry 1 of 1 (\"a\")");
}

TEST(GgufReader, RefusesWhatItCannotWalkThrough) {
  EXPECT_EQ(refusal(one_entry(13, "")),
            "metadata entry 1 of 1 (\"a\") has value type 13; there are 0 to 12");
  EXPECT_EQ(refusal(one_entry(9, bytes_of(UINT32_MAX, 4) + bytes_of(0, 8))),
            "metadata entry 1 of 1 (\"a\") has value type 4294967295; there are 0 to 12");
  EXPECT_EQ(refusal(one_entry(9, bytes_of(9, 4) + bytes_of(1, 8))),
            "metadata entry 1 of 1 (\"a\") is an array of arrays, which no reader takes");
  GgufWriter writer = one_entry();
  writer.entries[0].key = "";
  EXPECT_EQ(refusal(writer), "metadata entry 1 of 1 has an empty key");
  writer.entries[0].key = std::string(65'536, 'k');
  EXPECT_EQ(refusal(writer),
            "metadata entry 1 of 1: a key of 65536 bytes; at most 65535 are possible");
  writer = one_entry();
  writer.tensors[0].name = std::string(64, 'n');
  EXPECT_EQ(refusal(writer), "tensor 1 of 1: a name of 64 bytes; at most 63 are possible");
  writer = one_entry();
  writer.tensors[0].shape = {1, 1, 1, 1, 1};
  EXPECT_EQ(refusal(writer), "tensor 1 of 1 (\"t\") has 5 dimensions; at most 4 are possible");
}

TEST(GgufReader, ShowsNoControlCharactersOfTheFile) {
  GgufWriter writer = one_entry(13, "");
  writer.entries[0].key = "a\nlevel=error\x1B[2J\xFF";
  EXPECT_EQ(refusal(writer),
            "metadata entry 1 of 1 (\"a\xEF\xBF\xBDlevel=error\xEF\xBF\xBD[2J\xEF\xBF\xBD\") has "
            "value type 13; there are 0 to 12");
  writer.entries[0].key = std::string(1000, 'k');
  EXPECT_THAT(refusal(writer), HasSubstr("(\"" + std::string(96, 'k') + "...\") has"));
}

TEST(GgufHead, ReadsTheMetadataOfTheShippedModel) {
  const auto head = read_gguf_head(kShipped);
  ASSERT_TRUE(head.ok()) << head.error().message << " (run the tests from the repository's root)";
  EXPECT_EQ(head->metadata.tensors.size(), 47U);
  EXPECT_EQ(head->metadata.find("llama.embedding_length")->uint32(), 128U);
  EXPECT_EQ(head->identity.bytes, std::filesystem::file_size(kShipped));
}

class GgufHeadFile : public testing::Test {
 protected:
  ~GgufHeadFile() override { std::filesystem::remove(path_); }
  const std::string path_ = std::filesystem::temp_directory_path() /
                            ("weir-gguf-head-" + std::to_string(::getpid()) + ".gguf");
};

TEST_F(GgufHeadFile, IsReadInPiecesWhenItIsLong) {
  GgufWriter writer = one_entry();
  writer.text("long", std::string(5 << 20, 'x')).u32("behind", 9);
  std::ofstream(path_, std::ios::binary) << writer.file();
  const auto head = read_gguf_head(path_);
  ASSERT_TRUE(head.ok()) << head.error().message;
  EXPECT_EQ(head->metadata.find("long")->value.size(), std::size_t{5} << 20);
  EXPECT_EQ(head->metadata.find("behind")->uint32(), 9U);
}

TEST_F(GgufHeadFile, CostsNoMemoryForWhatIsClaimed) {
  // A terabyte by its size, a few bytes by what is in it.
  std::ofstream(path_, std::ios::binary)
      << one_entry(8, bytes_of(std::uint64_t{1} << 39, 8)).head();
  std::filesystem::resize_file(path_, std::uint64_t{1} << 40);
  const auto head = read_gguf_head(path_);
  ASSERT_FALSE(head.ok());
  EXPECT_EQ(head.error().message,
            path_ + ": more than 64 MiB of metadata, as far as metadata entry 1 of 1 (\"a\")");
}

TEST_F(GgufHeadFile, NamesThePathInErrors) {
  const auto missing = read_gguf_head(path_);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().os_errno, ENOENT);
  EXPECT_THAT(missing.error().message, HasSubstr(path_));
  const auto directory = read_gguf_head("/");
  ASSERT_FALSE(directory.ok());
  EXPECT_EQ(directory.error().message, "/: not a regular file");
}

TEST_F(GgufHeadFile, HasAnotherIdentityWhenItIsReplaced) {
  std::ofstream(path_, std::ios::binary) << one_entry().file();
  const auto before = read_gguf_head(path_);
  const auto again = read_gguf_head(path_);
  ASSERT_TRUE(before.ok() && again.ok());
  EXPECT_EQ(before->identity, again->identity);
  std::ofstream(path_ + ".new", std::ios::binary) << one_entry().file();
  std::filesystem::rename(path_ + ".new", path_);
  const auto after = read_gguf_head(path_);
  ASSERT_TRUE(after.ok());
  EXPECT_NE(before->identity, after->identity);
}

}  // namespace
}  // namespace weir::model
