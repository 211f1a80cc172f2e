// SPDX-License-Identifier: Apache-2.0
//
// Rows of text in aligned columns, for terminals.
//
// Thread-safe: values and a pure function.
#pragma once

#include <string>
#include <vector>

namespace weir::ctl {

using Row = std::vector<std::string>;

/// Lines of columns two spaces apart, each as wide as its widest cell, without trailing blanks. The
/// first `left_columns` are aligned to the left, the others to the right.
[[nodiscard]] std::string format_table(const std::vector<Row>& rows, std::size_t left_columns);

}  // namespace weir::ctl
