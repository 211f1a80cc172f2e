// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/generation_call.h"
#include "agent/serve/handlers.h"

namespace weir::serve {

void add_completions(Router& router, const Services& services) {
  router.add("POST", "/v1/completions", [services](const std::shared_ptr<Exchange>& exchange) {
    start_generation(services, exchange,
                     parse_completion(exchange->take_body(), services.clock.now()),
                     completion_result);
  });
}

}  // namespace weir::serve
