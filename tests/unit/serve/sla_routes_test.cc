// SPDX-License-Identifier: Apache-2.0
//
// The configuration knows the routes that policies can be given: those that the server has.
#include <set>
#include <sstream>
#include <string>

#include "agent/config/validate.h"
#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using SlaRoutes = ServeTest;

TEST_F(SlaRoutes, AreThoseThatTakeRequestsForAModel) {
  std::set<std::string> routes;
  std::istringstream index(client().get("/").body);
  for (std::string line; std::getline(index, line);) {
    std::istringstream listing(line);
    for (std::string route; std::getline(listing >> std::ws, route, ',');) {
      if (route.starts_with("POST ")) routes.insert(route.substr(5));
    }
  }
  const auto known = config::sla_routes();
  EXPECT_EQ(routes, (std::set<std::string>(known.begin(), known.end())));
}

}  // namespace
}  // namespace weir::serve
