// SPDX-License-Identifier: Apache-2.0
//
// Structs as BTF describes them: what the maps of another build have in common with ours.
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/base/result.h"

struct btf;

namespace weir::kernel {

/// One member of a struct that is no struct itself. Those named pad... are left out.
struct LayoutField {
  std::string name;  ///< nested ones with dots: "address.port"
  std::uint32_t offset = 0;
  std::uint32_t bytes = 0;
  std::string type;  ///< by shape: "u4", "s8", "u1[16]"; equal text, equal representation
};

struct Layout {
  std::uint32_t bytes = 0;
  std::string type;  ///< the whole, by shape and names; equal text, equal layout
  std::vector<LayoutField> fields;
};

/// Type 0, or no BTF: a layout without fields. kUnsupported for types that no map of ours has.
Result<Layout> layout_of(const btf* types, std::uint32_t type_id);

/// A field that both layouts have.
struct FieldMatch {
  std::string name;
  std::uint32_t from = 0;  ///< offset
  std::uint32_t to = 0;
  std::uint32_t bytes = 0;
};

/// By name. kUnsupported, naming it, when a field has another type here than there: to copy it
/// would be wrong, and so might be to leave it out.
Result<std::vector<FieldMatch>> match_fields(const Layout& from, const Layout& to);

}  // namespace weir::kernel
