// SPDX-License-Identifier: Apache-2.0
//
// The thread that keeps an Admission's picture of memory and of its own pace fresh, so that no
// request has to read a file.
//
// Thread-safety: belongs to one thread. Runs from construction to destruction; `admission` must
// outlive it.
#pragma once

#include <chrono>
#include <thread>

#include "agent/admit/admission.h"

namespace weir::admit {

class AdmissionSampler {
 public:
  /// avg10 moves by a fifth of a change in two seconds: more often tells nothing new.
  static constexpr std::chrono::milliseconds kPeriod{500};

  explicit AdmissionSampler(Admission& admission);

 private:
  std::jthread thread_;
};

}  // namespace weir::admit
