// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/admission_sampler.h"

#include <pthread.h>

#include <condition_variable>
#include <mutex>

namespace weir::admit {

AdmissionSampler::AdmissionSampler(Admission& admission)
    : thread_([&admission](const std::stop_token& stop) {
        std::mutex mutex;
        std::condition_variable_any stopped;
        std::unique_lock lock(mutex);
        while (!stop.stop_requested()) {
          admission.sample();
          stopped.wait_for(lock, stop, kPeriod, [] { return false; });
        }
      }) {
  pthread_setname_np(thread_.native_handle(), "weir-admit");
}

}  // namespace weir::admit
