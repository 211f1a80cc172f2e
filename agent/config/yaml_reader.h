// SPDX-License-Identifier: Apache-2.0
//
// Strict YAML into any protobuf message, by reflection: a new field of config.proto needs no code
// here. Field names are the protobuf names, values are read by
// field_rules.h, with the ranges.
//
// Thread-safe: a pure function.
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "agent/config/problems.h"

namespace weir::config {

/// Reads one YAML document into `message`, notes where each field stands in `sources` and adds
/// whatever is wrong (syntax, unknown or repeated field, type, range) to `problems`, all of it
/// rather than the first. A section without content ("serve:" alone) counts as left out. Any
/// bytes are safe as input.
void read_yaml(const std::string& text, google::protobuf::Message& message, SourceMap& sources,
               Problems& problems);

}  // namespace weir::config
