// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

#include "gtest/registry.h"

// The part of GoogleTest's interface that the backend's tests use, for machines that have no packages: same names, same
// meaning. Elsewhere the tests are built with GoogleTest itself.
// NOLINTBEGIN(readability-identifier-naming,cppcoreguidelines-macro-usage): GoogleTest's own names
namespace testing {

class Message {
 public:
  template <class T>
  Message& operator<<(const T& value) {
    text_ << value;
    return *this;
  }
  Message& operator<<(bool value) {
    text_ << (value ? "true" : "false");
    return *this;
  }
  std::string str() const { return text_.str(); }

 private:
  std::ostringstream text_;
};

namespace internal {

enum class Severity : std::uint8_t { kNonFatal, kFatal, kSkip };

class AssertHelper {
 public:
  AssertHelper(Severity severity, const char* file, int line, std::string what)
      : severity_(severity), place_(std::string(file) + ":" + std::to_string(line)), what_(std::move(what)) {}
  void operator=(const Message& message) const {  // NOLINT(misc-unconventional-assign-operator): lets ASSERT return it
    Progress& current = progress();
    if (severity_ == Severity::kSkip) {
      current.skipped = true;
      current.skip_reason = message.str();
      return;
    }
    std::string text = place_ + ": " + what_ + (message.str().empty() ? "" : "\n    " + message.str());
    for (auto trace = current.traces.rbegin(); trace != current.traces.rend(); ++trace) text += "\n    in " + *trace;
    current.failures.push_back(text);
    current.fatal = current.fatal || severity_ == Severity::kFatal;
  }

 private:
  Severity severity_;
  std::string place_;
  std::string what_;
};

class Trace {
 public:
  explicit Trace(const Message& message) { progress().traces.push_back(message.str()); }
  ~Trace() { progress().traces.pop_back(); }
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
};

template <class T>
std::string shown(const T& value) {
  std::ostringstream text;
  if constexpr (std::is_same_v<T, bool>) {
    text << (value ? "true" : "false");
  } else if constexpr (std::is_floating_point_v<T>) {
    text.precision(std::numeric_limits<T>::max_digits10);
    text << value;
  } else if constexpr (std::is_enum_v<T>) {
    text << +static_cast<std::underlying_type_t<T>>(value);
  } else if constexpr (std::is_same_v<T, std::byte>) {
    text << static_cast<int>(value);
  } else if constexpr (requires { text << value; }) {
    text << value;
  } else if constexpr (requires {
                         std::begin(value);
                         std::end(value);
                       }) {
    std::size_t left = 32;
    text << "{";
    for (const auto& element : value) {
      text << " " << (left > 0 ? shown(element) : "...");
      if (left-- == 0) break;
    }
    text << " }";
  } else {
    text << sizeof(T) << " bytes";
  }
  return text.str();
}

// Nothing, or what is wrong.
using Finding = std::optional<std::string>;

template <class A, class B, class Compare>
Finding compare(const char* a_text, const char* sign, const char* b_text, const A& a, const B& b,
                const Compare& holds) {
  if (holds(a, b)) return {};
  return std::string(a_text) + " " + sign + " " + b_text + " does not hold: " + shown(a) + " against " + shown(b);
}

inline Finding check_near(const char* a_text, const char* b_text, double a, double b, double tolerance) {
  if (std::abs(a - b) <= tolerance) return {};
  return std::string(a_text) + " is not near " + b_text + ": " + shown(a) + " against " + shown(b) + ", " +
         shown(std::abs(a - b)) + " apart where " + shown(tolerance) + " is allowed";
}

// Four units in the last place, as GoogleTest has it.
template <class Float>
Finding check_float(const char* a_text, const char* b_text, Float a, Float b) {
  const Float largest = std::max(std::abs(a), std::abs(b));
  const Float unit = std::nextafter(largest, std::numeric_limits<Float>::infinity()) - largest;
  if (a == b || std::abs(a - b) <= 4 * unit) return {};
  return std::string(a_text) + " is not " + b_text + ": " + shown(a) + " against " + shown(b);
}

inline Finding check_strings(const char* a_text, const char* b_text, const char* a, const char* b) {
  if (a == b || (a != nullptr && b != nullptr && std::strcmp(a, b) == 0)) return {};
  return std::string(a_text) + " is not " + b_text + ": \"" + (a != nullptr ? a : "(null)") + "\" against \"" +
         (b != nullptr ? b : "(null)") + "\"";
}

template <class T>
Finding check_truth(const char* text, const T& value, bool wanted) {
  if (static_cast<bool>(value) == wanted) return {};
  return std::string(text) + " is " + (wanted ? "false" : "true");
}

}  // namespace internal
}  // namespace testing

