// SPDX-License-Identifier: Apache-2.0
//
// Which fields of a model belong to which executor and task, and what the fields of a batch ask of
// each other.
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "weir/v1/config.pb.h"

namespace weir::config {

/// Reports what is wrong with the field at `path`.
using ReportProblem = std::function<void(const std::string& path, std::string text)>;

/// On the file's own values: defaults are not filled in.
void check_executor(const std::string& path, const weir::v1::Model& model,
                    const ReportProblem& problem);

/// The mode of the model's batches, or its default: fixed, but learned where texts are embedded or
/// scored.
[[nodiscard]] weir::v1::BatchMode batch_mode(const weir::v1::Model& model);

/// max_batch_size, or its default: 32, and in mode `levels` the largest size of the table.
[[nodiscard]] std::uint32_t max_batch_size(const weir::v1::Batch& batch);

}  // namespace weir::config
