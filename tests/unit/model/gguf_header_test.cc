// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

namespace weir::model {
namespace {

using testing::HasSubstr;

std::vector<std::byte> header(std::uint32_t version, std::uint64_t tensors, std::uint64_t entries) {
  std::vector<std::byte> bytes(kGgufHeaderBytes);
  std::memcpy(bytes.data(), "GGUF", 4);
  std::memcpy(bytes.data() + 4, &version, 4);
  std::memcpy(bytes.data() + 8, &tensors, 8);
  std::memcpy(bytes.data() + 16, &entries, 8);
  return bytes;
}

std::string refusal(const std::vector<std::byte>& head, std::uint64_t file_bytes) {
  const auto result = parse_gguf_header(head, file_bytes);
  return result.ok() ? "accepted" : result.error().message;
}

TEST(GgufHeader, ReadsAGoodHeader) {
  const auto result = parse_gguf_header(header(3, 47, 25), 1 << 20);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->version, 3U);
  EXPECT_EQ(result->tensors, 47U);
  EXPECT_EQ(result->metadata_entries, 25U);
}

TEST(GgufHeader, RefusesWithTheReason) {
  EXPECT_THAT(refusal({}, 0), HasSubstr("empty"));
  EXPECT_THAT(refusal({std::byte{'v'}, std::byte{'e'}}, 2), HasSubstr("not a GGUF file"));
  auto short_header = header(3, 1, 1);
  short_header.resize(10);
  EXPECT_THAT(refusal(short_header, 10), HasSubstr("truncated: 10 bytes"));
  EXPECT_THAT(refusal(header(1, 1, 1), 1000), HasSubstr("GGUF version 1"));
  EXPECT_THAT(refusal(header(4, 1, 1), 1000), HasSubstr("GGUF version 4"));
  EXPECT_THAT(refusal(header(0, 1, 1), 1000), HasSubstr("GGUF version 0"));
  EXPECT_THAT(refusal(header(0x03000000, 1, 1), 1000), HasSubstr("big-endian"));
  EXPECT_THAT(refusal(header(3, 0, 10), 1000), HasSubstr("vocabulary"));
  EXPECT_THAT(refusal(header(3, 10, 0), 1000), HasSubstr("no metadata"));
  EXPECT_THAT(refusal(header(3, UINT64_MAX, 1), 1000), HasSubstr("corrupt"));
  EXPECT_THAT(refusal(header(3, 1, UINT64_MAX), 1000), HasSubstr("corrupt"));
  EXPECT_THAT(refusal(header(3, 1, 1), kGgufHeaderBytes), HasSubstr("corrupt"));
}

TEST(GgufFile, NamesThePathInErrors) {
  const auto missing = inspect_gguf_file("/nonexistent/model.gguf");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().os_errno, ENOENT);
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent/model.gguf"));
  const auto directory = inspect_gguf_file("/");
  ASSERT_FALSE(directory.ok());
  EXPECT_THAT(directory.error().message, HasSubstr("not a regular file"));
}

TEST(GgufFile, ReadsTheShippedModel) {
  const std::string path = "deploy/models/tiny-stories-1m-q8_0.gguf";
  const auto file = inspect_gguf_file(path);
  ASSERT_TRUE(file.ok()) << file.error().message << " (run the tests from the repository's root)";
  EXPECT_EQ(file->header.version, 3U);
  EXPECT_EQ(file->bytes, std::filesystem::file_size(path));
  EXPECT_GT(file->modified_unix_seconds, 0);
}

}  // namespace
}  // namespace weir::model
