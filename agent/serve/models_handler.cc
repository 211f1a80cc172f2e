// SPDX-License-Identifier: Apache-2.0
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "agent/serve/handlers.h"
#include "agent/serve/model_call.h"

namespace weir::serve {
namespace json = boost::json;
namespace {

json::object model_json(const model::ModelInfo& info) {
  json::object object;
  object["id"] = info.name;
  object["object"] = "model";
  object["created"] = info.created_unix_seconds;
  object["owned_by"] = "weir";
  // Ours; OpenAI's clients ignore them.
  object["state"] = to_string(info.state);
  object["executor"] = info.kind;
  object["task"] = to_string(info.task);
  return object;
}

}  // namespace

void add_models(Router& router, const Services& services) {
  router.add("GET", "/v1/models", [services](const std::shared_ptr<Exchange>& exchange) {
    json::array data;
    for (const model::ModelInfo& info : services.executor.models()) {
      data.emplace_back(model_json(info));
    }
    json::object object;
    object["object"] = "list";
    object["data"] = std::move(data);
    Response response;
    response.body = json::serialize(object);
    exchange->respond(std::move(response));
  });
  router.add("GET", "/v1/models/{id}", [services](const std::shared_ptr<Exchange>& exchange) {
    const std::string& name = exchange->request().parameter;
    for (const model::ModelInfo& info : services.executor.models()) {
      if (info.name != name) continue;
      Response response;
      response.body = json::serialize(model_json(info));
      exchange->respond(std::move(response));
      return;
    }
    exchange->respond(to_response(unknown_model(services.executor, name)));
  });
}

}  // namespace weir::serve
