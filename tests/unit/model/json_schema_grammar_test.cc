// SPDX-License-Identifier: Apache-2.0
#include "agent/model/json_schema_grammar.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "agent/model/grammar.h"
#include "agent/model/grammar_matcher.h"
#include "agent/model/integer_range_grammar.h"

namespace weir::model {
namespace {

std::shared_ptr<const Grammar> compiled(std::string text) {
  auto parsed = Grammar::parse(std::move(text));
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return parsed.ok() ? *parsed : nullptr;
}

std::shared_ptr<const Grammar> of_schema(const std::string& schema) {
  const auto text = json_schema_grammar(boost::json::parse(schema));
  EXPECT_TRUE(text.ok()) << schema << ": " << text.error().message;
  return text.ok() ? compiled(*text) : nullptr;
}

bool matches(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar);
  return matcher.advance(text) && matcher.complete();
}

struct Case {
  std::string schema;
  std::vector<std::string> accepted;
  std::vector<std::string> rejected;
};

TEST(JsonSchemaGrammar, AcceptsAndRejects) {
  const std::vector<Case> cases = {
      {R"({})", {"1", "\"a\"", "[]", "{\"a\":[null,true]}"}, {"", "a", "{\"a\"}", "[1,]"}},
      {R"(true)", {"false"}, {"False"}},
      {R"({"type":"null"})", {"null"}, {"0", "nul"}},
      {R"({"type":"boolean"})", {"true", "false"}, {"1", "truefalse"}},
      {R"({"type":"integer"})",
       {"0", "-7", "1234567890123456"},
       {"01", "1.5", "+1", "12345678901234567", "1e3"}},
      {R"({"type":"integer","minimum":-3,"maximum":120})",
       {"-3", "0", "99", "100", "120"},
       {"-4", "121", "200", "-0", "007", "1000"}},
      {R"({"type":"integer","minimum":1})", {"1", "10", "9007199254740992"}, {"0", "-1"}},
      {R"({"type":"number"})",
       {"0", "-1.5", "2e9", "1.25E-07", "-0"},
       {".5", "1.", "1e", "1e999", "NaN", "--1"}},
      {R"({"type":"string"})",
       {"\"\"", "\"\xC3\xA9\"", R"("\"\\\/\b\n\u00e9")", R"("\ud83d\uDE00")"},
       {"\"", "'a'", "\"\n\"", R"("\x")", R"("\ud83d")", R"("\ude00")", R"("\ud83d\u0041")"}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {"\"ab\"", "\"\xC3\xA9\xC3\xA9\xC3\xA9\"", R"("\n\u0041")"},
       {"\"a\"", "\"abcd\""}},
      {R"({"type":"string","minLength":1})", {"\"a\"", "\"abcdefgh\""}, {"\"\""}},
      {R"({"format":"date"})", {"\"2024-02-28\""}, {"\"2024-13-01\"", "\"24-01-01\""}},
      {R"({"type":"string","format":"date-time"})",
       {"\"2024-12-01T23:59:59Z\"", "\"2024-12-01T00:00:00.25+05:30\""},
       {"\"2024-12-01\"", "\"2024-12-01T24:00:00Z\"", "\"2024-12-01T00:00:00\""}},
      {R"({"type":"string","format":"uuid"})",
       {"\"00112233-4455-6677-8899-aabbccddeeff\""},
       {"\"0011-4455\""}},
      {R"({"enum":["a",2.5,null,{"k":[1]}]})",
       {"\"a\"", "2.5", "null", "{\"k\":[1]}"},
       {"a", "2", "\"b\"", "{\"k\":[2]}"}},
      {R"({"type":"integer","enum":[1,"x",2]})", {"1", "2"}, {"\"x\"", "3"}},
      {R"({"const":"say \"hi\"\\"})", {R"("say \"hi\"\\")"}, {"\"say\""}},
      {R"({"type":["integer","null"]})", {"4", "null"}, {"\"4\"", "true"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"array","items":{"type":"boolean"}}]})",
       {"4", "[true,false]", "[]"},
       {"[4]", "true"}},
      {R"({"oneOf":[{"const":1},{"const":2}],"description":"d"})", {"1", "2"}, {"3"}},
      {R"({"allOf":[{"type":"null"}]})", {"null"}, {"1"}},
      {R"({"type":"array"})", {"[]", "[1,\"a\",{}]", "[ 1, 2 ]"}, {"[1 2]", "[,]"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3})",
       {"[1,2]", "[1, 2, 3]"},
       {"[]", "[1]", "[1,2,3,4]", "[1,\"2\"]"}},
      {R"({"items":{"type":"integer"},"maxItems":1})", {"[]", "[1]"}, {"[1,2]"}},
      {R"({"items":{"type":"integer"},"minItems":1,"maxItems":1})", {"[1]"}, {"[]", "[1,2]"}},
      {R"({"type":"array","items":false})", {"[]", "[ ]"}, {"[1]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
       {"[1,\"a\"]"},
       {"[1]", "[\"a\",1]", "[1,\"a\",2]"}},
      {R"({"prefixItems":[{"type":"integer"}],"items":{"type":"null"},"minItems":2,"maxItems":3})",
       {"[1,null]", "[1,null,null]"},
       {"[1]", "[1,null,null,null]", "[null,null]"}},
      {R"({"type":"object"})", {"{}", "{\"a\":1,\"b\":{}}"}, {"{a:1}", "[]"}},
      {R"({"type":"object","additionalProperties":false})", {"{}"}, {"{\"a\":1}"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"},"minProperties":1,)"
       R"("maxProperties":2})",
       {"{\"a\":1}", "{\"a\":1,\"b\":2}"},
       {"{}", "{\"a\":\"x\"}", "{\"a\":1,\"b\":2,\"c\":3}"}},
      // Order, and which may be left out.
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"null"},"c":{"type":"boolean"}},)"
       R"("required":["b"],"additionalProperties":false})",
       {"{\"b\":null}", "{\"a\":1,\"b\":null}", "{ \"a\": 1,\n \"b\" : null , \"c\":true }",
        "{\"b\":null,\"c\":false}"},
       {"{}", "{\"a\":1}", "{\"b\":null,\"a\":1}", "{\"b\":null,}", "{,\"b\":null}",
        "{\"a\":1,\"c\":true}", "{\"b\":null,\"d\":1}", "{\"b\":null,\"b\":null}"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"integer"}}})",
       {"{}", "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}"},
       {"{\"b\":1,\"a\":2}", "{\"a\":1\"b\":2}", "{\"c\":1}"}},
      {R"({"properties":{"ab":{"type":"integer"},"a\"c":{"type":"integer"},"":{"const":0}},)"
       R"("required":["ab"],"additionalProperties":{"type":"null"}})",
       {"{\"ab\":1}", "{\"ab\":1,\"x\":null}", "{\"ab\":1,\"a\":null,\"abc\":null}",
        "{\"ab\":1,\"a\\\"c\":2,\"\":0,\"ac\":null,\"]-[^\":null}"},
       {"{\"ab\":1,\"ab\":null}", "{\"ab\":1,\"x\":1}", "{\"x\":null}", "{\"ab\":1,\"\":null}",
        "{\"ab\":1,\"\\u0061b\":null}"}},
      {R"({"properties":{"\u00e9]":{"const":1}},"additionalProperties":{"const":2}})",
       {"{\"\xC3\xA9]\":1}", "{\"\xC3\xA9\":2}", "{\"\xC3\xAA]\":2}", "{}"},
       {"{\"\xC3\xA9]\":2}"}},
      {R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{)"
       R"("v":{"type":"integer"},"next":{"$ref":"#/$defs/n"}},"required":["v"]}}})",
       {"{\"v\":1}", "{\"v\":1,\"next\":{\"v\":2,\"next\":{\"v\":3}}}"},
       {"{\"next\":{\"v\":1}}", "{\"v\":1,\"next\":{}}"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"array","items":{"$ref":"#"}}]})",
       {"1", "[[[1],2]]"},
       {"[\"a\"]"}},
      {R"({"$ref":"#/definitions/a~1b~0c","definitions":{"a/b~c":{"const":5}}})", {"5"}, {"6"}},
  };
  for (const Case& one : cases) {
    const auto grammar = of_schema(one.schema);
    ASSERT_NE(grammar, nullptr) << one.schema;
    for (const std::string& text : one.accepted) {
      EXPECT_TRUE(matches(grammar, text)) << one.schema << " on " << text;
    }
    for (const std::string& text : one.rejected) {
      EXPECT_FALSE(matches(grammar, text)) << one.schema << " on " << text;
    }
  }
}

