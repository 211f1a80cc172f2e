// SPDX-License-Identifier: Apache-2.0
//
// Programs of others on the hooks that Weir uses. They are reported and never touched.
//
// Order in which the kernel runs the programs of one hook: those of the cgroup of the process, in
// the order in which they were attached, then those of its parent, and so on up to the root. A
// program attached to our cgroup before us sees what the application asked for, one after us what
// we made of it. Every connect program runs; if one refuses, the connect() fails whatever the
// others said.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/capabilities.h"

namespace weir::kernel {

struct ForeignProgram {
  enum class Where { kHere, kAncestor, kDescendant };

  std::string attach_type;  ///< as bpftool names it
  std::uint32_t program_id = 0;
  std::string name;
  std::string tag;     ///< hash of its instructions, as bpftool prints it
  std::string cgroup;  ///< path; empty: an ancestor that cannot be seen from here
  Where where = Where::kHere;
  bool is_weir = false;               ///< of another weir-agent
  std::optional<std::uint32_t> maps;  ///< of a Weir: id of its weir_be
};

[[nodiscard]] const char* to_string(ForeignProgram::Where where);

/// Those that run for processes of the cgroup or of one below it, but for `own_programs`.
Result<std::vector<ForeignProgram>> foreign_programs(
    const std::string& cgroup_path, const std::vector<std::uint32_t>& own_programs);

/// kAlreadyExists when another Weir steers this very cgroup: connects would be steered twice. Names
/// its agent and its pins.
Status check_no_other_weir(const std::vector<ForeignProgram>& programs);

/// Their row in the capability table.
[[nodiscard]] Capability describe_hooks(const std::vector<ForeignProgram>& programs);

/// In one line, for people; empty when there are none.
[[nodiscard]] std::string describe(const std::vector<ForeignProgram>& programs);

}  // namespace weir::kernel
