// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/body_parser.h"
#include "agent/serve/handlers.h"

namespace weir::serve {

void add_completions(Router& router, const Services& services) {
  router.add("POST", "/v1/completions", [services](const std::shared_ptr<Exchange>& exchange) {
    parse_and_start(services, exchange, parse_completion, completion_result);
  });
}

}  // namespace weir::serve
