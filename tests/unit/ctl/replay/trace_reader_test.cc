// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/trace_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdio>
#include <fstream>
#include <random>
#include <string>

namespace weir::replay {
namespace {

using namespace std::chrono_literals;

constexpr const char* kCsv =
    "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    "10.5,374,44\n"
    "10.75,396,109\n"
    "12,879,0\n";
constexpr const char* kJsonLines =
    R"({"timestamp": 1000, "input_length": 700, "output_length": 500, "hash_ids": [0, 46]}
{"timestamp": 1500, "input_length": 512, "output_length": 1, "hash_ids": [0]}

{"timestamp": 1500.5, "input_length": 3, "output_length": 9}
)";

Result<Trace> read(std::string_view text) {
  const auto lines = lines_of(text);
  return read_trace(*lines, "t");
}

std::string failure_of(std::string_view text) {
  auto trace = read(text);
  if (trace) return "read";
  EXPECT_EQ(trace.error().code, Code::kInvalidArgument);
  return trace.error().message;
}

/// A file that goes when the test ends.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view bytes)
      : path_(testing::TempDir() + "weir-trace-" + std::to_string(::getpid())) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

std::string gzip(std::string_view text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(compressBound(static_cast<uLong>(text.size())) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST(TraceReader, ReadsCsv) {
  const auto trace = read(kCsv);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->format, TraceFormat::kCsv);
  ASSERT_EQ(trace->records.size(), 3U);
  EXPECT_EQ(trace->records[0].at, 0ns);
  EXPECT_EQ(trace->records[1].at, 250ms);
  EXPECT_EQ(trace->records[2].at, 1500ms);
  EXPECT_EQ(trace->records[1].prompt_tokens, 396U);
  EXPECT_EQ(trace->records[1].output_tokens, 109U);
  EXPECT_EQ(trace->records[2].output_tokens, 0U);
  EXPECT_EQ(trace->reordered, 0U);
}

TEST(TraceReader, FindsCsvColumnsByNameWhateverStandsAround) {
  const auto trace = read(
      "\xEF\xBB\xBFid, num_decode_tokens ,arrived_at,num_prefill_tokens\r\n"
      "x, 7 ,0,5\r\n\r\ny,8,1,6");
  ASSERT_TRUE(trace) << trace.error().message;
  ASSERT_EQ(trace->records.size(), 2U);
  EXPECT_EQ(trace->records[1].prompt_tokens, 6U);
  EXPECT_EQ(trace->records[1].output_tokens, 8U);
  EXPECT_EQ(trace->records[1].at, 1s);
}

TEST(TraceReader, ReadsDatesAsAzurePublishesThem) {
  const auto trace = read(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n"
      "2023-12-31 23:59:59.6805900,374,44\n"
      "2024-01-01 00:00:00.6805901,396,109\n"
      "2024-02-29T00:00:00+00:00,20,1\n"
      "2024-02-29 03:00:00.5+02:30,20,1\n"
      "2024-02-29 00:00:00.25-01:00,20,1\n");
  ASSERT_TRUE(trace) << trace.error().message;
  ASSERT_EQ(trace->records.size(), 5U);
  EXPECT_EQ(trace->records[0].at, 0ns);
  EXPECT_EQ(trace->records[1].at, 1s + 100ns);
  EXPECT_EQ(trace->records[1].prompt_tokens, 396U);
  EXPECT_EQ(trace->records[1].output_tokens, 109U);
  // From the first record to the midnight before the last day of February.
  const auto leap_day = 59 * 24h + 319410us;
  EXPECT_EQ(trace->records[2].at, leap_day);
  EXPECT_EQ(trace->records[3].at, leap_day + 30min + 500ms);
  EXPECT_EQ(trace->records[4].at, leap_day + 1h + 250ms);
  EXPECT_EQ(trace->reordered, 0U);
  const std::string header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  for (const std::string wrong :
       {"12.5", "2023-02-29 00:00:00", "2023-13-01 00:00:00", "1969-12-31 23:59:59",
        "2023-11-16 24:00:00", "2023-11-16 23:60:00", "2023-11-16", "2023-11-16 18:15",
        "2023-11-16 18:15:46.", "2023-11-16 18:15:46.0123456789", "2023-11-16 18:15:46 x",
        "2023-11-16 18:15:46+2"}) {
    EXPECT_EQ(
        failure_of(header + wrong + ",1,1\n"),
        "t:2: TIMESTAMP \"" + wrong + "\" is no time; it must be like 2023-11-16 18:15:46.68059");
  }
  EXPECT_EQ(failure_of(header + "2023-11-16 18:15:46,x,1\n"),
            "t:2: ContextTokens \"x\" is no number; it must be a whole number of 1..16777216 "
            "tokens");
}

TEST(TraceReader, ReadsJsonLinesWithTheirBlocks) {
  const auto trace = read(kJsonLines);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->format, TraceFormat::kJsonLines);
  ASSERT_EQ(trace->records.size(), 3U);
  EXPECT_EQ(trace->records[1].at, 500ms);
  EXPECT_EQ(trace->records[2].at, 500500us);
  const auto blocks = trace->blocks_of(trace->records[0]);
  EXPECT_EQ(std::vector<std::uint64_t>(blocks.begin(), blocks.end()),
            (std::vector<std::uint64_t>{0, 46}));
  EXPECT_EQ(trace->blocks_of(trace->records[1]).size(), 1U);
  EXPECT_EQ(trace->blocks_of(trace->records[2]).size(), 0U);
}

TEST(TraceReader, PutsRecordsInOrderAndSaysSo) {
  const auto trace = read("arrived_at,num_prefill_tokens,num_decode_tokens\n5,1,1\n3,2,2\n4,3,3\n");
  ASSERT_TRUE(trace);
  EXPECT_EQ(trace->reordered, 1U);
  EXPECT_EQ(trace->records[0].prompt_tokens, 2U);
  EXPECT_EQ(trace->records[0].at, 0s);
  EXPECT_EQ(trace->records[2].at, 2s);
}

TEST(TraceReader, ReadsGzipAndPlainFilesAlike) {
  for (const std::string& bytes : {std::string(kJsonLines), gzip(kJsonLines)}) {
    const TemporaryFile file(bytes);
    const auto trace = read_trace_file(file.path());
    ASSERT_TRUE(trace) << trace.error().message;
    EXPECT_EQ(trace->records.size(), 3U);
  }
}

TEST(TraceReader, RefusesAFileThatWasCutOff) {
  std::string long_trace = "arrived_at,num_prefill_tokens,num_decode_tokens\n";
  for (int i = 0; i < 1000; ++i) long_trace += std::to_string(i * 7919 % 10007) + ",5,6\n";
  const std::string whole = gzip(long_trace);
  const TemporaryFile file(std::string_view(whole).substr(0, whole.size() / 2));
  const auto trace = read_trace_file(file.path());
  ASSERT_FALSE(trace);
  EXPECT_NE(trace.error().message.find("cut off"), std::string::npos) << trace.error().message;
}

TEST(TraceReader, RefusesWhatIsNoFile) {
  const auto missing = read_trace_file("/nonexistent/trace.csv");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().os_errno, ENOENT);
  const auto directory = read_trace_file("/tmp");
  ASSERT_FALSE(directory);
  EXPECT_EQ(directory.error().message, "/tmp: is a directory, and must be a trace file");
}