TEST(JsonSchemaGrammar, AnyObjectIsAnObject) {
  const auto grammar = compiled(json_object_grammar());
  EXPECT_TRUE(matches(grammar, R"({"a": [1, {"b": null}], "c": "\n"})"));
  EXPECT_FALSE(matches(grammar, "[]"));
  EXPECT_FALSE(matches(grammar, "1"));
}

TEST(JsonSchemaGrammar, RefusesWithThePlaceAndWhatWouldBeRight) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"(1)", "schema at #: must be a schema: an object, or true"},
      {R"(false)", "schema at #: false allows nothing; give a schema of what is allowed"},
      {R"({"type":"text"})",
       "schema at #/type: must be object, array, string, number, integer, boolean or null, or a "
       "list of them"},
      {R"({"type":[]})", "schema at #/type: must name a type"},
      {R"({"properties":{"a/b":{"type":"array","uniqueItems":true}}})",
       "schema at #/properties/a~1b: \"uniqueItems\" is not supported with this \"type\": leave it "
       "out"},
      {R"({"type":"string","pattern":"^a"})",
       "schema at #: \"pattern\" is not supported with this \"type\": leave it out"},
      {R"({"type":"number","minimum":1})",
       "schema at #: \"minimum\" is not supported with this \"type\": leave it out"},
      {R"({"not":{}})", "schema at #: \"not\" is not supported without \"type\": leave it out"},
      {R"({"type":"string","format":"email"})",
       "schema at #/format: must be date, time, date-time or uuid: others are not supported, leave "
       "it out"},
      {R"({"type":"string","minLength":3,"maxLength":2})",
       "schema at #: \"maxLength\" is below \"minLength\""},
      {R"({"type":"string","minLength":-1})",
       "schema at #/minLength: must be an integer in 0..100000"},
      {R"({"type":"integer","minimum":2,"maximum":1})",
       "schema at #: \"maximum\" is below \"minimum\""},
      {R"({"type":"integer","minimum":1.5})",
       "schema at #/minimum: must be an integer in -9007199254740992..9007199254740992"},
      {R"({"enum":[]})", "schema at #/enum: must be a list of at least one value"},
      {R"({"type":"null","enum":[1]})", "schema at #: no value of it is of its \"type\""},
      {R"({"anyOf":[]})", "schema at #/anyOf: must be a list of at least one schema"},
      {R"({"anyOf":[{"type":"null"},{"type":3}]})",
       "schema at #/anyOf/1/type: must be object, array, string, number, integer, boolean or null, "
       "or a list of them"},
      {R"({"anyOf":[{}],"type":"object"})",
       "schema at #: \"type\" is not supported beside \"anyOf\": leave it out"},
      {R"({"allOf":[{},{}]})",
       "schema at #: \"allOf\" is supported with one schema only: merge them into one"},
      {R"({"$ref":"http://x"})",
       "schema at #: \"$ref\" must point into this schema, as #/$defs/name, not http://x"},
      {R"({"items":{"$ref":"#/$defs/none"}})",
       "schema at #/items: \"$ref\" must point into this schema, as #/$defs/name, not "
       "#/$defs/none"},
      {R"({"type":"object","properties":{"a":{}},"required":["b"]})",
       "schema at #/required: \"b\" is not among \"properties\": describe it there"},
      {R"({"type":"object","required":["b"]})",
       "schema at #: \"required\" names what \"properties\" does not have: describe it there"},
      {R"({"properties":{"a":{}},"minProperties":1})",
       "schema at #: \"minProperties\" and \"maxProperties\" are not supported beside "
       "\"properties\": leave them out"},
      {R"({"prefixItems":[{},{}],"maxItems":1})",
       "schema at #: its length must allow for the 2 of \"prefixItems\""},
  };
  for (const auto& [schema, message] : cases) {
    const auto grammar = json_schema_grammar(boost::json::parse(schema));
    ASSERT_FALSE(grammar.ok()) << schema;
    EXPECT_EQ(grammar.error().code, Code::kInvalidArgument);
    EXPECT_EQ(grammar.error().message, message) << schema;
  }
}