#define RUN_ALL_TESTS() ::testing::run_all_tests()

// --- tests --------------------------------------------------------------------------------------------------------
#define LECTERN_TEST_CLASS_(suite, name) suite##_##name##_Test
#define LECTERN_TEST_(suite, name, fixture, registration)                  \
  class LECTERN_TEST_CLASS_(suite, name) : public fixture {                \
    void TestBody() override;                                              \
    static const bool registered_;                                         \
  };                                                                       \
  const bool LECTERN_TEST_CLASS_(suite, name)::registered_ = registration; \
  void LECTERN_TEST_CLASS_(suite, name)::TestBody()
#define LECTERN_STEPS_(name_of_class) \
  { &name_of_class::SetUpTestSuite, &name_of_class::TearDownTestSuite }
#define LECTERN_PLAIN_(suite, name, fixture)                                     \
  LECTERN_TEST_(suite, name, fixture,                                            \
                ::testing::internal::add_test<LECTERN_TEST_CLASS_(suite, name)>( \
                    #suite, #name, LECTERN_STEPS_(LECTERN_TEST_CLASS_(suite, name))))
#define TEST(suite, name) LECTERN_PLAIN_(suite, name, ::testing::Test)
#define TEST_F(fixture, name) LECTERN_PLAIN_(fixture, name, fixture)
#define TEST_P(fixture, name)                                                                \
  LECTERN_TEST_(fixture, name, fixture,                                                      \
                (::testing::internal::add_body<LECTERN_TEST_CLASS_(fixture, name), fixture>( \
                    #name, LECTERN_STEPS_(LECTERN_TEST_CLASS_(fixture, name)))))
#define LECTERN_FIRST_(first, ...) first
#define LECTERN_REST_(first, ...) __VA_OPT__(, ) __VA_ARGS__
#define INSTANTIATE_TEST_SUITE_P(prefix, fixture, ...)                                           \
  static const bool instance_##prefix##_##fixture = ::testing::internal::add_expansion<fixture>( \
      #prefix, #fixture, [] { return LECTERN_FIRST_(__VA_ARGS__, 0); } LECTERN_REST_(__VA_ARGS__))
#define GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(fixture) static_assert(sizeof(fixture) > 0)

// --- assertions ---------------------------------------------------------------------------------------------------
#define LECTERN_REPORT_(severity, what)                                                                  \
  ::testing::internal::AssertHelper(::testing::internal::Severity::severity, __FILE__, __LINE__, what) = \
      ::testing::Message()
#define LECTERN_CHECK_(finding, on_failure)                                                 \
  switch (0)                                                                                \
  case 0:                                                                                   \
  default:                                                                                  \
    if (const ::testing::internal::Finding lectern_finding = (finding); !lectern_finding) { \
    } else                                                                                  \
      on_failure
#define LECTERN_EXPECT_(finding) LECTERN_CHECK_(finding, LECTERN_REPORT_(kNonFatal, *lectern_finding))
#define LECTERN_ASSERT_(finding) LECTERN_CHECK_(finding, return LECTERN_REPORT_(kFatal, *lectern_finding))

#define LECTERN_COMPARE_(a, sign, b, functor) ::testing::internal::compare(#a, sign, #b, a, b, functor<>())
#define EXPECT_EQ(a, b) LECTERN_EXPECT_(LECTERN_COMPARE_(a, "==", b, std::equal_to))
#define EXPECT_NE(a, b) LECTERN_EXPECT_(LECTERN_COMPARE_(a, "!=", b, std::not_equal_to))
#define EXPECT_LT(a, b) LECTERN_EXPECT_(LECTERN_COMPARE_(a, "<", b, std::less))
#define EXPECT_LE(a, b) LECTERN_EXPECT_(LECTERN_COMPARE_(a, "<=", b, std::less_equal))
#define EXPECT_GT(a, b) LECTERN_EXPECT_(LECTERN_COMPARE_(a, ">", b, std::greater))
#define EXPECT_GE(a, b) LECTERN_EXPECT_(LECTERN_COMPARE_(a, ">=", b, std::greater_equal))
#define ASSERT_EQ(a, b) LECTERN_ASSERT_(LECTERN_COMPARE_(a, "==", b, std::equal_to))
#define ASSERT_NE(a, b) LECTERN_ASSERT_(LECTERN_COMPARE_(a, "!=", b, std::not_equal_to))
#define ASSERT_LT(a, b) LECTERN_ASSERT_(LECTERN_COMPARE_(a, "<", b, std::less))
#define ASSERT_LE(a, b) LECTERN_ASSERT_(LECTERN_COMPARE_(a, "<=", b, std::less_equal))
#define ASSERT_GT(a, b) LECTERN_ASSERT_(LECTERN_COMPARE_(a, ">", b, std::greater))
#define ASSERT_GE(a, b) LECTERN_ASSERT_(LECTERN_COMPARE_(a, ">=", b, std::greater_equal))
#define EXPECT_TRUE(value) LECTERN_EXPECT_(::testing::internal::check_truth(#value, value, true))
#define EXPECT_FALSE(value) LECTERN_EXPECT_(::testing::internal::check_truth(#value, value, false))
#define ASSERT_TRUE(value) LECTERN_ASSERT_(::testing::internal::check_truth(#value, value, true))
#define ASSERT_FALSE(value) LECTERN_ASSERT_(::testing::internal::check_truth(#value, value, false))
#define EXPECT_NEAR(a, b, tolerance) LECTERN_EXPECT_(::testing::internal::check_near(#a, #b, a, b, tolerance))
#define ASSERT_NEAR(a, b, tolerance) LECTERN_ASSERT_(::testing::internal::check_near(#a, #b, a, b, tolerance))
#define EXPECT_FLOAT_EQ(a, b) LECTERN_EXPECT_(::testing::internal::check_float<float>(#a, #b, a, b))
#define EXPECT_DOUBLE_EQ(a, b) LECTERN_EXPECT_(::testing::internal::check_float<double>(#a, #b, a, b))
#define EXPECT_STREQ(a, b) LECTERN_EXPECT_(::testing::internal::check_strings(#a, #b, a, b))
#define ASSERT_STREQ(a, b) LECTERN_ASSERT_(::testing::internal::check_strings(#a, #b, a, b))
#define ADD_FAILURE() LECTERN_REPORT_(kNonFatal, "failed")
#define FAIL() return LECTERN_REPORT_(kFatal, "failed")
#define SUCCEED() static_cast<void>(0)
#define GTEST_SKIP() return LECTERN_REPORT_(kSkip, "skipped")
#define LECTERN_JOIN_2_(a, b) a##b
#define LECTERN_JOIN_(a, b) LECTERN_JOIN_2_(a, b)
#define SCOPED_TRACE(message) \
  const ::testing::internal::Trace LECTERN_JOIN_(lectern_trace_, __LINE__)(::testing::Message() << (message))
// NOLINTEND(readability-identifier-naming,cppcoreguidelines-macro-usage)
