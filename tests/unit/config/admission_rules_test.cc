// SPDX-License-Identifier: Apache-2.0
//
// What must hold between the fields of "admission".
#include <gtest/gtest.h>

#include "agent/config/config_loader.h"

namespace weir::config {
namespace {

std::string message_of(const std::string& admission) {
  const auto config =
      parse_config("models:\n  - {name: echo, executor: identity}\nadmission:\n" + admission, "w");
  return config ? "accepted" : config.error().message;
}

TEST(AdmissionRules, TenantsAreUniqueNames) {
  EXPECT_EQ(message_of("  tenants: [{name: a}, {name: a}]\n"),
            "w:4:31: admission.tenants[1].name: \"a\" is used twice, first by "
            "admission.tenants[0].name");
  EXPECT_EQ(message_of("  tenants: [{name: a b}]\n"),
            "w:4:20: admission.tenants[0].name: \"a b\" is not 1..64 characters of "
            "[A-Za-z0-9._-]");
  EXPECT_EQ(message_of("  tenants: [{weight: 2}]\n"),
            "w:4:13: admission.tenants[0].name: is missing");
}

TEST(AdmissionRules, TheHeaderIsAToken) {
  EXPECT_EQ(message_of("  tenant_header: x team\n"),
            "w:4:18: admission.tenant_header: \"x team\" is not the name of a header: 1..64 "
            "characters of [A-Za-z0-9!#$%&'*+.^_`|~-]");
  EXPECT_EQ(message_of("  tenant_header: X-Team\n"), "accepted");
  EXPECT_EQ(message_of("  tenant_header: X-Weir-Tenant\n"), "accepted");
  // Else the model of a request would be its tenant.
  EXPECT_EQ(
      message_of("  tenant_header: X-Weir-Model\n"),
      "w:4:18: admission.tenant_header: \"X-Weir-Model\" is not free: of the names that begin "
      "with x-weir- only x-weir-tenant names a tenant");
}

TEST(AdmissionRules, ALimitNamesAModelThatThereIsAndLimitsSomething) {
  EXPECT_EQ(message_of("  rate_limits: [{model: ecko, requests_per_second: 1}]\n"),
            "w:4:25: admission.rate_limits[0].model: there is no model \"ecko\", did you mean "
            "\"echo\"?");
  EXPECT_EQ(message_of("  rate_limits: [{model: echo}]\n"),
            "w:4:17: admission.rate_limits[0]: limits nothing: requests_per_second or "
            "tokens_per_second is needed");
  EXPECT_EQ(message_of("  rate_limits: [{requests_per_second: 1, tokens_burst: 5}]\n"),
            "w:4:56: admission.rate_limits[0].tokens_burst: needs tokens_per_second");
  EXPECT_EQ(message_of("  rate_limits: [{tenant: anybody, requests_per_second: 1}]\n"), "accepted");
}

}  // namespace
}  // namespace weir::config
