// SPDX-License-Identifier: Apache-2.0
//
// Runs over existing sockets: the iterator programs of bpf/census.bpf.c, loaded with the others and
// started from here.
//
// Thread-safety: one thread; move-only. Sockets open, close and carry requests at the same time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/kernel/fd.h"
#include "agent/kernel/map_set.h"
#include "weir/abi.h"

struct bpf_object;

namespace weir::kernel {

/// What one run did; see weir_sweep.
struct SweepResult {
  std::uint64_t sockets = 0;
  std::uint64_t adopted = 0;
  std::uint64_t ended = 0;
  std::uint64_t failed = 0;
  std::uint64_t unwatched = 0;
};

/// What the census needs; the seam for its tests.
class Recounter {
 public:
  virtual ~Recounter() = default;
  /// Ends silent responses and adds the bytes of live connections to their backends.
  virtual Status settle(TimePoint now) = 0;
  /// Adds every observed socket to the records of weir_census, which the caller has zeroed.
  virtual Result<SweepResult> recount() = 0;
  /// Returns when every kernel program that runs now has ended: some ten milliseconds.
  virtual void wait_for_programs() = 0;
};

/// Whether this kernel can end a connection from outside (bpf_sock_destroy, Linux 6.5).
[[nodiscard]] bool can_end_connections();

class SocketSweeps final : public Recounter {
 public:
  /// Before the object is loaded: leaves out the programs that this kernel would refuse.
  static void select(bpf_object* object);
  /// After it was loaded. Sweeps go over the sockets of its weir_sk, and below `cgroup_path`.
  static Result<SocketSweeps> open(bpf_object* object, std::string cgroup_path);

  Status settle(TimePoint now) override;
  Result<SweepResult> recount() override;
  void wait_for_programs() override;
  /// Takes in connections of the cgroup to backends, in every network namespace, that are not
  /// observed yet.
  Result<SweepResult> adopt(TimePoint now);
  /// Ends the idle connections to one backend, in every network namespace. kUnsupported where the
  /// kernel cannot.
  Result<SweepResult> end_idle(std::uint32_t backend, TimePoint now);

 private:
  enum Program : std::size_t { kSettle, kRecount, kAdopt, kEndIdle, kPrograms };

  SocketSweeps() = default;
  weir_sweep& begin(TimePoint now);
  Status run(Program program) const;
  Status run_in_all_namespaces(Program program) const;
  Result<SweepResult> result(Status done) const;

  std::string cgroup_path_;
  std::uint64_t runs_ = 0;
  std::array<Fd, kPrograms> links_;  ///< invalid: left out
  MappedArray<weir_sweep> sweep_;
};

}  // namespace weir::kernel
