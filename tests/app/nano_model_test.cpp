// SPDX-License-Identifier: GPL-3.0-or-later
// The bundled model through our engine says what it said when it was evaluated.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "cli_process.h"
#include "engine/engine.h"
#include "engine_adapters.h"
#include "retrieval/answer.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class SilentSink final : public retrieval::GeneratorSink {
 public:
  void on_prefill(std::int64_t, std::int64_t, double) override {}
  void on_text(std::string_view piece) override { m_text += piece; }

  const std::string& text() const { return m_text; }

 private:
  std::string m_text;
};

std::string replaced(std::string text, const std::string& name, const std::string& value) {
  return text.replace(text.find(name), name.size(), value);
}

std::vector<retrieval::ChatMessage> promptOf(const retrieval::PromptProfile& profile, const json& exercise) {
  std::string passages;
  int mark = 0;
  for (const json& passage : exercise["passages"]) {
    if (mark > 0) passages += "\n\n";
    passages += "[" + std::to_string(++mark) + "] " + passage.get<std::string>();
  }
  const std::string user = replaced(profile.user, "{question}", exercise["question"]);
  return {{"user", replaced(user, "{passages}", passages)}};
}

TEST(NanoModelTest, RepeatsItsEvaluation) {
  constexpr std::size_t kExercises = 20;
  constexpr int kMayDiffer = 1;  // where two words are equally likely, the last bit of a sum decides
  const fs::path nano = fs::path(LECTERN_RESOURCES) / "models" / "nano";
  const fs::path cases = nano / "train" / "eval_cases.json";
  if (!fs::exists(cases) || !fs::exists(nano / "config.json")) FAIL() << "this checkout has no bundled model";
  auto engine = engine::Engine::open(nano, {});
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  auto profile = retrieval::load_prompt_profile(nano / "lectern.json");
  ASSERT_TRUE(profile.ok()) << profile.error().message;
  EngineGenerator generator(std::move(engine).value());

  retrieval::GenerateOptions options;
  options.max_new_tokens = profile->max_new_tokens;
  int different = 0;
  const json exercises = json::parse(readFile(cases));
  for (std::size_t i = 0; i < std::min(kExercises, exercises.size()); ++i) {
    const json& exercise = exercises[i];
    SilentSink sink;
    auto answer = generator.generate(promptOf(*profile, exercise), options, sink, {});
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    EXPECT_EQ(sink.text(), answer->text);
    if (answer->text == exercise["greedy"]) continue;
    ++different;
    std::cout << exercise["question"] << ": " << answer->text << "\n  evaluated as " << exercise["greedy"] << "\n";
  }
  EXPECT_LE(different, kMayDiffer);
}

}  // namespace
}  // namespace lectern::app
