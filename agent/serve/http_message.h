// SPDX-License-Identifier: Apache-2.0
//
// A request and a response as handlers see them: no socket, no Beast.
//
// Thread-safe: values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/admit/admission.h"
#include "agent/base/clock.h"
#include "agent/model/generation.h"

namespace weir::serve {

struct Request {
  std::string method;
  std::string path;       ///< percent-decoded, without the query
  std::string parameter;  ///< what "{id}" of the route's pattern stood for
  std::string id;         ///< x-request-id, the client's or made here
  std::string body;

  // Of requests that admission has let in; see agent/serve/admission_fields.h.
  std::string tenant;
  std::string model;                  ///< empty: the header does not say
  std::optional<std::int32_t> level;  ///< likewise
  std::optional<TimePoint> deadline;  ///< likewise
  /// For a request that names no deadline, here or in its body; unset: it may take any time.
  std::optional<TimePoint> default_deadline;
  std::shared_ptr<admit::Reservation> reservation;
};

struct Response {
  unsigned status = 200;
  std::string_view content_type = "application/json";  ///< a literal
  std::vector<std::pair<std::string, std::string>> headers;  ///< beyond those the session adds
  std::string body;
  /// Set when this is a refusal under load; it is counted by reason.
  std::optional<model::RefusalReason> refusal;
};

}  // namespace weir::serve