TEST(TraceReader, SaysWhereWhatIsWrongAndWhatWouldBeRight) {
  const std::string csv = "arrived_at,num_prefill_tokens,num_decode_tokens\n";
  EXPECT_EQ(failure_of(csv + "0,5,6\n1,abc,6\n"),
            "t:3: num_prefill_tokens \"abc\" is no number; it must be a whole number of "
            "1..16777216 tokens");
  EXPECT_EQ(failure_of(csv + "0,0,6\n"),
            "t:2: num_prefill_tokens \"0\" is 0; it must be a whole number of 1..16777216 tokens");
  EXPECT_EQ(failure_of(csv + "0,1.5,6\n"),
            "t:2: num_prefill_tokens \"1.5\" is 1.5; it must be a whole number of 1..16777216 "
            "tokens");
  EXPECT_EQ(failure_of(csv + "-1,5,6\n"),
            "t:2: arrived_at \"-1\" is -1; it must be a number of 0..1e+09 s");
  EXPECT_EQ(failure_of(csv + "nan,5,6\n"),
            "t:2: arrived_at \"nan\" is nan; it must be a number of 0..1e+09 s");
  EXPECT_EQ(failure_of(csv + "1,5\n"), "t:2: the column num_decode_tokens is missing");
  EXPECT_EQ(failure_of("arrived_at,num_prefill_tokens\n1,2\n"),
            "t:1: no column num_decode_tokens; a trace begins with the line "
            "\"arrived_at,num_prefill_tokens,num_decode_tokens\" or "
            "\"TIMESTAMP,ContextTokens,GeneratedTokens\" (CSV), or with a JSON object");
  EXPECT_EQ(failure_of("arrived_at,arrived_at,num_prefill_tokens,num_decode_tokens\n"),
            "t:1: the column arrived_at is there twice");
  EXPECT_EQ(failure_of(""), "t: there is no request in it");
  EXPECT_EQ(failure_of(csv), "t: there is no request in it");

  EXPECT_EQ(failure_of("{\"timestamp\": 1, \"input_length\": 3}\n"),
            "t:1: the member output_length is missing");
  EXPECT_EQ(failure_of(std::string(kJsonLines) + "{\"timestamp\": 1, \n"),
            "t:5: not JSON (incomplete JSON): \"{\"timestamp\": 1,\"");
  EXPECT_EQ(failure_of(std::string(kJsonLines) + "[1]\n"),
            "t:5: must be an object with timestamp, input_length and output_length, not \"[1]\"");
  EXPECT_EQ(failure_of(R"({"timestamp": "1", "input_length": 3, "output_length": 3})"),
            "t:1: timestamp is no number; it must be a number of 0..1e+12 ms");
  EXPECT_EQ(
      failure_of(R"({"timestamp":1,"input_length":513,"output_length":3,"hash_ids":[1,2,3]})"),
      "t:1: 3 hash_ids for 513 tokens; one stands for 512 tokens, so there are at most 2");
  EXPECT_EQ(failure_of(R"({"timestamp":1,"input_length":513,"output_length":3,"hash_ids":[-1]})"),
            "t:1: hash_ids must be whole numbers of 0 or more");
  EXPECT_EQ(failure_of(R"({"timestamp":1,"input_length":513,"output_length":3,"hash_ids":7})"),
            "t:1: hash_ids must be a list of whole numbers");
  EXPECT_EQ(failure_of("arrived_at\x01\xFF"), failure_of("another header"));
}

