// SPDX-License-Identifier: Apache-2.0
//
// What became of model files before libllama saw them (gguf_vetting.h).
//
// Thread-compatible: a plain value.
#pragma once

#include <cstdint>

namespace weir::model {

/// Since the process began. Cumulative.
struct VettingReading {
  std::uint64_t refused_by_check = 0;
  std::uint64_t passed = 0;       ///< trials
  std::uint64_t refused = 0;      ///< trials in which libllama said no
  std::uint64_t died = 0;         ///< trials that ended by a signal
  std::uint64_t cut = 0;          ///< trials that had no end in time, or were killed from outside
  std::uint64_t unavailable = 0;  ///< trials for which no child could be started
  std::uint64_t remembered = 0;   ///< trials spared, because the file had been tried
};

}  // namespace weir::model
