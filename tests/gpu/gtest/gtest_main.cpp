// SPDX-License-Identifier: GPL-3.0-or-later
// Runs the tests that gtest/gtest.h collected. Options as GoogleTest's: --gtest_filter, --gtest_list_tests,
// --gtest_output=json:FILE.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "gtest/gtest.h"

namespace testing {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string filter = "*";
  std::string json;
  bool list = false;
};

Options& options() {
  static Options chosen;
  return chosen;
}

struct Outcome {
  std::string name;
  internal::Progress progress;
  double seconds = 0;
};

bool matches(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*') {
    return matches(pattern.substr(1), text) || (!text.empty() && matches(pattern, text.substr(1)));
  }
  return !text.empty() && (pattern[0] == '?' || pattern[0] == text[0]) && matches(pattern.substr(1), text.substr(1));
}

bool matches_any(std::string_view patterns, std::string_view text) {
  while (!patterns.empty()) {
    const std::size_t colon = std::min(patterns.find(':'), patterns.size());
    if (matches(patterns.substr(0, colon), text)) return true;
    patterns.remove_prefix(std::min(colon + 1, patterns.size()));
  }
  return false;
}

// "a:b-c:d": a or b, but neither c nor d.
bool is_wanted(std::string_view name) {
  const std::string_view filter = options().filter;
  const std::size_t minus = std::min(filter.find('-'), filter.size());
  const std::string_view wanted = minus == 0 ? "*" : filter.substr(0, minus);
  const std::string_view unwanted = minus < filter.size() ? filter.substr(minus + 1) : std::string_view();
  return matches_any(wanted, name) && !matches_any(unwanted, name);
}

// Runs one step of a test; an exception is a failure that ends it.
void guarded(const char* where, const std::function<void()>& step) {
  try {
    step();
  } catch (const std::exception& error) {
    internal::progress().failures.push_back(std::string("exception in ") + where + ": " + error.what());
    internal::progress().fatal = true;
  } catch (...) {
    internal::progress().failures.push_back(std::string("exception of an unknown type in ") + where);
    internal::progress().fatal = true;
  }
}

void run_body(const internal::RunnableTest& test) {
  std::unique_ptr<Test> body;
  guarded("the constructor", [&] { body = test.make(); });
  if (!body || Test::IsSkipped()) return;
  if (!Test::HasFatalFailure()) guarded("SetUp", [&] { body->SetUp(); });
  if (!Test::HasFatalFailure() && !Test::IsSkipped()) guarded("the test", [&] { body->TestBody(); });
  guarded("TearDown", [&] { body->TearDown(); });
}

Outcome run_one(const internal::RunnableTest& test) {
  const std::string name = test.suite + "." + test.name;
  std::cout << "[ RUN      ] " << name << std::endl;
  internal::progress() = {};
  const auto begin = Clock::now();
  run_body(test);
  Outcome outcome = {name, internal::progress(), std::chrono::duration<double>(Clock::now() - begin).count()};
  for (const std::string& failure : outcome.progress.failures) std::cout << failure << "\n";
  const char* word = !outcome.progress.failures.empty() ? "[  FAILED  ] "
                     : outcome.progress.skipped         ? "[  SKIPPED ] "
                                                        : "[       OK ] ";
  std::cout << word << name << " (" << static_cast<long>(outcome.seconds * 1000) << " ms)" << std::endl;
  return outcome;
}

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    char escape[8];
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      result += escape;
    } else {
      result += c;
    }
  }
  return result + '"';
}

bool write_json(const std::vector<Outcome>& outcomes) {
  std::ofstream file(options().json);
  file << "{\"tests\": [";
  const char* separator = "\n";
  for (const Outcome& outcome : outcomes) {
    file << separator << "  {\"name\": " << quoted(outcome.name) << ", \"seconds\": " << outcome.seconds;
    if (outcome.progress.skipped) file << ", \"skipped\": " << quoted(outcome.progress.skip_reason);
    file << ", \"failures\": [";
    const char* between = "";
    for (const std::string& failure : outcome.progress.failures) {
      file << between << quoted(failure);
      between = ", ";
    }
    file << "]}";
    separator = ",\n";
  }
  file << "\n]}\n";
  return static_cast<bool>(file.flush());
}

