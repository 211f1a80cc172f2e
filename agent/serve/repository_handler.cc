// SPDX-License-Identifier: Apache-2.0
//
// The model repository extension of the Open Inference Protocol, as Triton has it: list, load,
// unload. What only this agent knows of a model is in the member "weir" of its entry.
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>

#include "agent/serve/api_error.h"
#include "agent/serve/handlers.h"

namespace weir::serve {
namespace json = boost::json;
namespace {

using model::ModelInfo;

/// As Triton's clients know it.
std::string_view repository_state(ModelInfo::State state) {
  switch (state) {
    case ModelInfo::State::kReady:
      return "READY";
    case ModelInfo::State::kLoading:
    case ModelInfo::State::kWarming:
      return "LOADING";
    case ModelInfo::State::kDraining:
      return "UNLOADING";
    case ModelInfo::State::kUnloaded:
    case ModelInfo::State::kFailed:
      return "UNAVAILABLE";
  }
  return "UNKNOWN";
}

std::string reason_of(const ModelInfo& info) {
  if (!info.failure.empty()) return info.failure;
  if (!info.successor_failure.empty()) return "not replaced: " + info.successor_failure;
  if (info.disabled && info.state == ModelInfo::State::kUnloaded) return "unloaded";
  return "";
}

/// Empty while nothing is loaded.
json::object memory_json(const model::MemoryReading& memory) {
  json::object parts;
  if (memory.mapped_bytes == 0) return parts;
  parts["mapped_bytes"] = memory.mapped_bytes;
  if (memory.resident_bytes) parts["resident_bytes"] = *memory.resident_bytes;
  parts["copied_bytes"] = memory.copied_bytes;
  parts["kv_bytes"] = memory.kv_bytes;
  parts["compute_bytes"] = memory.compute_bytes;
  parts["output_bytes"] = memory.output_bytes;
  return parts;
}

json::object entry_json(const ModelInfo& info) {
  json::object own;
  own["state"] = to_string(info.state);
  own["executor"] = info.kind;
  own["path"] = info.path;
  own["disabled"] = info.disabled;
  own["load_progress"] = info.load_progress;
  if (info.successor_progress) own["replacement_progress"] = *info.successor_progress;
  if (!info.instances.empty()) own["instances"] = info.instances.size();
  own["requests_running"] = info.running;
  own["requests_waiting"] = info.queued;
  own["file_bytes"] = info.file_bytes;
  own["memory_bytes"] = info.memory_bytes;
  own["memory"] = memory_json(info.memory);
  own["loads"] = info.loads;
  own["load_failures"] = info.load_failures;
  if (info.since_used) {
    own["seconds_since_used"] = std::chrono::duration<double>(*info.since_used).count();
  }
  json::object entry;
  entry["name"] = info.name;
  entry["version"] = "1";
  entry["state"] = repository_state(info.state);
  entry["reason"] = reason_of(info);
  entry["weir"] = std::move(own);
  return entry;
}

/// Status 200 and an empty object, or the failure.
void answer(const std::shared_ptr<Exchange>& exchange, const Status& status) {
  if (!status) return exchange->respond(to_response(from_failure(status.error())));
  Response response;
  response.body = "{}";
  exchange->respond(std::move(response));
}

/// {"ready": true} lists only those that can be asked at once.
Outcome<bool> only_ready(const std::string& body) {
  if (body.find_first_not_of(" \t\r\n") == std::string::npos) return false;
  boost::system::error_code failure;
  const json::value value = json::parse(body, failure);
  if (failure || !value.is_object()) {
    return bad_request("invalid_json", "the body must be empty or a JSON object");
  }
  const json::value* const ready = value.get_object().if_contains("ready");
  if (ready == nullptr) return false;
  if (!ready->is_bool()) {
    return bad_request("invalid_value", "\"ready\" must be true or false", "ready");
  }
  return ready->get_bool();
}

void add_index_of_models(Router& router, const Services& services) {
  router.add("POST", "/v2/repository/index", [services](const std::shared_ptr<Exchange>& exchange) {
    const auto ready = only_ready(exchange->take_body());
    if (const auto* error = std::get_if<ApiError>(&ready)) {
      return exchange->respond(to_response(*error));
    }
    services.admin->rescan(
        [services, exchange, ready = std::get<bool>(ready)](const Status& scanned) {
          if (!scanned) return answer(exchange, scanned);
          json::array entries;
          for (const ModelInfo& info : services.executor.models()) {
            if (ready && info.state != ModelInfo::State::kReady) continue;
            entries.emplace_back(entry_json(info));
          }
          Response response;
          response.body = json::serialize(entries);
          exchange->respond(std::move(response));
        });
  });
}

}  // namespace

void add_repository(Router& router, const Services& services) {
  if (services.admin == nullptr) return;
  add_index_of_models(router, services);
  // The exchange holds neither connection nor server: who gives up waiting ends nothing.
  router.add("POST", "/v2/repository/models/{id}/load",
             [services](const std::shared_ptr<Exchange>& exchange) {
               services.admin->load(exchange->request().parameter,
                                    [exchange](const Status& loaded) { answer(exchange, loaded); });
             });
  router.add("POST", "/v2/repository/models/{id}/unload",
             [services](const std::shared_ptr<Exchange>& exchange) {
               services.admin->unload(
                   exchange->request().parameter,
                   [exchange](const Status& unloaded) { answer(exchange, unloaded); });
             });
}

}  // namespace weir::serve
