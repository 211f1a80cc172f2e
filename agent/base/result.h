// SPDX-License-Identifier: Apache-2.0
//
// Errors as values. A fallible call returns Result<T> (or Status, when there is nothing to
// return); no exception crosses a module boundary.
//
// Thread-safe: values without shared state.
#pragma once

#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace weir {

/// What kind of failure this is; callers branch on it, people read Error::message.
enum class Code {
  kInvalidArgument,    ///< the caller's input is wrong; trying again does not help
  kNotFound,           ///< the named thing does not exist
  kAlreadyExists,      ///< the named thing exists and must not
  kPermissionDenied,   ///< a privilege is missing
  kUnsupported,        ///< this kernel, file or build cannot do it
  kResourceExhausted,  ///< a bound was reached; later it may work
  kUnavailable,        ///< not now (loading, draining, dead)
  kCancelled,          ///< the requester went away
  kInternal,           ///< a bug or a broken invariant
  kIo,                 ///< an operating-system call failed; see Error::os_errno
};

struct Error {
  Code code = Code::kInternal;
  std::string message;
  /// errno of the failed call, when there was one.
  std::optional<int> os_errno;

  /// The same error told from one level up: "what: message".
  [[nodiscard]] Error context(std::string_view what) && {
    message.insert(0, std::string(what) + ": ");
    return std::move(*this);
  }
};

[[nodiscard]] inline Error make_error(Code code, std::string message) {
  return Error{code, std::move(message), std::nullopt};
}

/// An error from a failed system or libbpf call; `err` is a positive errno value.
[[nodiscard]] inline Error os_error(int err, std::string_view what) {
  return Error{Code::kIo, std::string(what) + ": " + std::strerror(err), err};
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }

  /// Precondition: ok().
  [[nodiscard]] T& value() & { return std::get<T>(state_); }
  [[nodiscard]] const T& value() const& { return std::get<T>(state_); }
  [[nodiscard]] T&& value() && { return std::get<T>(std::move(state_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

  /// Precondition: !ok().
  [[nodiscard]] const Error& error() const& { return std::get<Error>(state_); }
  [[nodiscard]] Error&& error() && { return std::get<Error>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

/// The outcome of a call that returns nothing: success, or an Error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  /// Precondition: !ok().
  [[nodiscard]] const Error& error() const& { return *error_; }
  [[nodiscard]] Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace weir
