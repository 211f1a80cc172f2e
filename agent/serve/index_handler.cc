// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/handlers.h"

namespace weir::serve {

void add_index(Router& router, const Services& services) {
  router.add("GET", "/", [services](const std::shared_ptr<Exchange>& exchange) {
    Response response;
    response.content_type = "text/plain; charset=utf-8";
    response.body = "weir-agent\n\n" + services.server.router().listing() + "\n\n";
    for (const model::ModelInfo& info : services.executor.models()) {
      response.body += "model " + info.name + ": " + std::string(to_string(info.state)) + "\n";
    }
    exchange->respond(std::move(response));
  });
}

}  // namespace weir::serve
