// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/response_reader.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace weir::replay {
namespace {

using State = ResponseReader::State;

std::string response(int status, const std::string& body, const std::string& more = "") {
  return "HTTP/1.1 " + std::to_string(status) + " X\r\n" + more +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::string chunked(const std::vector<std::string>& chunks) {
  std::string out =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  for (const std::string& chunk : chunks) {
    char size[20];
    std::snprintf(size, sizeof(size), "%zx\r\n", chunk.size());
    out += size + chunk + "\r\n";
  }
  return out + "0\r\n\r\n";
}

const std::vector<std::string> kStream{
    "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\n\n", ": a comment\n\n",
    "data: {\"choices\":[{\"text\":\"b\"}]}\r\n\r\ndata: {\"choices\":[{\"text\":\"c\"}]}\n\n",
    "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":9}}\n\n"
    "data: [DONE]\n\n"};

TEST(ResponseReader, ReadsUsageOfAnAnswer) {
  ResponseReader reader;
  ASSERT_EQ(reader.put(response(200, R"({"usage":{"prompt_tokens":3,"completion_tokens":5}})",
                                "X-Weir-Degraded: cached\r\n")),
            State::kDone);
  const Answer answer = reader.answer();
  EXPECT_EQ(answer.kind, Answer::Kind::kOk);
  EXPECT_EQ(answer.prompt_tokens, 3U);
  EXPECT_EQ(answer.completion_tokens, 5U);
  EXPECT_TRUE(answer.degraded);
  EXPECT_TRUE(reader.keep_alive());
}

TEST(ResponseReader, KeepsWhatARefusalOrAnErrorSays) {
  const auto said = [](int status, const std::string& body) {
    ResponseReader reader;
    EXPECT_EQ(reader.put(response(status, body)), State::kDone);
    return reader.answer().message;
  };
  EXPECT_EQ(said(404, R"({"error":{"code":"unknown_url","message":"there is no POST /x"}})"),
            "there is no POST /x");
  EXPECT_EQ(said(429, R"({"error":{"code":"queue_full","message":"full\nof\u00e4 it"}})"),
            "full?of?? it");
  EXPECT_EQ(said(500, R"({"error":"plain"})"), "plain");
  EXPECT_EQ(said(500, R"({"error":{"message":7}})"), "");
  EXPECT_EQ(said(502, "<html>"), "");
  EXPECT_EQ(said(500, R"({"error":{"message":")" + std::string(1000, 'x') + R"("}})").size(), 240U);
  EXPECT_EQ(said(200, R"({"error":{"message":"no"}})"), "");
  ResponseReader stream;
  ASSERT_EQ(stream.put(chunked({"data: {\"error\":{\"code\":\"c\",\"message\":\"m\"}}\n\n"})),
            State::kDone);
  EXPECT_EQ(stream.answer().reason, "stream_error c");
  EXPECT_EQ(stream.answer().message, "m");
}

TEST(ResponseReader, PassesOverInterimResponses) {
  const std::string interim =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
  const std::string whole =
      interim + response(200, R"({"usage":{"prompt_tokens":3,"completion_tokens":5}})");
  for (std::size_t size = 1; size <= whole.size(); ++size) {
    ResponseReader reader;
    for (std::size_t at = 0; at < whole.size(); at += size) {
      ASSERT_EQ(reader.put(std::string_view(whole).substr(at, size)),
                at + size >= whole.size() ? State::kDone : State::kMore)
          << size;
      if (at + size == interim.size()) {
        EXPECT_FALSE(reader.begun());
      }
    }
    EXPECT_EQ(reader.answer().completion_tokens, 5U);
    EXPECT_TRUE(reader.keep_alive());
  }
}

TEST(ResponseReader, AnErrorOfNullIsNone) {
  ResponseReader reader;
  ASSERT_EQ(reader.put(chunked(
                {"data: {\"error\":null,\"choices\":[{\"text\":\"a\"}]}\n\n", "data: [DONE]\n\n"})),
            State::kDone);
  EXPECT_EQ(reader.answer().kind, Answer::Kind::kOk);
  EXPECT_EQ(reader.answer().completion_tokens, 1U);
}

TEST(ResponseReader, TellsRefusalsFromErrors) {
  const auto read = [](int status, const std::string& body) {
    ResponseReader reader;
    EXPECT_EQ(reader.put(response(status, body)), State::kDone);
    return reader.answer();
  };
  const Answer full = read(429, R"({"error":{"code":"queue_full","type":"rate_limit_error"}})");
  EXPECT_EQ(full.kind, Answer::Kind::kRefused);
  EXPECT_EQ(full.reason, "429 queue_full");
  EXPECT_EQ(read(503, R"({"error":{"code":"draining"}})").reason, "503 draining");
  EXPECT_EQ(read(503, R"({"error":{"code":503,"type":"unavailable_error"}})").reason,
            "503 unavailable_error");
  EXPECT_EQ(read(429, "busy").reason, "429 no_code");
  const Answer wrong = read(400, R"({"error":{"code":"invalid value"}})");
  EXPECT_EQ(wrong.kind, Answer::Kind::kError);
  EXPECT_EQ(wrong.reason, "400 invalid_value");
  EXPECT_EQ(read(200, "no json").reason, "200 not_json");
}

