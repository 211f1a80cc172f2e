// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/tenant_table.h"

#include <gtest/gtest.h>

#include <thread>

#include "agent/admit/rate_limiter.h"

namespace weir::admit {
namespace {

TenantRecord& find(TenantTable& table, const std::string& name) {
  return table.find_or_add(name, name_hash(name));
}

TEST(TenantTable, KnowsTheConfiguredOnesWithTheirLimits) {
  TenantTable table({{"a", 5}, {"b", std::nullopt}}, 100, 10);
  EXPECT_EQ(find(table, "a").requests.limit(), 5U);
  EXPECT_EQ(find(table, "b").requests.limit(), 100U);
  EXPECT_EQ(table.records().size(), 3U);
  EXPECT_EQ(table.records().back()->name, TenantTable::kOthers);
}

TEST(TenantTable, OthersShareARecordBehindTheBound) {
  TenantTable table({{"a", 5}}, 100, 2);
  TenantRecord& x = find(table, "x");
  TenantRecord& y = find(table, "y");
  EXPECT_NE(&x, &y);
  EXPECT_EQ(find(table, "z").name, TenantTable::kOthers);
  EXPECT_EQ(&find(table, "z"), &find(table, "zz"));
  EXPECT_EQ(&find(table, "x"), &x);
  EXPECT_EQ(find(table, "a").name, "a");
}

TEST(TenantTable, EqualHashesAreToldApartByName) {
  TenantTable table({}, 100, 10);
  TenantRecord& one = table.find_or_add("one", 3);
  TenantRecord& two = table.find_or_add("two", 3);
  EXPECT_NE(&one, &two);
  EXPECT_EQ(&table.find_or_add("one", 3), &one);
}

TEST(TenantTable, ThreadsFindOneRecordPerName) {
  TenantTable table({}, 1'000'000, 64);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 6400; ++i) find(table, "t" + std::to_string(i % 64)).admitted++;
      });
    }
  }
  const auto records = table.records();
  EXPECT_EQ(records.size(), 65U);
  for (const TenantRecord* record : records) {
    EXPECT_EQ(record->admitted.load(), record->name == TenantTable::kOthers ? 0U : 400U);
  }
}

}  // namespace
}  // namespace weir::admit