TEST(TraceReader, BoundsALine) {
  const std::string endless = std::string(LineSource::kMaxLineBytes + 1, 'x');
  EXPECT_EQ(failure_of(endless), "after line 0: a line is longer than 1 MiB");
  const TemporaryFile file(endless);
  EXPECT_FALSE(read_trace_file(file.path()));
}

/// What a reader must hold of whatever it accepts.
void expect_usable(const Trace& trace) {
  ASSERT_FALSE(trace.records.empty());
  auto before = std::chrono::nanoseconds(0);
  for (const TraceRecord& record : trace.records) {
    ASSERT_GE(record.at, before);
    before = record.at;
    ASSERT_GE(record.prompt_tokens, 1U);
    ASSERT_LE(record.first_block + record.blocks, trace.blocks.size());
  }
}

std::string mutated(std::string text, std::mt19937_64& random) {
  constexpr std::string_view kOften = "0123456789-+.eE,{}[]\":\n\r\t naninfhash_idstruefalsenull\\";
  for (auto changes = 1 + random() % 3; changes > 0 && !text.empty(); --changes) {
    const std::size_t at = random() % text.size();
    switch (random() % 6) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text[at] = kOften[random() % kOften.size()];
        break;
      case 2:
        text.erase(at, 1 + random() % 8);
        break;
      case 3:
        text.insert(at, 1 + random() % 4, kOften[random() % kOften.size()]);
        break;
      case 4:
        text.insert(at, text.substr(random() % text.size(), random() % 40));
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

TEST(TraceReader, SurvivesMutatedTextAndReadsOrRefusesItWithAReason) {
  std::mt19937_64 random(20231);
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = mutated(i % 2 == 0 ? kCsv : kJsonLines, random);
    const auto trace = read(text);
    if (trace) {
      ++accepted;
      expect_usable(*trace);
    } else {
      ++refused;
      ASSERT_EQ(trace.error().code, Code::kInvalidArgument);
      ASSERT_GT(trace.error().message.size(), 10U) << text;
    }
    if (HasFatalFailure()) return;
  }
  // The mutations are neither harmless nor hopeless.
  EXPECT_GT(accepted, 500);
  EXPECT_GT(refused, 5000);
}

TEST(TraceReader, SurvivesMutatedGzip) {
  const std::string whole = gzip(kJsonLines);
  std::mt19937_64 random(20232);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    const TemporaryFile file(mutated(whole, random));
    const auto trace = read_trace_file(file.path());
    if (trace) {
      expect_usable(*trace);
    } else {
      ++refused;
      ASSERT_FALSE(trace.error().message.empty());
    }
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace weir::replay
