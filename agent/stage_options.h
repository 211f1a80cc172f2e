// SPDX-License-Identifier: Apache-2.0
//
// What each stage is told by the configuration; what is left open there and depends on the machine
// is read from it and logged. The control loop's are in agent/balance/control_options.h.
//
// Thread-safe: pure functions but for what they read of the system. Precondition of all: `config`
// comes from config::load_config(). An error names the field.
#pragma once

#include <vector>

#include "agent/admit/admission.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "agent/kernel/data_plane.h"
#include "agent/model/loaded_model.h"
#include "agent/model/registry.h"
#include "agent/serve/http_server.h"
#include "weir/v1/config.pb.h"

namespace weir {

[[nodiscard]] Result<model::RegistryOptions> registry_options(const weir::v1::Config& config);

[[nodiscard]] std::vector<model::ModelOptions> model_options(const weir::v1::Config& config);

[[nodiscard]] Result<serve::ServeOptions> serve_options(const weir::v1::Serve& serve);

/// Without predicted_wait and read_models, which the models know.
[[nodiscard]] Result<admit::Admission::Options> admission_options(const weir::v1::Config& config);

/// What admission is to know of the models by now. May read files.
[[nodiscard]] std::vector<admit::ModelCosts> model_costs(const model::Registry& models);

/// `local`: where the backends called local are reached.
[[nodiscard]] Result<kernel::DataPlane::Options> kernel_options(const weir::v1::Config& config,
                                                                const Endpoint& local);

}  // namespace weir
