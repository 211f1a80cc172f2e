// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/upgrade_layout.h"

#include <bpf/btf.h>
#include <gtest/gtest.h>

#include <memory>

namespace weir::kernel {
namespace {

struct FreeBtf {
  void operator()(btf* types) const { btf__free(types); }
};

/// Types as a compiler would describe them.
class UpgradeLayout : public testing::Test {
 protected:
  UpgradeLayout() : types_(btf__new_empty()) {
    u32_ = btf__add_int(types_.get(), "unsigned int", 4, 0);
    s32_ = btf__add_int(types_.get(), "int", 4, BTF_INT_SIGNED);
    u64_ = btf__add_int(types_.get(), "unsigned long long", 8, 0);
    const int u8 = btf__add_int(types_.get(), "unsigned char", 1, 0);
    ip_ = btf__add_array(types_.get(), u32_, u8, 16);
  }

  struct Member {
    const char* name;
    int type;
    std::uint32_t offset;
  };
  int add_struct(std::uint32_t bytes, const std::vector<Member>& members) {
    const int id = btf__add_struct(types_.get(), "record", bytes);
    for (const Member& member : members) {
      EXPECT_EQ(btf__add_field(types_.get(), member.name, member.type, member.offset * 8, 0), 0);
    }
    return id;
  }
  Layout layout(int id) { return layout_of(types_.get(), static_cast<std::uint32_t>(id)).value(); }

  std::unique_ptr<btf, FreeBtf> types_;
  int u32_ = 0, s32_ = 0, u64_ = 0, ip_ = 0;
};

TEST_F(UpgradeLayout, NestedFieldsAreNamedWithDots) {
  const int address = add_struct(20, {{"ip", ip_, 0}, {"port", u32_, 16}});
  const int alias = btf__add_typedef(types_.get(), "count_t", u64_);
  const Layout seen = layout(
      add_struct(40, {{"address", address, 0}, {"pad0", u32_, 20}, {"connects", alias, 24}}));
  EXPECT_EQ(seen.bytes, 40U);
  ASSERT_EQ(seen.fields.size(), 3U);
  EXPECT_EQ(seen.fields[0].name, "address.ip");
  EXPECT_EQ(seen.fields[0].type, "u1[16]");
  EXPECT_EQ(seen.fields[1].name, "address.port");
  EXPECT_EQ(seen.fields[1].offset, 16U);
  EXPECT_EQ(seen.fields[2].name, "connects");
  EXPECT_EQ(seen.fields[2].offset, 24U);
  EXPECT_EQ(seen.fields[2].bytes, 8U);
}

TEST_F(UpgradeLayout, MovedFieldsMatchByName) {
  const Layout old = layout(add_struct(16, {{"a", u32_, 0}, {"gone", u32_, 4}, {"b", u64_, 8}}));
  const Layout now = layout(add_struct(24, {{"b", u64_, 0}, {"added", u64_, 8}, {"a", u32_, 16}}));
  EXPECT_NE(old.type, now.type);
  const auto matches = match_fields(old, now).value();
  ASSERT_EQ(matches.size(), 2U);
  EXPECT_EQ(matches[0].name, "b");
  EXPECT_EQ(matches[0].from, 8U);
  EXPECT_EQ(matches[0].to, 0U);
  EXPECT_EQ(matches[1].name, "a");
  EXPECT_EQ(matches[1].from, 0U);
  EXPECT_EQ(matches[1].to, 16U);
}

TEST_F(UpgradeLayout, AFieldOfAnotherSizeOrSignIsRefusedByName) {
  const Layout old = layout(add_struct(8, {{"state", u32_, 0}, {"delta", s32_, 4}}));
  const Layout wider = layout(add_struct(8, {{"state", u64_, 0}}));
  const Layout turned = layout(add_struct(8, {{"delta", u32_, 4}}));
  EXPECT_NE(match_fields(old, wider).error().message.find("state"), std::string::npos);
  EXPECT_NE(match_fields(old, turned).error().message.find("delta is s4"), std::string::npos);
}

TEST_F(UpgradeLayout, EqualStructsHaveEqualText) {
  const std::vector<Member> members = {{"a", u32_, 0}, {"b", u32_, 4}};
  EXPECT_EQ(layout(add_struct(8, members)).type, layout(add_struct(8, members)).type);
  EXPECT_NE(layout(add_struct(8, members)).type,
            layout(add_struct(8, {{"b", u32_, 0}, {"a", u32_, 4}})).type);
}

TEST_F(UpgradeLayout, WithoutBtfThereAreNoFields) {
  EXPECT_TRUE(layout_of(nullptr, 5).value().fields.empty());
  EXPECT_TRUE(layout_of(types_.get(), 0).value().fields.empty());
}

}  // namespace
}  // namespace weir::kernel
