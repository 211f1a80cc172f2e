// SPDX-License-Identifier: Apache-2.0
//
// Loads the agent's configuration: a YAML file checked strictly against weir.v1.Config
// (include/weir/proto/weir/v1/config.proto; for people: deploy/config/README.md).
//
// Thread-safe: pure functions over the file system.
#pragma once

#include <string>

#include "agent/base/result.h"
#include "weir/v1/config.pb.h"

namespace weir::config {

/// Reads and checks the file and fills in the defaults. Afterwards every field that has a default
/// is set, model paths are absolute and readable, names and endpoints are well formed and unique.
/// Left unset because the reader must choose: kernel.cgroup, Model.context_tokens,
/// Model.threads.
///
/// Fails with kInvalidArgument and one line per problem, "FILE:LINE:COLUMN: FIELD: what, with the
/// value and the limit"; with kIo when the file itself cannot be read. No input makes it crash.
Result<weir::v1::Config> load_config(const std::string& path);

/// The same for a text in memory. `file` names it in messages; its folder is where relative model
/// paths start.
Result<weir::v1::Config> parse_config(const std::string& text, const std::string& file);

}  // namespace weir::config