TEST(JsonSchemaGrammar, EndlessSchemasAreRefused) {
  // Only itself: the grammar says so.
  const auto loop = json_schema_grammar(boost::json::parse(R"({"$ref":"#"})"));
  ASSERT_TRUE(loop.ok());
  EXPECT_FALSE(Grammar::parse(*loop).ok());

  std::string deep = R"({"type":"null"})";
  for (int i = 0; i < 80; ++i) deep = R"({"items":)" + deep + "}";
  boost::json::parse_options options;
  options.max_depth = 200;
  const auto nested = json_schema_grammar(boost::json::parse(deep, {}, options));
  ASSERT_FALSE(nested.ok());
  EXPECT_NE(nested.error().message.find("nested deeper than 64"), std::string::npos);

  std::string wide = R"({"properties":{"a0":{})";
  for (int i = 1; i < 4000; ++i) wide += ",\"a" + std::to_string(i) + "\":{}";
  const auto large = json_schema_grammar(boost::json::parse(wide + "}}"));
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().message,
            "schema: it is too large: its grammar has more than 65536 bytes");

  const std::string name(3000, 'n');
  const auto long_name = json_schema_grammar(
      boost::json::parse(R"({"properties":{")" + name + R"(":{}},"additionalProperties":true})"));
  ASSERT_FALSE(long_name.ok());
  EXPECT_EQ(long_name.error().message,
            "schema at #/additionalProperties: beside a property's name of 3000 bytes it is not "
            "supported, of 256 at most");
}

TEST(IntegerRange, HoldsExactlyItsNumbers) {
  std::mt19937 random(7);
  const auto one_of = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int round = 0; round < 60; ++round) {
    const std::int64_t wide = round < 40 ? 1300 : kMaxIntegerBound;
    std::int64_t min = one_of(-wide, wide);
    std::int64_t max = one_of(-wide, wide);
    if (min > max) std::swap(min, max);
    const auto grammar = compiled("root ::= " + integer_range_grammar(min, max));
    ASSERT_NE(grammar, nullptr);
    const auto check = [&](std::int64_t number) {
      EXPECT_EQ(matches(grammar, std::to_string(number)), number >= min && number <= max)
          << number << " in " << min << ".." << max;
    };
    for (const std::int64_t edge : {min, max}) {
      for (std::int64_t by = -2; by <= 2; ++by) check(edge + by);
    }
    for (int i = 0; i < 200; ++i) check(one_of(-wide, wide));
    EXPECT_FALSE(matches(grammar, "-0"));
    EXPECT_FALSE(matches(grammar, "00"));
  }
}

}  // namespace
}  // namespace weir::model
