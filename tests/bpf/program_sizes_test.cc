// SPDX-License-Identifier: Apache-2.0
//
// How large the programs are, as the kernel counts: against the table that is checked in,
// tests/bpf/program_sizes.txt. Growth is noticed when it happens, not when a verifier refuses.
// `make program-sizes` writes the table anew; then the new numbers are reviewed with the change.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>

#include "agent/kernel/libbpf_log.h"
#include "tests/bpf/data_plane_fixture.h"
#include "weir.skel.h"
#include "weir_listen.skel.h"

namespace weir::kernel {
namespace {

constexpr char kTable[] = "tests/bpf/program_sizes.txt";
/// A program may grow by so much before somebody has to look at it.
constexpr double kGrowth = 1.20;

struct Size {
  std::uint32_t verified_instructions = 0;  ///< bpf_prog_info.verified_insns
  std::uint32_t xlated_bytes = 0;
  std::uint32_t jited_bytes = 0;
  double load_ms = 0;
};

using Sizes = std::map<std::string, Size>;

struct CloseObject {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using Object = std::unique_ptr<bpf_object, CloseObject>;

Object open_object(const void* elf, std::size_t bytes) {
  return Object(bpf_object__open_mem(elf, bytes, nullptr));
}

/// The object with one program alone, so that its own time shows.
double load_ms(const void* elf, std::size_t bytes, const std::string& name) {
  const Object object = open_object(elf, bytes);
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.get()) {
    bpf_program__set_autoload(program, name.empty() || name == bpf_program__name(program));
  }
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(bpf_object__load(object.get()), 0) << name;
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  return took.count();
}

/// Every program, those that only one request clock needs too.
void measure(const char* title, const void* elf, std::size_t bytes, Sizes& sizes) {
  const double all_ms = load_ms(elf, bytes, "");
  const Object object = open_object(elf, bytes);
  ASSERT_EQ(bpf_object__load(object.get()), 0) << title;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.get()) {
    bpf_prog_info info{};
    std::uint32_t info_bytes = sizeof(info);
    ASSERT_EQ(bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &info_bytes), 0);
    const std::string name = bpf_program__name(program);
    sizes[name] = {info.verified_insns, info.xlated_prog_len, info.jited_prog_len,
                   load_ms(elf, bytes, name)};
  }
  std::cout << "load time of " << title << ": " << all_ms << " ms\n";
}

Sizes measured() {
  Sizes sizes;
  std::size_t bytes = 0;
  const void* elf = weir_bpf__elf_bytes(&bytes);
  measure("the data plane", elf, bytes, sizes);
  elf = weir_listen_bpf__elf_bytes(&bytes);
  measure("the listener programs", elf, bytes, sizes);
  return sizes;
}

Sizes checked_in() {
  Sizes sizes;
  std::ifstream file(kTable);
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string name;
    Size size;
    if (line.rfind('#', 0) == 0) continue;
    if (fields >> name >> size.verified_instructions >> size.xlated_bytes >> size.jited_bytes) {
      sizes[name] = size;
    }
  }
  return sizes;
}

void write_table(const Sizes& sizes, std::ostream& out) {
  out << "# Written by `make program-sizes`; checked by tests/bpf/program_sizes_test.cc.\n"
         "# Instructions that the verifier went through, again for each way by which it came; "
         "bytes\n"
         "# after translation and as machine code.\n"
         "#\n"
         "# program          verified  xlated_bytes  jited_bytes\n";
  for (const auto& [name, size] : sizes) {
    char line[128];
    std::snprintf(line, sizeof(line), "%-17s %9u %13u %12u\n", name.c_str(),
                  size.verified_instructions, size.xlated_bytes, size.jited_bytes);
    out << line;
  }
}

class ProgramSizes : public DataPlaneTest {
 protected:
  void SetUp() override {
    DataPlaneTest::SetUp();
    route_libbpf_log();
  }
};

TEST_F(ProgramSizes, Trap17NoProgramGrewUnnoticed) {
  const Sizes now = measured();
  const Sizes before = checked_in();
  ASSERT_FALSE(before.empty()) << kTable << " cannot be read: run this from the repository";
  for (const auto& [name, size] : now) {
    std::cout << name << ": verified " << size.verified_instructions << ", load " << size.load_ms
              << " ms\n";
    const auto known = before.find(name);
    if (known == before.end()) {
      ADD_FAILURE() << name << " is not in " << kTable << ": `make program-sizes`";
      continue;
    }
    EXPECT_LE(size.verified_instructions, known->second.verified_instructions * kGrowth)
        << name << " grew: if it has to, `make program-sizes`";
  }
  for (const auto& [name, size] : before) {
    EXPECT_TRUE(now.contains(name)) << name << " is in " << kTable << " and nowhere else";
  }
}

/// Not a test of anything: what `make program-sizes` runs.
TEST_F(ProgramSizes, DISABLED_WriteTable) {
  const Sizes now = measured();
  ASSERT_FALSE(now.empty());
  std::ofstream file(kTable);
  write_table(now, file);
  ASSERT_TRUE(file.good());
}

}  // namespace
}  // namespace weir::kernel
