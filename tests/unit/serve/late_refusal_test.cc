// SPDX-License-Identifier: Apache-2.0
//
// A refusal that comes after the request was accepted reads like one that came at once.
#include <string>

#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

class LateRefusal : public ServeTest {
 protected:
  void expect_refusal(const std::string& path, const std::string& body) {
    HttpClient http = client();
    http.send_post(path, body);
    const auto [name, request] = executor.next();
    ASSERT_NE(request, nullptr);
    request->listener->on_refused(
        {model::RefusalReason::kQueueFull, "no room", std::chrono::seconds(7)});
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, 429);
    EXPECT_EQ(reply.header("Retry-After"), "7");
    EXPECT_EQ(error_field(reply, "code"), "queue_full");
    EXPECT_EQ(error_field(reply, "message"), "no room");
  }
};

TEST_F(LateRefusal, OfAWholeAnswer) { expect_refusal("/infer", R"({"prompt":"Once"})"); }

TEST_F(LateRefusal, OfAStream) {
  expect_refusal("/v1/completions", R"({"prompt":"Once","stream":true})");
}

}  // namespace
}  // namespace weir::serve
