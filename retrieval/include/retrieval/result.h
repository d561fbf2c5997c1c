// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace lectern::retrieval {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kNotFound,         // a file, directory or document is missing
  kPermission,       // the operating system refused access
  kUnreadable,       // the document is damaged, empty or of a kind that holds no text
  kEncrypted,        // the document needs a password
  kTooLarge,         // a stated limit was exceeded
  kNewerVersion,     // the library was written by a newer Lectern
  kCorrupt,          // a library file is damaged
  kBusy,             // another process owns the library
  kStorage,          // disk full or I/O error
  kGenerator,        // the model failed; the message is the engine's own
  kCancelled,
};

// One sentence a person can act on: names the item, the cause and, where there is one, the remedy.
struct Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
};

// A value or an Error. Expected failures travel this way; no exception leaves this module.
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

}  // namespace lectern::retrieval

// NOLINTBEGIN(bugprone-macro-parentheses): a declaration cannot stand in parentheses
// Declares `declaration` from the value of `expression`, or returns its error from the enclosing function.
#define RETRIEVAL_TRY_CONCAT_(a, b) a##b
#define RETRIEVAL_TRY_NAME_(line) RETRIEVAL_TRY_CONCAT_(retrieval_try_result_, line)
#define RETRIEVAL_TRY(declaration, expression)                                           \
  auto RETRIEVAL_TRY_NAME_(__LINE__) = (expression);                                     \
  if (!RETRIEVAL_TRY_NAME_(__LINE__).ok()) return RETRIEVAL_TRY_NAME_(__LINE__).error(); \
  declaration = std::move(RETRIEVAL_TRY_NAME_(__LINE__)).value()

// As RETRIEVAL_TRY, for Result<void>.
#define RETRIEVAL_CHECK(expression)                                          \
  do {                                                                       \
    auto retrieval_check_result = (expression);                              \
    if (!retrieval_check_result.ok()) return retrieval_check_result.error(); \
  } while (false)
// NOLINTEND(bugprone-macro-parentheses)
