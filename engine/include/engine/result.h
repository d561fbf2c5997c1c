// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace lectern::engine {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kNotFound,         // a file or directory is missing
  kCorrupt,          // a file exists but its content is wrong
  kUnsupported,      // well formed, but not something this engine runs
  kOutOfMemory,
  kIo,
  kDevice,
  kCancelled,
};

// One sentence a person can act on: names the item, the cause and, where there is one, the remedy.
struct Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
};

// A value or an Error. Expected failures travel this way; no exception leaves the engine.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : content_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : content_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(content_); }
  explicit operator bool() const { return ok(); }

  T& value() & { return std::get<T>(content_); }
  const T& value() const& { return std::get<T>(content_); }
  T&& value() && { return std::get<T>(std::move(content_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(*this).value(); }  // by value: `for (x : *f())` must not dangle
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const { return std::get<Error>(content_); }

 private:
  std::variant<T, Error> content_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

}  // namespace lectern::engine

// NOLINTBEGIN(bugprone-macro-parentheses): a declaration cannot stand in parentheses
// Declares `declaration` from the value of `expression`, or returns its error from the enclosing function.
#define ENGINE_TRY_CONCAT_(a, b) a##b
#define ENGINE_TRY_NAME_(line) ENGINE_TRY_CONCAT_(engine_try_result_, line)
#define ENGINE_TRY(declaration, expression)                                        \
  auto ENGINE_TRY_NAME_(__LINE__) = (expression);                                  \
  if (!ENGINE_TRY_NAME_(__LINE__).ok()) return ENGINE_TRY_NAME_(__LINE__).error(); \
  declaration = std::move(ENGINE_TRY_NAME_(__LINE__)).value()

// As ENGINE_TRY, for Result<void>.
#define ENGINE_CHECK(expression)                                       \
  do {                                                                 \
    auto engine_check_result = (expression);                           \
    if (!engine_check_result.ok()) return engine_check_result.error(); \
  } while (false)
// NOLINTEND(bugprone-macro-parentheses)
