// SPDX-License-Identifier: Apache-2.0
//
// The rules of a configuration that concern more than the type and range of one value: names,
// endpoints, what must be unique, what belongs together.
//
// Thread-safe: pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "agent/config/problems.h"
#include "weir/v1/config.pb.h"

namespace weir::config {

/// Adds every broken rule to `problems`. `config` is as read from the file, with or without its
/// defaults.
void validate(const weir::v1::Config& config, const SourceMap& sources, Problems& problems);

/// The routes that an SLA policy may name: those that generate.
[[nodiscard]] std::span<const std::string_view> sla_routes();

/// Makes the path of each model absolute, relative ones starting at `folder`, and checks that it
/// names a file that this process can read.
void resolve_model_paths(weir::v1::Config& config, const std::string& folder,
                         const SourceMap& sources, Problems& problems);

}  // namespace weir::config
