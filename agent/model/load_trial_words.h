// SPDX-License-Identifier: Apache-2.0
//
// What weir-load-trial says on its standard output, to load_trial.cc: lines of a word and, but for
// kTrialPassed, a text behind it.
//
// Thread-safe: constants.
#pragma once

#include <string_view>

namespace weir::model {

inline constexpr std::string_view kTrialProgram = "weir-load-trial";

inline constexpr std::string_view kTrialAt = "at";            ///< what it does from now on
inline constexpr std::string_view kTrialDying = "dying";      ///< why it will end by abort()
inline constexpr std::string_view kTrialRefused = "refused";  ///< why it cannot be loaded; the last
inline constexpr std::string_view kTrialPassed = "passed";    ///< the last

}  // namespace weir::model