void list(const std::vector<internal::RunnableTest>& tests) {
  std::string suite;
  for (const internal::RunnableTest& test : tests) {
    if (test.suite != suite) std::cout << test.suite << ".\n";
    suite = test.suite;
    std::cout << "  " << test.name << "\n";
  }
}

std::vector<internal::RunnableTest> wanted_tests() {
  internal::Registry& registry = internal::registry();
  for (const auto& expand : registry.expansions) expand();
  registry.expansions.clear();
  std::vector<internal::RunnableTest> tests;
  for (const internal::RunnableTest& test : registry.tests) {
    if (is_wanted(test.suite + "." + test.name)) tests.push_back(test);
  }
  // Suites whose tests are spread over files are set up once.
  std::stable_sort(tests.begin(), tests.end(), [](const auto& a, const auto& b) { return a.suite < b.suite; });
  return tests;
}

std::vector<Outcome> run(const std::vector<internal::RunnableTest>& tests) {
  std::vector<Outcome> outcomes;
  for (std::size_t i = 0; i < tests.size(); ++i) {
    if (i == 0 || tests[i - 1].suite != tests[i].suite) {
      internal::progress() = {};
      guarded("SetUpTestSuite", tests[i].steps.set_up);
      if (Test::HasFailure()) outcomes.push_back({tests[i].suite + ".SetUpTestSuite", internal::progress(), 0});
    }
    outcomes.push_back(run_one(tests[i]));
    if (i + 1 == tests.size() || tests[i + 1].suite != tests[i].suite) {
      internal::progress() = {};
      guarded("TearDownTestSuite", tests[i].steps.tear_down);
      if (Test::HasFailure()) outcomes.push_back({tests[i].suite + ".TearDownTestSuite", internal::progress(), 0});
    }
  }
  return outcomes;
}

int summarise(const std::vector<Outcome>& outcomes) {
  std::size_t failed = 0;
  std::size_t skipped = 0;
  for (const Outcome& outcome : outcomes) {
    if (!outcome.progress.failures.empty()) {
      ++failed;
      std::cout << "[  FAILED  ] " << outcome.name << "\n";
    } else if (outcome.progress.skipped) {
      ++skipped;
      std::cout << "[  SKIPPED ] " << outcome.name << ": " << outcome.progress.skip_reason << "\n";
    }
  }
  std::cout << "[==========] " << outcomes.size() << " tests ran: " << outcomes.size() - failed - skipped << " passed, "
            << skipped << " skipped, " << failed << " failed." << std::endl;
  return failed == 0 ? 0 : 1;
}

}  // namespace

void InitGoogleTest(int* argc, char** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value_of = [&](std::string_view option) {
      return argument.starts_with(option) ? std::optional(std::string(argument.substr(option.size()))) : std::nullopt;
    };
    if (const auto filter = value_of("--gtest_filter=")) options().filter = *filter;
    if (const auto file = value_of("--gtest_output=json:")) options().json = *file;
    if (argument == "--gtest_list_tests") options().list = true;
  }
}

int run_all_tests() {
  const std::vector<internal::RunnableTest> tests = wanted_tests();
  if (options().list) {
    list(tests);
    return 0;
  }
  if (tests.empty()) {
    std::cout << "No test has a name like \"" << options().filter << "\"." << std::endl;
    return 1;
  }
  const std::vector<Outcome> outcomes = run(tests);
  const int result = summarise(outcomes);
  if (options().json.empty() || write_json(outcomes)) return result;
  std::cerr << "The results could not be written to " << options().json << ".\n";
  return 1;
}

}  // namespace testing

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return testing::run_all_tests();
}
