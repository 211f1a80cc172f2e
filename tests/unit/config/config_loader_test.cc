// SPDX-License-Identifier: Apache-2.0
#include "agent/config/config_loader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace weir::config {
namespace {

const char* const kShipped = "deploy/config/weir.yaml";
const std::string kService = R"(services:
  - name: chat
    address: 127.111.0.10:8000
    backends:
      - address: 127.0.0.1:9001
)";

std::string message_of(const std::string& text) {
  const auto config = parse_config(text, "weir.yaml");
  if (config) return "accepted";
  EXPECT_EQ(config.error().code, Code::kInvalidArgument);
  return config.error().message;
}

TEST(ConfigLoader, LoadsTheShippedConfiguration) {
  const auto config = load_config(kShipped);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->serve().http(), "127.0.0.1:8080");
  ASSERT_EQ(config->services_size(), 1);
  EXPECT_EQ(config->services(0).name(), "stories");
  EXPECT_EQ(config->services(0).address(), "127.111.0.10:8000");
  ASSERT_EQ(config->services(0).backends_size(), 1);
  EXPECT_TRUE(config->services(0).backends(0).local());
  ASSERT_EQ(config->models_size(), 1);
  EXPECT_EQ(config->models(0).name(), "tiny-stories");
  EXPECT_EQ(config->models(0).path(),
            std::filesystem::absolute("deploy/models/tiny-stories-1m-q8_0.gguf").string());
}

