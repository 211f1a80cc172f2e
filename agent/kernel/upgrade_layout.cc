// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/upgrade_layout.h"

#include <bpf/btf.h>

#include <algorithm>

namespace weir::kernel {
namespace {

/// Deeper than any struct of abi.h; BTF from elsewhere might be cyclic.
constexpr int kMaxDepth = 8;

Error unsupported(const std::string& text) { return make_error(Code::kUnsupported, text); }

std::string name_of(const btf* types, std::uint32_t offset) {
  const char* const name = btf__name_by_offset(types, offset);
  return name == nullptr ? "" : name;
}

/// Past typedefs and qualifiers.
const btf_type* resolve(const btf* types, std::uint32_t& id) {
  const int resolved = btf__resolve_type(types, id);
  if (resolved < 0) return nullptr;
  id = static_cast<std::uint32_t>(resolved);
  return btf__type_by_id(types, id);
}

Result<std::string> shape_of(const btf* types, std::uint32_t id, int depth) {
  const btf_type* const type = resolve(types, id);
  if (type == nullptr || depth > kMaxDepth) return unsupported("a type that BTF does not describe");
  const std::string size = std::to_string(btf__resolve_size(types, id));
  if (btf_is_enum(type)) return "u" + size;
  if (btf_is_int(type)) {
    const bool is_signed = (btf_int_encoding(type) & BTF_INT_SIGNED) != 0;
    // char is an array element here, whose sign nobody looks at.
    return (is_signed && type->size > 1 ? "s" : "u") + size;
  }
  if (btf_is_array(type)) {
    auto element = shape_of(types, btf_array(type)->type, depth + 1);
    if (!element) return element;
    return *element + "[" + std::to_string(btf_array(type)->nelems) + "]";
  }
  if (!btf_is_struct(type) || btf_kflag(type)) return unsupported("a type that no map has");
  std::string shape = "{";
  for (std::uint32_t i = 0; i < btf_vlen(type); ++i) {
    const btf_member& member = btf_members(type)[i];
    auto inner = shape_of(types, member.type, depth + 1);
    if (!inner) return inner;
    shape += std::to_string(member.offset / 8) + ":" + name_of(types, member.name_off) + ":" +
             *inner + ",";
  }
  return shape + "}" + size;
}

Status flatten(const btf* types, std::uint32_t id, const std::string& prefix, std::uint32_t base,
               std::vector<LayoutField>& fields) {
  const btf_type* const type = resolve(types, id);
  for (std::uint32_t i = 0; i < btf_vlen(type); ++i) {
    const btf_member& member = btf_members(type)[i];
    const std::string name = name_of(types, member.name_off);
    if (name.rfind("pad", 0) == 0) continue;
    std::uint32_t inner_id = member.type;
    const btf_type* const inner = resolve(types, inner_id);
    const std::uint32_t offset = base + member.offset / 8;
    if (inner != nullptr && btf_is_struct(inner)) {
      if (Status done = flatten(types, inner_id, prefix + name + ".", offset, fields); !done) {
        return done;
      }
      continue;
    }
    auto shape = shape_of(types, inner_id, 0);
    if (!shape) return std::move(shape).error().context(prefix + name);
    const auto bytes = static_cast<std::uint32_t>(btf__resolve_size(types, inner_id));
    fields.push_back({prefix + name, offset, bytes, std::move(*shape)});
  }
  return {};
}

}  // namespace

Result<Layout> layout_of(const btf* types, std::uint32_t type_id) {
  if (types == nullptr || type_id == 0) return Layout{};
  auto shape = shape_of(types, type_id, 0);
  if (!shape) return std::move(shape).error();
  Layout layout;
  layout.bytes = static_cast<std::uint32_t>(btf__resolve_size(types, type_id));
  layout.type = std::move(*shape);
  std::uint32_t id = type_id;
  if (!btf_is_struct(resolve(types, id))) return layout;
  if (Status done = flatten(types, id, "", 0, layout.fields); !done) {
    return std::move(done).error();
  }
  return layout;
}

Result<std::vector<FieldMatch>> match_fields(const Layout& from, const Layout& to) {
  std::vector<FieldMatch> matches;
  for (const LayoutField& field : to.fields) {
    const auto old =
        std::find_if(from.fields.begin(), from.fields.end(),
                     [&](const LayoutField& other) { return other.name == field.name; });
    if (old == from.fields.end()) continue;
    if (old->type != field.type) {
      return unsupported("field " + field.name + " is " + old->type + " there and " + field.type +
                         " here");
    }
    matches.push_back({field.name, old->offset, field.offset, field.bytes});
  }
  return matches;
}

}  // namespace weir::kernel
