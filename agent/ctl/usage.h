// SPDX-License-Identifier: Apache-2.0
//
// What is said to somebody who has mistyped a command line.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace weir::ctl {

/// After `app.parse(argc, argv)` has thrown `error`: the first argument that nothing is called,
/// with what comes nearest to it, or else the parser's own words; and where help is to be found.
/// Ends without a newline.
[[nodiscard]] std::string usage_problem(const CLI::App& app, const CLI::ParseError& error, int argc,
                                        const char* const* argv);

}  // namespace weir::ctl
