// SPDX-License-Identifier: Apache-2.0
//
// One piece of work for the WorkerPool: a callable without arguments and result that is moved, run
// once and destroyed. It lives inside the task, which is one cache line: queueing one allocates
// nothing, and half a million that wait are 32 MB.
//
// Thread-compatible. Owns the callable. A callable that does not fit does not compile: boxed()
// takes it. A callable that throws ends the program.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace weir::schedule {

class Task {
 public:
  static constexpr std::size_t kCapacityBytes = 56;

  Task() = default;

  template <typename Callable>
  requires(!std::same_as<std::remove_cvref_t<Callable>, Task> &&
           std::invocable<std::decay_t<Callable>&>)
      Task(Callable&& callable) {  // NOLINT(google-explicit-constructor)
    using Held = std::decay_t<Callable>;
    static_assert(sizeof(Held) <= kCapacityBytes, "captures too much: use boxed()");
    static_assert(alignof(Held) <= alignof(std::max_align_t) && alignof(Held) <= kAlignment);
    static_assert(std::is_nothrow_move_constructible_v<Held>, "queues move tasks");
    ::new (static_cast<void*>(storage_)) Held(std::forward<Callable>(callable));
    kind_ = &kKindOf<Held>;
  }

  /// Of a callable that may not fit; it is allocated.
  template <typename Callable>
  [[nodiscard]] static Task boxed(Callable&& callable) {
    using Held = std::decay_t<Callable>;
    return [held = std::make_unique<Held>(std::forward<Callable>(callable))] { (*held)(); };
  }

  Task(Task&& other) noexcept { take(other); }
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      reset();
      take(other);
    }
    return *this;
  }
  ~Task() { reset(); }

  /// Whether there is something to run.
  explicit operator bool() const { return kind_ != nullptr; }

  /// Runs the callable, then destroys it; the task is empty meanwhile. Precondition: not empty.
  void operator()() && noexcept { std::exchange(kind_, nullptr)->run(storage_); }

 private:
  static constexpr std::size_t kAlignment = 8;

  struct Kind {
    void (*run)(void* held);             ///< and destroys it
    void (*move)(void* to, void* from);  ///< and destroys what was moved from; null: copy bytes
    void (*destroy)(void* held);         ///< null: nothing to do
  };

  template <typename Held>
  static void run_held(void* held) {
    Held& callable = *static_cast<Held*>(held);
    callable();
    callable.~Held();
  }
  template <typename Held>
  static void move_held(void* to, void* from) {
    ::new (to) Held(std::move(*static_cast<Held*>(from)));
    static_cast<Held*>(from)->~Held();
  }
  template <typename Held>
  static void destroy_held(void* held) {
    static_cast<Held*>(held)->~Held();
  }
  template <typename Held>
  static constexpr Kind kKindOf{
      &run_held<Held>, std::is_trivially_copyable_v<Held> ? nullptr : &move_held<Held>,
      std::is_trivially_destructible_v<Held> ? nullptr : &destroy_held<Held>};

  void take(Task& other) noexcept {
    kind_ = std::exchange(other.kind_, nullptr);
    if (kind_ != nullptr && kind_->move != nullptr) {
      kind_->move(storage_, other.storage_);
    } else {
      // All of it, whatever the size: cheaper than to ask. An empty task copies bytes of no
      // meaning.
      std::memcpy(storage_, other.storage_, kCapacityBytes);
    }
  }

  void reset() noexcept {
    if (kind_ != nullptr && kind_->destroy != nullptr) {
      kind_->destroy(storage_);
    }
    kind_ = nullptr;
  }

  const Kind* kind_ = nullptr;  ///< null: empty
  alignas(kAlignment) std::byte storage_[kCapacityBytes];
};

static_assert(sizeof(Task) == 64);

}  // namespace weir::schedule