TEST(ConfigLoader, FillsInEveryDefault) {
  const auto config = parse_config(kService, "weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->serve().http(), "127.0.0.1:8080");
  EXPECT_GE(config->serve().io_threads(), 1U);
  EXPECT_EQ(config->serve().max_body_bytes(), 1048576U);
  EXPECT_EQ(config->serve().max_connections(), 16384U);
  EXPECT_EQ(config->serve().drain_timeout_seconds(), 30U);
  EXPECT_TRUE(config->kernel().enabled());
  EXPECT_EQ(config->kernel().pin_root(), "/sys/fs/bpf/weir");
  EXPECT_EQ(config->kernel().cgroup(), "");
  EXPECT_EQ(config->kernel().request_clock(), weir::v1::AUTO);
  EXPECT_EQ(config->services(0).when_empty(), weir::v1::PASS);
  EXPECT_EQ(config->services(0).policy(), weir::v1::PREQUAL);
  EXPECT_FALSE(config->services(0).end_idle_when_open());
  EXPECT_TRUE(config->services(0).backup_backends().empty());
  EXPECT_EQ(config->services(0).backends(0).weight(), 1.0);
  EXPECT_EQ(config->control().tick_ms(), 1000U);
  EXPECT_EQ(config->control().latency_tau_ms(), 10000U);
  EXPECT_EQ(config->control().open_after_failures(), 3U);
  EXPECT_EQ(config->control().open_ms(), 5000U);
  EXPECT_EQ(config->control().max_open_ms(), 60000U);
  EXPECT_EQ(config->log().level(), "info");
}

TEST(ConfigLoader, FillsInTheDefaultsOfAModel) {
  const auto config = parse_config("models: [{name: m, path: weir.yaml}]", kShipped);
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto& model = config->models(0);
  EXPECT_EQ(model.max_sequences(), 8U);
  EXPECT_EQ(model.max_queue(), 256U);
  EXPECT_FALSE(model.has_threads());  // the engine chooses, by the size of the file
  EXPECT_FALSE(model.has_context_tokens());
  EXPECT_FALSE(model.preload());
  EXPECT_EQ(model.path(), std::filesystem::absolute(kShipped).string());
}

TEST(ConfigLoader, KeepsWhatTheFileSays) {
  const auto config = parse_config(R"(
serve: {http: "[::1]:0", io_threads: 256, max_body_bytes: 1073741824, drain_timeout_seconds: 0}
kernel: {enabled: false, cgroup: /sys/fs/cgroup, pin_root: /sys/fs/bpf/x, request_clock: skb}
services:
  - {name: a, address: "[fd00::2]:80", when_empty: refuse, backends: [{local: true}]}
  - {name: b, address: "[fd00::1]:80", backends: [{address: "[::1]:1", weight: 0.01}]}
control: {tick_ms: 100, open_ms: 200, max_open_ms: 200}
log: {level: debug}
)",
                                   "weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->serve().http(), "[::1]:0");
  EXPECT_EQ(config->serve().io_threads(), 256U);
  EXPECT_EQ(config->serve().max_body_bytes(), 1073741824U);
  EXPECT_EQ(config->serve().drain_timeout_seconds(), 0U);
  EXPECT_FALSE(config->kernel().enabled());
  EXPECT_EQ(config->kernel().cgroup(), "/sys/fs/cgroup");
  EXPECT_EQ(config->kernel().request_clock(), weir::v1::SKB);
  EXPECT_EQ(config->services(0).when_empty(), weir::v1::REFUSE);
  EXPECT_EQ(config->services(1).backends(0).weight(), 0.01);
  EXPECT_EQ(config->control().max_open_ms(), 200U);
  EXPECT_EQ(config->log().level(), "debug");
}

TEST(ConfigLoader, AcceptsJsonAndEmptySections) {
  EXPECT_EQ(message_of(R"({"kernel": {"request_clock": "SKB"}, "services": []})"), "accepted");
  EXPECT_EQ(message_of("serve:\nservices:\n# nothing yet\n"), "accepted");
  EXPECT_EQ(message_of(""), "accepted");
}

struct Fault {
  const char* name;
  std::string text;
  std::string message;
};

class ConfigFault : public testing::TestWithParam<Fault> {};

TEST_P(ConfigFault, IsReportedWithPlaceFieldValueAndLimit) {
  EXPECT_EQ(message_of(GetParam().text), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigFault,
    testing::Values(
        Fault{"UnknownField", "serve:\n  htpp: 127.0.0.1:0\n",
              "weir.yaml:2:3: serve: unknown field \"htpp\", did you mean \"http\"?"},
        Fault{"UnknownSection", "servises: []\n",
              "weir.yaml:1:1: unknown field \"servises\", did you mean \"services\"?"},
        Fault{"UnknownFieldUnlikeAny", "serve:\n  colour: red\n",
              "weir.yaml:2:3: serve: unknown field \"colour\""},
        Fault{"RepeatedKey", "log:\n  level: info\n  level: warn\n",
              "weir.yaml:3:3: log.level: is given twice, first in line 2"},
        Fault{"NotAWholeNumber", "control:\n  tick_ms: often\n",
              "weir.yaml:2:12: control.tick_ms: \"often\" is not a whole number"},
        Fault{"Fraction", "control:\n  tick_ms: 100.5\n",
              "weir.yaml:2:12: control.tick_ms: \"100.5\" is not a whole number"},
        Fault{"QuotedNumber", "control:\n  tick_ms: \"1000\"\n",
              "weir.yaml:2:12: control.tick_ms: expected a number, got the string \"1000\""},
        Fault{"Negative", "control:\n  tick_ms: -100\n",
              "weir.yaml:2:12: control.tick_ms: -100 is out of range (100..60000)"},
        Fault{"TooSmall", "control:\n  tick_ms: 99\n",
              "weir.yaml:2:12: control.tick_ms: 99 is out of range (100..60000)"},
        Fault{"BeyondTheType", "serve:\n  max_body_bytes: 99999999999999999999999\n",
              "weir.yaml:2:19: serve.max_body_bytes: 99999999999999999999999 is out of range "
              "(1024..1073741824)"},
        Fault{"Weight", kService + "        weight: 1001\n",
              "weir.yaml:6:17: services[0].backends[0].weight: 1001 is out of range (0.01..1000)"},
        Fault{"WeightNotFinite", kService + "        weight: nan\n",
              "weir.yaml:6:17: services[0].backends[0].weight: \"nan\" is not a number"},
        Fault{"NotABool", "kernel:\n  enabled: yes\n",
              "weir.yaml:2:12: kernel.enabled: \"yes\" is not true or false"},
        Fault{"NoSuchName", "kernel:\n  request_clock: skp\n",
              "weir.yaml:2:18: kernel.request_clock: \"skp\" is not one of auto, tracepoint, skb, "
              "none, "
              "did you mean \"skb\"?"},
        Fault{"ListForValue", "log:\n  level: [info]\n",
              "weir.yaml:2:10: log.level: expected a single value, got a list"},
        Fault{"NothingForValue", "log:\n  level:\n",
              "weir.yaml:2:3: log.level: expected a single value, got nothing"},
        Fault{"ValueForMessage", "serve: 8080\n",
              "weir.yaml:1:8: serve: expected fields (name: value), got \"8080\""},
        Fault{"MappingForList", "models: {name: m}\n",
              "weir.yaml:1:9: models: expected a list (- item), got a mapping"},
        Fault{"NotAMapping", "- serve\n",
              "weir.yaml:1:1: expected fields (name: value), got a list"},
        Fault{"LogLevel", "log:\n  level: inof\n",
              "weir.yaml:2:10: log.level: \"inof\" is not one of trace, debug, info, warn, error, "
              "did you mean \"info\"?"},
        Fault{"OpenLongerThanMax", "control:\n  open_ms: 6000\n  max_open_ms: 5000\n",
              "weir.yaml:3:16: control.max_open_ms: max_open_ms (5000) is less than open_ms "
              "(6000)"},
        Fault{"OpenLongerThanDefaultMax", "control:\n  open_ms: 60001\n",
              "weir.yaml:2:12: control.open_ms: max_open_ms (60000) is less than open_ms (60001)"},
        Fault{"RelativePinRoot", "kernel:\n  pin_root: weir\n",
              "weir.yaml:2:13: kernel.pin_root: \"weir\" is not an absolute path"},
        Fault{"Endpoint", "serve:\n  http: localhost:80\n",
              "weir.yaml:2:9: serve.http: \"localhost:80\" is not an endpoint: the address is "
              "neither IPv4 nor IPv6 in brackets (expected ADDRESS:PORT, as in 127.0.0.1:8080 or "
              "[::1]:8080)"},
        Fault{"ServiceNameCharacters",
              "services:\n  - name: Chat\n    address: 127.111.0.1:80\n    backends: [{local: "
              "true}]\n",
              "weir.yaml:2:11: services[0].name: \"Chat\" is not 1..31 characters of [a-z0-9-]"},
        Fault{"NoBackends",
              "services:\n  - name: a\n    address: 127.111.0.1:80\n    backends: []\n",
              "weir.yaml:4:15: services[0].backends: 0 items are out of range (1..16384)"},
        Fault{"NothingInAService", "services:\n  - {}\n",
              "weir.yaml:2:5: services[0].name: is missing\n"
              "weir.yaml:2:5: services[0].address: is missing\n"
              "weir.yaml:2:5: services[0].backends: 0 items are out of range (1..16384)"},
        Fault{"LocalWithAddress", kService + "        local: true\n",
              "weir.yaml:5:18: services[0].backends[0].address: must be left out when local is "
              "true"},
        Fault{"TwoLocal", kService + "      - local: true\n      - local: true\n",
              "weir.yaml:7:16: services[0].backends[2].local: only one backend of a service is "
              "local, here services[0].backends[1]"},
        Fault{"NeitherLocalNorAddress", kService + "      - weight: 2\n",
              "weir.yaml:6:9: services[0].backends[1].address: is missing (or set local: true)"},
        Fault{"SameBackendTwice", kService + "      - address: \"[::ffff:127.0.0.1]:9001\"\n",
              "weir.yaml:6:18: services[0].backends[1].address: \"[::ffff:127.0.0.1]:9001\" is "
              "used twice, first by services[0].backends[0].address"},
        Fault{"BackupIsABackendToo",
              kService + "    backup_backends:\n      - address: "
                         "127.0.0.1:9001\n        weight: 1001\n",
              "weir.yaml:7:18: services[0].backup_backends[0].address: \"127.0.0.1:9001\" is used "
              "twice, first by services[0].backends[0].address\nweir.yaml:8:17: "
              "services[0].backup_backends[0].weight: 1001 is out of range (0.01..1000)"},
        Fault{"BackupIsLocalToo",
              kService + "      - local: true\n    backup_backends: [{local: true}]\n",
              "weir.yaml:7:31: services[0].backup_backends[0].local: only one backend of a service "
              "is local, here services[0].backends[1]"},
        Fault{"BackupOfOtherFamily", kService + "    backup_backends: [{address: \"[::1]:9\"}]\n",
              "weir.yaml:6:33: services[0].backup_backends[0].address: \"[::1]:9\" and the service "
              "address \"127.111.0.10:8000\" are not of one family: connect() cannot turn IPv4 "
              "into IPv6 or back"},
        Fault{"NameTooLongForABackup",
              "services:\n  - name: a234567890123456789012345\n    address: 127.111.0.1:80\n    "
              "backends: [{local: true}]\n    backup_backends: [{address: \"127.0.0.1:9\"}]\n",
              "weir.yaml:2:11: services[0].name: \"a234567890123456789012345\" is longer than the "
              "24 characters that leave room for the name of its backup pool"},
        Fault{"NoSuchPolicy", kService + "    policy: round-robin\n",
              "weir.yaml:6:13: services[0].policy: \"round-robin\" is not one of prequal, p2c, "
              "weighted_random, round_robin, least_inflight, composite, did you mean "
              "\"round_robin\"?"},
        Fault{"OtherFamily", kService + "      - address: \"[::1]:9001\"\n",
              "weir.yaml:6:18: services[0].backends[1].address: \"[::1]:9001\" and the service "
              "address \"127.111.0.10:8000\" are not of one family: connect() cannot turn IPv4 "
              "into IPv6 or back"},
        Fault{"LocalOfOtherFamily",
              "serve: {http: \"[::]:8080\"}\n" + kService + "      - local: true\n",
              "weir.yaml:7:16: services[0].backends[1].local: serve.http \"[::]:8080\" is IPv6, "
              "which connections to the IPv4 service address \"127.111.0.10:8000\" cannot reach"},
        Fault{"SameServiceTwice",
              kService + "  - name: chat\n    address: 127.111.0.10:8000\n    backends: [{local: "
                         "true}]\n",
              "weir.yaml:6:11: services[1].name: \"chat\" is used twice, first by "
              "services[0].name\nweir.yaml:7:14: services[1].address: \"127.111.0.10:8000\" is "
              "used twice, first by services[0].address"},
        Fault{"ModelFileMissing", "models:\n  - name: m\n    path: /nonexistent/m.gguf\n",
              "weir.yaml:3:11: models[0].path: \"/nonexistent/m.gguf\" cannot be read: No such "
              "file or directory"},
        Fault{"ModelFileIsAFolder", "models:\n  - name: m\n    path: /proc\n",
              "weir.yaml:3:11: models[0].path: \"/proc\" cannot be read: not a regular file"},
        Fault{"ModelName", "models:\n  - name: \"a b\"\n    path: /proc/version\n",
              "weir.yaml:2:11: models[0].name: \"a b\" is not 1..128 characters of "
              "[A-Za-z0-9._-]"},
        Fault{"SameModelTwice",
              "models:\n  - {name: m, path: /proc/version}\n  - {name: m, path: /proc/version}\n",
              "weir.yaml:3:12: models[1].name: \"m\" is used twice, first by models[0].name"},
        Fault{"TwoDocuments", "log: {level: info}\n---\nlog: {level: warn}\n",
              "weir.yaml:2:1: a second document begins here; one is allowed"},
        Fault{"ControlBytes", "log:\n  level: \"a\\e[31m\"\n",
              "weir.yaml:2:10: log.level: \"a\\x1b[31m\" is not one of trace, debug, info, warn, "
              "error"}),
    [](const auto& fault) { return fault.param.name; });

TEST(ConfigLoader, ReportsAllProblemsInTheOrderOfTheFile) {
  EXPECT_EQ(message_of("log: {level: loud}\ncontrol:\n  tick_ms: 1\n  tik: 2\nserve: {http: x}\n"),
            "weir.yaml:1:14: log.level: \"loud\" is not one of trace, debug, info, warn, error\n"
            "weir.yaml:3:12: control.tick_ms: 1 is out of range (100..60000)\n"
            "weir.yaml:4:3: control: unknown field \"tik\"\n"
            "weir.yaml:5:15: serve.http: \"x\" is not an endpoint: the port is missing (expected "
            "ADDRESS:PORT, as in 127.0.0.1:8080 or [::1]:8080)");
}

TEST(ConfigLoader, SyntaxErrorsHaveAPlace) {
  EXPECT_EQ(message_of("serve:\n  http: [1\nlog: {\n").find("weir.yaml:3:"), 0U);
  EXPECT_EQ(message_of("serve:\n\thttp: 127.0.0.1:0\n"),
            "weir.yaml:2:6: a tab in the indentation, where YAML takes blanks only (illegal map "
            "value)");
  EXPECT_EQ(message_of(std::string("serve:\n  http: \0", 16)),
            "weir.yaml:2:1: a zero byte: this is no text file");
}

TEST(ConfigLoader, ReadsEverythingAboutAService) {
  const auto config = parse_config(R"(
kernel: {request_clock: none}
services:
  - {name: a23456789012345678901234, address: "127.111.0.1:80", policy: least_inflight,
     end_idle_when_open: true, backends: [{address: "127.0.0.1:1"}],
     backup_backends: [{local: true, weight: 2}, {address: "127.0.0.1:2"}]}
  - {name: b, address: "127.111.0.2:80", policy: composite, backends: [{address: "127.0.0.1:1"}],
     backup_backends: []}
)",
                                   "weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->kernel().request_clock(), weir::v1::NONE);
  const auto& service = config->services(0);
  EXPECT_EQ(service.policy(), weir::v1::LEAST_INFLIGHT);
  EXPECT_TRUE(service.end_idle_when_open());
  ASSERT_EQ(service.backup_backends_size(), 2);
  EXPECT_TRUE(service.backup_backends(0).local());
  EXPECT_EQ(service.backup_backends(0).weight(), 2);
  EXPECT_EQ(service.backup_backends(1).weight(), 1);
  EXPECT_EQ(config->services(1).policy(), weir::v1::COMPOSITE);
}

/// Writes a configuration of many backends.
class ManyBackends {
 public:
  void add_service(int backends, int backups = 0) {
    const std::string number = std::to_string(++services_);
    text_ += "  - name: s" + number + "\n    address: 127.111.0." + number + ":80\n";
    add_backends("backends", backends);
    if (backups > 0) add_backends("backup_backends", backups);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  void add_backends(const std::string& list, int count) {
    text_ += "    " + list + ":\n";
    for (int i = 0; i < count; ++i, ++backends_) {
      text_ += "      - address: 10." + std::to_string(backends_ >> 16) + "." +
               std::to_string(backends_ >> 8 & 255) + "." + std::to_string(backends_ & 255) +
               ":8000\n        weight: 2.5\n";
    }
  }

  std::string text_ = "services:\n";
  int services_ = 0;
  int backends_ = 0;
};

TEST(ConfigLoader, LimitsTheBackendsOfAServiceAndOfAll) {
  ManyBackends full;
  full.add_service(16000, 300);
  full.add_service(84);
  EXPECT_EQ(message_of(full.text()), "accepted");
  full.add_service(1);
  EXPECT_EQ(message_of(full.text()),
            "weir.yaml:2:3: services: 16385 backends in all are more than 16384");
  ManyBackends large;
  large.add_service(16385);
  EXPECT_EQ(message_of(large.text())
                .find("weir.yaml:5:7: services[0].backends: 16385 items are out of range "
                      "(1..16384)"),
            0U);
}

TEST(ConfigLoader, LimitsThePoolsBackupsIncluded) {
  ManyBackends full;
  for (int i = 0; i < 31; ++i) full.add_service(1, 1);
  full.add_service(1);
  full.add_service(1);
  EXPECT_EQ(message_of(full.text()), "accepted");
  full.add_service(1);
  EXPECT_EQ(message_of(full.text()),
            "weir.yaml:2:3: services: 65 pools, backup pools included, are more than 64");
}

// Four times the backends may take some more than four times as long, not sixteen times. CPU time,
// because other programs may be running.
TEST(ConfigLoader, ManyBackendsTakeTimeInProportion) {
  const auto cpu_seconds = [](int backends) {
    ManyBackends config;
    config.add_service(backends);
    const std::clock_t start = std::clock();
    EXPECT_EQ(message_of(config.text()), "accepted");
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  const double few = cpu_seconds(2500);
  const double many = cpu_seconds(10000);
  RecordProperty("cpu_seconds_of_10000_backends", std::to_string(many));
  EXPECT_LT(many, 8 * few);
}

TEST(ConfigLoader, AliasesCannotMultiplyListsWithoutBound) {
  std::string text = "models:\n  - &m {name: m, path: /proc/version}\n";
  for (int i = 0; i < 1000; ++i) text += "  - *m\n";
  EXPECT_EQ(message_of(text), "weir.yaml:2:3: models: 1001 items are out of range (0..64)");
}

TEST(ConfigLoader, SaysWhichFileCannotBeRead) {
  const auto missing = load_config("/nonexistent/weir.yaml");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, Code::kIo);
  EXPECT_EQ(missing.error().os_errno, ENOENT);
  EXPECT_EQ(missing.error().message, "/nonexistent/weir.yaml: No such file or directory");
  const auto endless = load_config("/dev/zero");
  ASSERT_FALSE(endless.ok());
  EXPECT_EQ(endless.error().message, "/dev/zero: longer than 4194304 bytes");
  const auto folder = load_config("/proc");
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(folder.error().os_errno, EISDIR);
}

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Every mutation ends in a Config or in an error that names the file; crashes and hangs are what
// this looks for. The seed is fixed: a failure can be run again.
TEST(ConfigLoader, SurvivesMutationsOfTheShippedFile) {
  const std::string shipped = read_all(kShipped);
  ASSERT_FALSE(shipped.empty());
  const std::vector<std::string> pieces = {"&a ",
                                           "*a",
                                           "<<: ",
                                           "- ",
                                           "? ",
                                           "!!binary ",
                                           "---\n",
                                           "{",
                                           "}",
                                           "[",
                                           "]",
                                           ": ",
                                           "\"",
                                           "'",
                                           "|\n",
                                           ">-\n",
                                           "\t",
                                           "\xff",
                                           "\xef\xbb\xbf",
                                           "%YAML 9\n",
                                           "~",
                                           "!",
                                           std::string(1, '\0'),
                                           "99999999999999999999"};
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  int accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text = shipped;
    for (std::size_t edits = 1 + below(8); edits > 0 && !text.empty(); --edits) {
      const std::size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(40));
          break;
        case 2:
          text.insert(at, pieces[below(pieces.size())]);
          break;
        case 3:
          text.insert(at, text.substr(below(text.size()), below(80)));
          break;
        case 4:
          text.resize(at);
          break;
      }
    }
    const auto config = parse_config(text, kShipped);
    if (config) {
      ++accepted;
    } else {
      ASSERT_EQ(config.error().message.find(kShipped), 0U) << config.error().message;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, 3900);
}

// YAML::LoadAll() finds documents in this without end, until memory is gone.
TEST(ConfigLoader, SurvivesADocumentThatConsumesNothing) {
  EXPECT_NE(message_of(", a\n"), "accepted");
}

TEST(ConfigLoader, SurvivesDeepNesting) {
  EXPECT_NE(message_of("serve: " + std::string(100000, '[')), "accepted");
  EXPECT_NE(message_of("serve: " + std::string(100000, '{')), "accepted");
}

}  // namespace
}  // namespace weir::config