TEST(ResponseReader, ReadsResponsesInPiecesOfAnySize) {
  const std::string whole = chunked(kStream);
  for (std::size_t size = 1; size <= whole.size(); ++size) {
    ResponseReader reader;
    std::uint32_t texts = 0;
    for (std::size_t at = 0; at < whole.size(); at += size) {
      const State state = reader.put(std::string_view(whole).substr(at, size));
      texts += reader.new_texts();
      ASSERT_EQ(state, at + size >= whole.size() ? State::kDone : State::kMore) << size;
    }
    EXPECT_EQ(texts, 3U);
    EXPECT_EQ(reader.answer().kind, Answer::Kind::kOk);
    EXPECT_EQ(reader.answer().prompt_tokens, 4U);
    EXPECT_EQ(reader.answer().completion_tokens, 9U);
  }
}

TEST(ResponseReader, ReadsOneResponseAfterTheOther) {
  ResponseReader reader;
  EXPECT_FALSE(reader.begun());
  ASSERT_EQ(reader.put(chunked(kStream)), State::kDone);
  reader.begin();
  EXPECT_FALSE(reader.begun());
  ASSERT_EQ(reader.put(response(200, "{}", "Connection: close\r\n")), State::kDone);
  EXPECT_EQ(reader.answer().completion_tokens, 0U);
  EXPECT_FALSE(reader.keep_alive());
}

TEST(ResponseReader, SeesAStreamThatBrokeOff) {
  ResponseReader cut;
  ASSERT_EQ(cut.put(chunked({kStream[0]})), State::kDone);
  EXPECT_EQ(cut.answer().reason, "stream_cut");
  ResponseReader failed;
  ASSERT_EQ(failed.put(chunked({kStream[0], "data: {\"error\":{\"code\":\"deadline\"}}\n\n"})),
            State::kDone);
  EXPECT_EQ(failed.answer().reason, "stream_error deadline");
}

TEST(ResponseReader, CountsEventsWhereThereIsNoUsage) {
  ResponseReader reader;
  ASSERT_EQ(reader.put(chunked({kStream[0], kStream[2], "data: [DONE]\n\n"})), State::kDone);
  EXPECT_EQ(reader.answer().completion_tokens, 3U);
}

TEST(ResponseReader, EndOfTheConnectionEndsABodyWithoutLength) {
  ResponseReader reader;
  ASSERT_EQ(reader.put("HTTP/1.1 200 OK\r\n\r\n{}"), State::kMore);
  EXPECT_EQ(reader.put_end(), State::kDone);
  EXPECT_EQ(reader.answer().kind, Answer::Kind::kOk);
  ResponseReader cut;
  ASSERT_EQ(cut.put("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"), State::kMore);
  EXPECT_EQ(cut.put_end(), State::kMalformed);
}

TEST(ResponseReader, RefusesWhatIsNoResponse) {
  for (const std::string& bytes :
       {std::string("SSH-2.0-x\r\n\r\n"), std::string("HTTP/1.1 abc\r\n\r\n"),
        response(200, "{}") + "more", "HTTP/1.1 200 OK\r\nX: " + std::string(70000, 'x')}) {
    ResponseReader reader;
    EXPECT_EQ(reader.put(bytes), State::kMalformed) << bytes.substr(0, 40);
  }
}

TEST(ResponseReader, SurvivesMutatedResponses) {
  std::mt19937_64 random(5);
  int done = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = i % 2 == 0 ? chunked(kStream) : response(429, R"({"error":{"code":"x"}})");
    for (auto changes = 1 + random() % 4; changes > 0; --changes) {
      const std::size_t at = random() % bytes.size();
      if (random() % 2 == 0) {
        bytes[at] = static_cast<char>(random());
      } else {
        bytes.erase(at, 1 + random() % 3);
      }
    }
    ResponseReader reader;
    State state = State::kMore;
    const std::size_t step = 1 + random() % bytes.size();
    for (std::size_t at = 0; at < bytes.size() && state == State::kMore; at += step) {
      state = reader.put(std::string_view(bytes).substr(at, step));
    }
    if (state == State::kMore) state = reader.put_end();
    if (state == State::kDone) {
      ++done;
      ASSERT_LT(reader.answer().reason.size(), 100U);
    }
  }
  EXPECT_GT(done, 1000);
}

}  // namespace
}  // namespace weir::replay
