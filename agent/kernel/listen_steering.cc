// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/listen_steering.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <random>

#include "agent/kernel/backlog_strays.h"
#include "agent/kernel/fd.h"
#include "agent/kernel/libbpf_log.h"
#include "bpf/lib/listen.bpf.h"
#include "weir/listen_abi.h"
#include "weir_listen.skel.h"

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;

struct DestroySkeleton {
  void operator()(weir_listen_bpf* skeleton) const { weir_listen_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<weir_listen_bpf, DestroySkeleton>;

template <typename T>
T load(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_RELAXED);
}

template <typename T>
void store(T& field, T value) {
  __atomic_store_n(&field, value, __ATOMIC_RELAXED);
}

std::uint32_t random_nonzero() {
  std::random_device device;
  std::uint32_t value = 0;
  while (value == 0) value = device();
  return value;
}

/// The loaded program and the memory of its maps.
class Maps {
 public:
  Maps(Skeleton skeleton, weir_depths* depths) : skeleton_(std::move(skeleton)), depths_(depths) {
    // An agent that was killed has left its tickets behind.
    for (std::uint32_t slot = 0; slot < load(depths->slots) && slot < WEIR_MAX_LISTENERS; ++slot) {
      std::uint32_t ticket = load(depths->listener[slot].ticket);
      if (ticket == 0 || has_socket(slot)) continue;
      __atomic_compare_exchange_n(&depths->listener[slot].ticket, &ticket, 0U, /*weak=*/false,
                                  __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
  }
  ~Maps() { munmap(depths_, sizeof(weir_depths)); }
  Maps(const Maps&) = delete;
  Maps& operator=(const Maps&) = delete;

  [[nodiscard]] weir_depths& depths() const { return *depths_; }
  [[nodiscard]] int program() const { return bpf_program__fd(skeleton_->progs.weir_select); }
  [[nodiscard]] int sockets() const { return bpf_map__fd(skeleton_->maps.weir_listen); }

  [[nodiscard]] bool has_socket(std::uint32_t slot) const {
    std::uint64_t cookie = 0;
    return bpf_map_lookup_elem(sockets(), &slot, &cookie) == 0;
  }

 private:
  Skeleton skeleton_;
  weir_depths* const depths_;
};

class Seat final : public ListenerSeat {
 public:
  Seat(std::shared_ptr<Maps> maps, std::uint32_t slot)
      : maps_(std::move(maps)), slot_(slot), record_(maps_->depths().listener[slot]) {}

  ~Seat() override { leave_once(); }
  void leave() override { leave_once(); }

  void accepted() override {
    if (!left_) store(record_.accepted, ++accepted_);
  }
  void set_waiting(std::uint32_t requests) override {
    if (!left_) store(record_.waiting, requests);
  }
  void set_queued(std::uint32_t connections) override {
    if (left_) return;
    const auto outstanding = static_cast<std::int64_t>(load(record_.chosen) - accepted_);
    store(record_.strays, static_cast<std::uint64_t>(strays_.update(outstanding, connections)));
  }

  [[nodiscard]] ListenerReading read() const override {
    if (left_) return {};
    return {weir_listener_depth(&record_), load(record_.chosen), load(record_.taken_over)};
  }

 private:
  // Once: afterwards the slot may be somebody else's. The socket may live on, so it is taken out.
  void leave_once() {
    if (left_.exchange(true)) return;
    store(record_.ticket, 0U);
    (void)bpf_map_delete_elem(maps_->sockets(), &slot_);
  }

  const std::shared_ptr<Maps> maps_;
  const std::uint32_t slot_;
  weir_listener& record_;
  std::atomic<bool> left_{false};
  std::uint64_t accepted_ = 0;
  BacklogStrays strays_;
};

class Steering final : public ListenSteering {
 public:
  Steering(std::shared_ptr<Maps> maps, bool migrates)
      : maps_(std::move(maps)), owner_(random_nonzero()), migrates_(migrates) {}

  Result<std::unique_ptr<ListenerSeat>> join(int listening_socket) override {
    // A group has one program: this replaces that of an earlier listener, which does the same with
    // the same maps.
    const int program = maps_->program();
    if (setsockopt(listening_socket, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program,
                   sizeof(program)) != 0) {
      return os_error(errno, "cannot attach the program that chooses among listeners");
    }
    weir_depths& depths = maps_->depths();
    for (std::uint32_t slot = 0; slot < WEIR_MAX_LISTENERS; ++slot) {
      const auto socket_fd = static_cast<std::uint64_t>(listening_socket);
      if (bpf_map_update_elem(maps_->sockets(), &slot, &socket_fd, BPF_NOEXIST) != 0) {
        if (errno == EEXIST) continue;
        return os_error(errno, "cannot add a listener to weir_listen");
      }
      // No program looks at the record before it has a ticket.
      weir_listener& record = depths.listener[slot];
      record = {};
      record.owner = owner_;
      std::uint32_t slots = load(depths.slots);
      while (slots <= slot &&
             !__atomic_compare_exchange_n(&depths.slots, &slots, slot + 1, /*weak=*/false,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      }
      __atomic_store_n(&record.ticket, random_nonzero(), __ATOMIC_RELEASE);
      return std::unique_ptr<ListenerSeat>(std::make_unique<Seat>(maps_, slot));
    }
    return make_error(Code::kResourceExhausted, "all " + std::to_string(WEIR_MAX_LISTENERS) +
                                                    " listeners of this port are taken");
  }

  void leave() override {
    for (weir_listener& record : maps_->depths().listener) {
      if (load(record.owner) == owner_) store(record.ticket, 0U);
    }
  }

  [[nodiscard]] std::uint32_t owner() const override { return owner_; }
  [[nodiscard]] bool migrates() const override { return migrates_; }

  [[nodiscard]] bool has_listener_of(std::uint32_t owner) const override {
    const weir_depths& depths = maps_->depths();
    for (std::uint32_t slot = 0; slot < load(depths.slots) && slot < WEIR_MAX_LISTENERS; ++slot) {
      const weir_listener& record = depths.listener[slot];
      if (load(record.ticket) != 0 && load(record.owner) == owner && maps_->has_socket(slot)) {
        return true;
      }
    }
    return false;
  }

 private:
  const std::shared_ptr<Maps> maps_;
  const std::uint32_t owner_;
  const bool migrates_;
};

/// "4026531840-8080-0000…7f000001": a bpffs takes no dots in names.
Result<std::string> name_of(const Endpoint& address) {
  struct stat network {};
  if (stat("/proc/self/ns/net", &network) != 0) {
    return os_error(errno, "cannot tell the network namespace");
  }
  std::string name = std::to_string(network.st_ino) + "-" + std::to_string(address.port) + "-";
  for (const std::uint8_t byte : address.ip) {
    std::array<char, 3> hex{};
    std::snprintf(hex.data(), hex.size(), "%02x", byte);
    name += hex.data();
  }
  return name;
}

Status use_pinned(bpf_map* map, const std::string& path) {
  const Fd fd(bpf_obj_get(path.c_str()));
  if (!fd.valid()) return os_error(errno, "cannot open " + path);
  bpf_map_info info{};
  std::uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &bytes) != 0) {
    return os_error(errno, "cannot inspect " + path);
  }
  if (info.type != static_cast<std::uint32_t>(bpf_map__type(map)) ||
      info.key_size != bpf_map__key_size(map) || info.value_size != bpf_map__value_size(map) ||
      info.max_entries != bpf_map__max_entries(map)) {
    return make_error(Code::kUnsupported, path + " has another layout than this build");
  }
  const int error = bpf_map__reuse_fd(map, fd.get());
  if (error != 0) return os_error(-error, "cannot reuse " + path);
  return {};
}

Result<std::unique_ptr<ListenSteering>> open_at(const std::string& path, bool adopt,
                                                std::optional<bool> migrate) {
  Skeleton skeleton(weir_listen_bpf__open());
  if (!skeleton) return os_error(errno, "cannot open the embedded listen program");
  const bool migrates = migrate.value_or(has_listener_migration());
  skeleton->rodata->weir_migrates = migrates;
  bpf_program__set_expected_attach_type(
      skeleton->progs.weir_select,
      migrates ? BPF_SK_REUSEPORT_SELECT_OR_MIGRATE : BPF_SK_REUSEPORT_SELECT);
  const std::array<bpf_map*, 2> maps = {skeleton->maps.weir_listen, skeleton->maps.weir_depth};
  for (bpf_map* const map : maps) {
    if (!adopt) continue;
    Status used = use_pinned(map, path + "/" + bpf_map__name(map));
    if (!used) return std::move(used).error();
  }
  if (const int error = weir_listen_bpf__load(skeleton.get()); error != 0) {
    return os_error(-error, "the kernel refused the listen program (log level debug shows why)");
  }
  for (bpf_map* const map : maps) {
    const std::string pin = path + "/" + bpf_map__name(map);
    if (!adopt && bpf_obj_pin(bpf_map__fd(map), pin.c_str()) != 0) {
      return os_error(errno, "cannot pin " + pin);
    }
  }
  void* const memory = mmap(nullptr, sizeof(weir_depths), PROT_READ | PROT_WRITE, MAP_SHARED,
                            bpf_map__fd(skeleton->maps.weir_depth), 0);
  if (memory == MAP_FAILED) return os_error(errno, "cannot map weir_depth into memory");
  auto opened = std::make_shared<Maps>(std::move(skeleton), static_cast<weir_depths*>(memory));
  return std::unique_ptr<ListenSteering>(std::make_unique<Steering>(std::move(opened), migrates));
}

}  // namespace

bool has_listener_migration() {
  route_libbpf_log();
  std::array<bpf_insn, 2> code{};
  code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  code[0].imm = SK_PASS;
  code[1].code = BPF_JMP | BPF_EXIT;
  bpf_prog_load_opts options{};
  options.sz = sizeof(options);
  options.expected_attach_type = BPF_SK_REUSEPORT_SELECT_OR_MIGRATE;
  const Fd program(bpf_prog_load(BPF_PROG_TYPE_SK_REUSEPORT, "weir_probe", "GPL", code.data(),
                                 code.size(), &options));
  return program.valid();
}

Result<std::unique_ptr<ListenSteering>> ListenSteering::open(const Options& options) {
  route_libbpf_log();
  auto name = name_of(options.address);
  if (!name) return std::move(name).error();
  const std::string parent = options.directory + "/listen";
  const std::string path = parent + "/" + *name;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, error)) {
    if (entry.path() != path) fs::remove_all(entry.path(), error);
  }
  fs::create_directories(path, error);
  if (error) return os_error(error.value(), "cannot make " + path);
  const auto pinned = [&](const char* map) { return fs::exists(path + "/" + map, error); };
  if (pinned(WEIR_MAP_LISTEN) && pinned(WEIR_MAP_DEPTH)) {
    auto adopted = open_at(path, /*adopt=*/true, options.migrate);
    if (adopted || adopted.error().code != Code::kUnsupported) return adopted;
  }
  // Half a start of an earlier agent, or another layout: nobody listens on these any more.
  fs::remove(path + "/" WEIR_MAP_LISTEN, error);
  fs::remove(path + "/" WEIR_MAP_DEPTH, error);
  return open_at(path, /*adopt=*/false, options.migrate);
}

Result<std::unique_ptr<ListenSteering>> ListenSteering::open_running(const Options& options) {
  route_libbpf_log();
  auto name = name_of(options.address);
  if (!name) return std::move(name).error();
  const std::string path = options.directory + "/listen/" + *name;
  std::error_code error;
  if (!fs::exists(path + "/" WEIR_MAP_DEPTH, error)) {
    return make_error(Code::kNotFound, "no agent listens on " + options.address.to_string() +
                                           " in this network namespace with its listeners below " +
                                           options.directory);
  }
  return open_at(path, /*adopt=*/true, options.migrate);
}

}  // namespace weir::kernel
