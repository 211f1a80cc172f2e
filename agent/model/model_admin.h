// SPDX-License-Identifier: Apache-2.0
//
// What an operator may have done to models, by name: the seam between the admin API and the
// registry.
//
// Thread-safe: all methods from any thread; none waits. `done` is called once, on any thread, and
// must not block; when the registry goes first it may be dropped instead.
#pragma once

#include <functional>
#include <string>

#include "agent/base/result.h"

namespace weir::model {

class ModelAdmin {
 public:
  using Done = std::function<void(Status)>;
  virtual ~ModelAdmin() = default;

  /// Looks into the folder of models anew. kIo when it cannot be read.
  virtual void rescan(Done done) = 0;
  /// Done when the model is ready. Looks for it in the folder if it is not known: kNotFound.
  virtual void load(std::string name, Done done) = 0;
  /// Done when the model's last request has ended and its memory is free. Requests are refused
  /// until load(). kUnsupported for a model without a file.
  virtual void unload(std::string name, Done done) = 0;
};

}  // namespace weir::model
