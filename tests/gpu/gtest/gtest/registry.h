// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// Tests and the values of their parameters, as gtest.h declares them.
// NOLINTBEGIN(readability-identifier-naming): GoogleTest's own names
namespace testing {

class Test {
 public:
  virtual ~Test() = default;
  virtual void SetUp() {}
  virtual void TearDown() {}
  virtual void TestBody() = 0;
  static void SetUpTestSuite() {}
  static void TearDownTestSuite() {}
  static bool HasFailure();
  static bool HasFatalFailure();
  static bool IsSkipped();
};

template <class T>
class WithParamInterface {
 public:
  using ParamType = T;
  virtual ~WithParamInterface() = default;
  static const T& GetParam() { return *current_; }
  static void set_param(const T* param) { current_ = param; }

 private:
  inline static const T* current_ = nullptr;
};

template <class T>
class TestWithParam : public Test, public WithParamInterface<T> {};

template <class T>
struct TestParamInfo {
  T param;
  std::size_t index;
};

namespace internal {

// How a running test stands.
struct Progress {
  std::vector<std::string> failures;
  std::vector<std::string> traces;
  std::string skip_reason;
  bool fatal = false;
  bool skipped = false;
};
inline Progress& progress() {
  static Progress current;
  return current;
}

// Made where the test class is in scope, because fixtures may keep these two for themselves.
struct SuiteSteps {
  void (*set_up)() = nullptr;
  void (*tear_down)() = nullptr;
};

struct RunnableTest {
  std::string suite;
  std::string name;
  std::function<std::unique_ptr<Test>()> make;
  SuiteSteps steps;
};

struct Registry {
  std::vector<RunnableTest> tests;
  std::vector<std::function<void()>> expansions;  // of parameterised suites, called once before the tests run
};
inline Registry& registry() {
  static Registry all;
  return all;
}

template <class TestClass>
bool add_test(const char* suite, const char* name, SuiteSteps steps) {
  registry().tests.push_back({suite, name, [] { return std::make_unique<TestClass>(); }, steps});
  return true;
}

// The TEST_P bodies of one fixture.
template <class Fixture>
struct Bodies {
  struct Body {
    std::string name;
    std::function<std::unique_ptr<Test>()> make;
    SuiteSteps steps;
  };
  static std::vector<Body>& all() {
    static std::vector<Body> list;
    return list;
  }
};

template <class TestClass, class Fixture>
bool add_body(const char* name, SuiteSteps steps) {
  Bodies<Fixture>::all().push_back({name, [] { return std::make_unique<TestClass>(); }, steps});
  return true;
}

}  // namespace internal

// --- values of parameters ---------------------------------------------------------------------------------------
template <class T>
struct ParamGenerator {
  std::vector<T> values;
};

namespace internal {

template <class... Ts>
struct ValueList {
  std::tuple<Ts...> list;
  template <class T>
  operator ParamGenerator<T>() const {  // NOLINT(google-explicit-constructor): as GoogleTest's
    return std::apply([](const auto&... each) { return ParamGenerator<T>{{static_cast<T>(each)...}}; }, list);
  }
};

template <class... Generators>
struct Product {
  std::tuple<Generators...> parts;

  template <class... Ts>
  operator ParamGenerator<std::tuple<Ts...>>() const {  // NOLINT(google-explicit-constructor)
    return join<Ts...>(std::index_sequence_for<Ts...>());
  }

 private:
  template <class... Ts, std::size_t... Is>
  ParamGenerator<std::tuple<Ts...>> join(std::index_sequence<Is...>) const {
    const std::tuple<ParamGenerator<Ts>...> lists = {static_cast<ParamGenerator<Ts>>(std::get<Is>(parts))...};
    std::size_t count = (std::get<Is>(lists).values.size() * ... * 1);
    ParamGenerator<std::tuple<Ts...>> all;
    for (std::size_t i = 0; i < count; ++i) {
      std::size_t rest = count;  // the last parameter changes fastest
      std::size_t index = i;
      const auto choose = [&](const auto& values) {
        rest /= values.size();
        const std::size_t at = index / rest;
        index %= rest;
        return values[at];
      };
      all.values.push_back(std::tuple<Ts...>{choose(std::get<Is>(lists).values)...});
    }
    return all;
  }
};

}  // namespace internal

template <class... Ts>
internal::ValueList<Ts...> Values(Ts... values) {
  return {std::tuple<Ts...>(values...)};
}
template <class Container>
auto ValuesIn(const Container& container) {
  using T = std::remove_cvref_t<decltype(*std::begin(container))>;
  return ParamGenerator<T>{std::vector<T>(std::begin(container), std::end(container))};
}
template <class T, class Step = int>
ParamGenerator<T> Range(T begin, T end, Step step = 1) {
  ParamGenerator<T> all;
  for (T value = begin; value < end; value = static_cast<T>(value + step)) all.values.push_back(value);
  return all;
}
inline ParamGenerator<bool> Bool() { return {{false, true}}; }
template <class... Generators>
internal::Product<Generators...> Combine(const Generators&... generators) {
  return {std::tuple<Generators...>(generators...)};
}

namespace internal {

template <class T>
std::string number_name(const TestParamInfo<T>& info) {
  return std::to_string(info.index);
}

template <class Fixture, class Generator, class Namer>
void expand(const std::string& prefix, const char* suite, const Generator& generate, const Namer& name_of) {
  using T = typename Fixture::ParamType;
  const auto params = std::make_shared<ParamGenerator<T>>(static_cast<ParamGenerator<T>>(generate()));
  for (const auto& body : Bodies<Fixture>::all()) {
    for (std::size_t i = 0; i < params->values.size(); ++i) {
      const std::string name = body.name + "/" + name_of(TestParamInfo<T>{params->values[i], i});
      const auto make = [params, i, make_body = body.make] {
        WithParamInterface<T>::set_param(&params->values[i]);
        return make_body();
      };
      registry().tests.push_back({prefix.empty() ? suite : prefix + "/" + suite, name, make, body.steps});
    }
  }
}

template <class Fixture, class Generator, class Namer>
bool add_expansion(const char* prefix, const char* suite, Generator generate, Namer name_of) {
  registry().expansions.push_back([=] { expand<Fixture>(prefix, suite, generate, name_of); });
  return true;
}
template <class Fixture, class Generator>
bool add_expansion(const char* prefix, const char* suite, Generator generate) {
  return add_expansion<Fixture>(prefix, suite, generate, number_name<typename Fixture::ParamType>);
}

}  // namespace internal

inline bool Test::HasFailure() { return !internal::progress().failures.empty(); }
inline bool Test::HasFatalFailure() { return internal::progress().fatal; }
inline bool Test::IsSkipped() { return internal::progress().skipped; }

void InitGoogleTest(int* argc, char** argv);
int run_all_tests();

}  // namespace testing
// NOLINTEND(readability-identifier-naming)
