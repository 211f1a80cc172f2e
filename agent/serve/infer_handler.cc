// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/generation_call.h"
#include "agent/serve/handlers.h"

namespace weir::serve {

void add_infer(Router& router, const Services& services) {
  router.add("POST", "/infer", [services](const std::shared_ptr<Exchange>& exchange) {
    start_generation(services, exchange, parse_infer(exchange->take_body(), services.clock.now()),
                     infer_result);
  });
}

}  // namespace weir::serve
