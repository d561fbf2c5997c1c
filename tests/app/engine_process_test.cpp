// SPDX-License-Identifier: GPL-3.0-or-later
// The model in a process of its own: the same answers as in this one, and whatever becomes of that process costs one
// request and nothing that has already been said.
#include "engine_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <sstream>
#include <thread>

#include "engine/engine.h"
#include "engine_adapters.h"
#include "engine_protocol.h"
#include "support/promptness.h"
#include "support/scratch.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using retrieval::ErrorCode;
using retrieval::GeneratedText;
using retrieval::GenerateFinish;
using retrieval::Result;
using test::Scratch;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

using Clock = std::chrono::steady_clock;

const fs::path kNano = fs::path(LECTERN_RESOURCES) / "models" / "nano";

const std::vector<retrieval::ChatMessage> kQuestion = {
    {"user",
     "[1] The lighthouse on Skerry Point is 43 metres tall. It was built in 1871 of grey granite.\n\n"
     "[2] The harbour office opens at seven in the morning, and on Sundays at nine.\n\n"
     "Question: How tall is the lighthouse on Skerry Point?"}};

// Nearly any token may follow any other, and the one that ends an answer hardly ever comes.
retrieval::GenerateOptions imaginative(std::uint64_t seed, std::int64_t tokens = 60) {
  retrieval::GenerateOptions options;
  options.temperature = 20.0F;
  options.seed = seed;
  options.max_new_tokens = tokens;
  return options;
}

// So long that whatever a test does to the engine while it answers comes before the end, however late a busy machine
// gets to it.
constexpr std::int64_t kEndless = 1'000'000;

// One begins with the other: what two endings at different places leave of the same answer.
bool agree(std::string_view a, std::string_view b) { return a.starts_with(b) || b.starts_with(a); }

class Listener final : public retrieval::GeneratorSink {
 public:
  void on_prefill(std::int64_t done, std::int64_t total, double /*seconds*/) override {
    EXPECT_LE(done, total);
    ++prefills;
    if (whenRead) whenRead();
  }
  void on_text(std::string_view piece) override {
    text += piece;
    ++pieces;
    if (whenWritten) whenWritten();
  }

  std::string text;
  int prefills = 0;
  int pieces = 0;
  std::function<void()> whenRead;
  std::function<void()> whenWritten;
};

// Children of this process, as a set of ids.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  for (const auto& task : fs::directory_iterator("/proc/self/task")) {
    std::ifstream stream(task.path() / "children");
    for (pid_t id = 0; stream >> id;) found.push_back(id);
  }
  return found;
}

bool isRunning(pid_t process) {
  std::ifstream stream("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  if (!std::getline(stream, line)) return false;
  return line[line.rfind(')') + 2] != 'Z';
}

class EngineProcessTest : public testing::Test {
 protected:
  ~EngineProcessTest() override {
    // Whatever happened, no child is left, neither running nor as a zombie.
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
  }

  static EngineProcessLimits patient() {
    EngineProcessLimits limits;
    limits.failures = 1000;
    return limits;
  }

  static std::unique_ptr<EngineProcess> nano(EngineProcessLimits limits = patient(),
                                             const engine::EngineOptions& options = {}) {
    auto opened = EngineProcess::open(LECTERN_ENGINE, kNano, options, {}, limits);
    if (!opened.ok()) throw std::runtime_error(opened.error().message);
    return std::move(opened).value();
  }

  static std::string answer(EngineProcess& process, const retrieval::GenerateOptions& options) {
    Listener listener;
    const auto text = process.generate(kQuestion, options, listener, {});
    if (!text.ok()) return "error: " + text.error().message;
    EXPECT_EQ(text->text, listener.text);
    return text->text;
  }

  // A program in the place of lectern-engine, as a shell script; its socket is descriptor 3.
  fs::path impostor(const std::string& script) const {
    const fs::path program = m_scratch.write("impostor", "#!/bin/sh\n" + script + "\n");
    fs::permissions(program, fs::perms::owner_all);
    return program;
  }

  std::string errorOf(const fs::path& program, EngineProcessLimits limits = patient()) const {
    const auto opened = EngineProcess::open(program, kNano, {}, {}, limits);
    return opened.ok() ? "no error" : opened.error().message;
  }

  Scratch m_scratch;
};

// For printf of the shell.
std::string escaped(const EngineMessage& message) {
  std::ostringstream text;
  const std::string bytes = encodeMessage(message).value();
  for (const char byte : bytes) {
    text << '\\' << std::oct;
    text.width(3);
    text.fill('0');
    text << static_cast<int>(static_cast<unsigned char>(byte));
  }
  return text.str();
}

TEST_F(EngineProcessTest, AnswersAsInThisProcess) {
  auto engine = engine::Engine::open(kNano, {});
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  EngineGenerator here(std::move(engine).value());
  const auto there = nano();
  EXPECT_EQ(there->model_name(), here.model_name());
  EXPECT_EQ(there->context_tokens(), here.context_tokens());
  EXPECT_EQ(there->info().quantisation, here.info().quantisation);
  EXPECT_EQ(there->info().memory.weights, here.info().memory.weights);
  EXPECT_EQ(*there->count_tokens(kQuestion), *here.count_tokens(kQuestion));
  for (const auto& options : {retrieval::GenerateOptions{}, imaginative(1), imaginative(2)}) {
    Listener near;
    Listener far;
    const auto expected = here.generate(kQuestion, options, near, {});
    const auto got = there->generate(kQuestion, options, far, {});
    ASSERT_TRUE(expected.ok() && got.ok());
    EXPECT_FALSE(got->text.empty());
    EXPECT_EQ(got->text, expected->text);
    EXPECT_EQ(far.text, near.text);
    EXPECT_EQ(far.pieces, near.pieces);
    EXPECT_EQ(far.prefills, near.prefills);
    EXPECT_EQ(got->finish, expected->finish);
    EXPECT_EQ(got->prompt_tokens, expected->prompt_tokens);
    EXPECT_EQ(got->generated_tokens, expected->generated_tokens);
    EXPECT_EQ(got->reused_tokens, expected->reused_tokens);
  }
}

TEST_F(EngineProcessTest, ErrorsOfTheEngineAreItsOwnAndCostNoProcess) {
  const auto process = nano();
  const pid_t id = process->process();
  retrieval::GenerateOptions options;
  options.max_new_tokens = 0;
  Listener listener;
  const auto wrong = process->generate(kQuestion, options, listener, {});
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, ErrorCode::kGenerator);
  EXPECT_THAT(wrong.error().message, HasSubstr("max_new_tokens is 0"));
  EXPECT_TRUE(process->running());
  EXPECT_EQ(process->process(), id);
  EXPECT_FALSE(answer(*process, imaginative(1)).empty());
}

TEST_F(EngineProcessTest, AModelThatCannotBeOpenedIsExplainedByTheEngine) {
  for (const fs::path& model : {m_scratch / "none", m_scratch.write("empty/config.json", "{}").parent_path(),
                                m_scratch.write("cut.gguf", "GGUF")}) {
    const auto here = engine::Engine::open(model, {});
    const auto there = EngineProcess::open(LECTERN_ENGINE, model, {}, {});
    ASSERT_FALSE(here.ok() || there.ok());
    EXPECT_EQ(there.error().message, here.error().message);
  }
}

TEST_F(EngineProcessTest, StopsWithin200Milliseconds) {
  const auto process = nano();
  const std::string undisturbed = answer(*process, imaginative(7, 400));
  for (const bool whileReading : {true, false}) {
    Listener listener;
    std::stop_source stop;
    Clock::time_point asked;
    const auto ask = [&] {
      if (stop.stop_requested()) return;
      asked = Clock::now();
      stop.request_stop();
    };
    whileReading ? listener.whenRead = ask : listener.whenWritten = ask;
    const auto text = process->generate(kQuestion, imaginative(7, kEndless), listener, stop.get_token());
    EXPECT_LT(Clock::now() - asked, test::kPromptly);
    ASSERT_TRUE(text.ok()) << text.error().message;
    EXPECT_EQ(text->finish, GenerateFinish::kCancelled);
    EXPECT_EQ(text->text, listener.text);
    EXPECT_TRUE(agree(undisturbed, text->text));
  }
  EXPECT_EQ(answer(*process, imaginative(7, 400)), undisturbed);
}

TEST_F(EngineProcessTest, StopsThoughTheProcessHangsAndGivesItUpThen) {
  EngineProcessLimits limits = patient();
  limits.finishing = 300ms;
  const auto process = nano(limits);
  const std::string undisturbed = answer(*process, imaginative(7));
  const pid_t hung = process->process();
  Listener listener;
  std::stop_source stop;
  listener.whenWritten = [&] { kill(hung, SIGSTOP); };
  std::jthread person([&] {
    std::this_thread::sleep_for(300ms);
    stop.request_stop();
  });
  const Clock::time_point start = Clock::now();
  const auto text = process->generate(kQuestion, imaginative(7, kEndless), listener, stop.get_token());
  EXPECT_LT(Clock::now() - start, 300ms + test::kPromptly);
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_EQ(text->finish, GenerateFinish::kCancelled);
  EXPECT_FALSE(text->text.empty());
  EXPECT_EQ(answer(*process, imaginative(7)), undisturbed);
  EXPECT_NE(process->process(), hung);
}

TEST_F(EngineProcessTest, AStoppedOpeningEndsAtOnce) {
  const fs::path slow = impostor("printf '" + escaped(HelloMessage{}) + "' >&3; exec sleep 60");
  std::stop_source stop;
  std::jthread person([&] {
    std::this_thread::sleep_for(200ms);
    stop.request_stop();
  });
  const Clock::time_point start = Clock::now();
  const auto opened = EngineProcess::open(slow, kNano, {}, stop.get_token());
  EXPECT_LT(Clock::now() - start, 200ms + test::kPromptly);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code, ErrorCode::kCancelled);
}

TEST_F(EngineProcessTest, KilledWhileOpening) {
  std::jthread killer([](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      for (const pid_t child : children()) kill(child, SIGKILL);
    }
  });
  const std::string error = errorOf(LECTERN_ENGINE);
  EXPECT_THAT(error, AllOf(HasSubstr("the system ended the engine"), HasSubstr("memory")));
}

TEST_F(EngineProcessTest, KilledWhileAnsweringKeepsTheTextAndStartsAgain) {
  const auto process = nano();
  const std::string undisturbed = answer(*process, imaginative(3));
  for (const int piece : {0, 1, 7, 20}) {
    Listener listener;
    const auto end = [&] {
      if (listener.pieces == piece) kill(process->process(), SIGSEGV);
    };
    piece == 0 ? listener.whenRead = end : listener.whenWritten = end;
    const auto text = process->generate(kQuestion, imaginative(3, kEndless), listener, {});
    ASSERT_FALSE(text.ok());
    EXPECT_EQ(text.error().code, ErrorCode::kGenerator);
    EXPECT_THAT(text.error().message, AllOf(HasSubstr("the engine crashed (SIGSEGV)"), HasSubstr("ask again")));
    EXPECT_THAT(text.error().message, StartsWith(piece > 0 ? "Writing the answer" : "Reading the question"));
    EXPECT_GE(listener.pieces, piece);
    EXPECT_TRUE(agree(listener.text, undisturbed));
    EXPECT_FALSE(process->running());
    EXPECT_EQ(process->process(), 0);
    EXPECT_EQ(answer(*process, imaginative(3)), undisturbed);
    EXPECT_TRUE(process->running());
  }
}

TEST_F(EngineProcessTest, SaysHowMuchIsLoaded) {
  std::vector<std::int64_t> steps;
  std::int64_t total = 0;
  const auto process = EngineProcess::open(LECTERN_ENGINE, kNano, {}, {}, patient(), [&](auto done, auto all) {
    steps.push_back(done);
    total = all;
  });
  ASSERT_TRUE(process.ok()) << process.error().message;
  ASSERT_FALSE(steps.empty());
  EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end()));
  EXPECT_EQ(steps.back(), total);
  EXPECT_GT(total, 10'000'000);
}

TEST_F(EngineProcessTest, ListsTheDevicesOfAnotherProcess) {
  const auto there = EngineProcess::devices(LECTERN_ENGINE, {});
  ASSERT_TRUE(there.ok()) << there.error().message;
  const std::vector<engine::DeviceInfo> here = engine::list_devices();
  ASSERT_EQ(there->size(), here.size());
  for (std::size_t i = 0; i < here.size(); ++i) {
    EXPECT_EQ((*there)[i].name, here[i].name);
    EXPECT_EQ((*there)[i].usable, here[i].usable);
    EXPECT_EQ((*there)[i].reason, here[i].reason);
  }
  const auto broken = EngineProcess::devices(impostor("kill -SEGV $$"), {});
  ASSERT_FALSE(broken.ok());
  EXPECT_THAT(broken.error().message, HasSubstr("SIGSEGV"));
}

TEST_F(EngineProcessTest, KilledWhileIdle) {
  const auto process = nano();
  const std::string undisturbed = answer(*process, imaginative(3));
  const pid_t before = process->process();
  kill(before, SIGKILL);
  for (int i = 0; i < 1000 && process->running(); ++i) std::this_thread::sleep_for(1ms);
  EXPECT_FALSE(process->running());
  const auto count = process->count_tokens(kQuestion);
  ASSERT_TRUE(count.ok()) << count.error().message;
  EXPECT_EQ(answer(*process, imaginative(3)), undisturbed);
  EXPECT_NE(process->process(), before);
}

TEST_F(EngineProcessTest, GoesOnFromWhatWasReadBeforeItWasKilled) {
  engine::EngineOptions options;
  options.sessions.directory = m_scratch / "sessions";
  options.sessions.checkpoint_tokens = 16;
  const auto process = nano(patient(), options);
  Listener listener;
  listener.whenWritten = [&] { kill(process->process(), SIGKILL); };
  ASSERT_FALSE(process->generate(kQuestion, imaginative(3, kEndless), listener, {}).ok());
  Listener again;
  const auto text = process->generate(kQuestion, imaginative(3), again, {});
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_GT(text->reused_tokens, text->prompt_tokens / 2);
  EXPECT_TRUE(agree(text->text, listener.text));
}

// At random operations, so in any layer of any pass: of the prompt, of the answer, or only of a later one.
TEST_F(EngineProcessTest, AHundredDeviceFaultsCostNothingThatWasSaid) {
  const std::string undisturbed = answer(*nano(), imaginative(5, 24));
  std::mt19937 random(20);
  std::uniform_real_distribution<double> exponent(0, 4.2);
  const auto plan = [&](int fault) {
    const auto operations = static_cast<int>(std::pow(10, exponent(random)));
    setenv("LECTERN_ENGINE_FAULT", ((fault % 4 == 3 ? "crash:" : "device:") + std::to_string(operations)).c_str(), 1);
  };
  plan(0);
  auto opened = EngineProcess::open(LECTERN_FAULTY_ENGINE, kNano, {}, {}, patient());
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  int faults = 0;
  int answers = 0;
  int partial = 0;
  while (faults < 100 && answers < 500) {
    Listener listener;
    const auto text = (*opened)->generate(kQuestion, imaginative(5, 24), listener, {});
    if (text.ok()) {
      ++answers;
      EXPECT_EQ(text->text, undisturbed);
      continue;
    }
    const bool crashed = faults % 4 == 3;
    EXPECT_THAT(text.error().message, HasSubstr(crashed ? "SIGSEGV" : "The device failed for a test"));
    EXPECT_THAT(undisturbed, StartsWith(listener.text));
    EXPECT_FALSE((*opened)->running());
    if (!listener.text.empty()) ++partial;
    plan(++faults);
  }
  unsetenv("LECTERN_ENGINE_FAULT");
  EXPECT_EQ(faults, 100);
  std::printf("%d faults, %d of them after text had come, %d undisturbed answers in between\n", faults, partial,
              answers);
  EXPECT_GT(partial, 10);
  EXPECT_GT(answers, 10);
}

TEST_F(EngineProcessTest, OneThatFailsAgainAndAgainRestsAndSaysSo) {
  EngineProcessLimits limits;
  limits.failures = 3;
  limits.failureSpan = 2s;
  const auto process = nano(limits);
  for (std::size_t i = 0; i < limits.failures; ++i) {
    Listener listener;
    listener.whenRead = [&] { kill(process->process(), SIGABRT); };
    const auto text = process->generate(kQuestion, imaginative(3, kEndless), listener, {});
    ASSERT_FALSE(text.ok());
    EXPECT_THAT(text.error().message, HasSubstr("SIGABRT"));
  }
  const std::string refused = answer(*process, {});
  EXPECT_THAT(refused, AllOf(HasSubstr("has failed 3 times"), HasSubstr("ask again in"), HasSubstr(" s")));
  EXPECT_EQ(process->process(), 0);
  std::this_thread::sleep_for(limits.failureSpan);
  EXPECT_THAT(answer(*process, {}), HasSubstr("43 metres"));
}

TEST_F(EngineProcessTest, AProgramThatIsNoEngineIsRefused) {
  EngineProcessLimits hasty = patient();
  hasty.greeting = 200ms;
  EXPECT_THAT(errorOf(m_scratch / "none"), AllOf(HasSubstr("cannot be started"), HasSubstr("install Lectern again")));
  EXPECT_THAT(errorOf(impostor("exit 5")), HasSubstr("exit code 5"));
  EXPECT_THAT(errorOf(impostor("kill -SEGV $$")), HasSubstr("SIGSEGV"));
  EXPECT_THAT(errorOf(impostor("kill -BUS $$")), HasSubstr("model's file"));
  EXPECT_THAT(errorOf(impostor("sleep 60"), hasty), HasSubstr("did not answer"));
  EXPECT_THAT(errorOf(impostor("head -c 100000 /dev/urandom >&3; exec sleep 60")), HasSubstr("makes no sense"));
  EXPECT_THAT(errorOf(impostor("printf '" + escaped(HelloMessage{kEngineProtocol + 1}) + "' >&3; exec sleep 60")),
              HasSubstr("another version"));
  EXPECT_THAT(
      errorOf(impostor("printf '" + escaped(HelloMessage{}) + escaped(CountedMessage{1, 1}) + "' >&3; sleep 9")),
      HasSubstr("makes no sense"));
}

TEST_F(EngineProcessTest, NonsenseInAnAnswerEndsIt) {
  const std::string opened = escaped(HelloMessage{}) + escaped(OpenedMessage{});
  const auto errorAfter = [&](const std::string& messages) -> std::string {
    // Reads into the question, then answers.
    const std::size_t before =
        encodeMessage(HelloMessage{}).value().size() + encodeMessage(OpenMessage{kNano.string(), {}}).value().size();
    auto process = EngineProcess::open(impostor("printf '" + opened + "' >&3; head -c " + std::to_string(before + 100) +
                                                " <&3 >/dev/null; printf '" + messages + "' >&3; exec sleep 60"),
                                       kNano, {}, {}, patient());
    if (!process.ok()) return process.error().message;
    Listener listener;
    const auto text = (*process)->generate(kQuestion, {}, listener, {});
    return text.ok() ? "no error" : text.error().message;
  };
  EXPECT_THAT(errorAfter(escaped(PrefillMessage{1, 5, 4, 0})), HasSubstr("makes no sense"));
  EXPECT_THAT(errorAfter(escaped(TextMessage{2, "of another request"})), HasSubstr("makes no sense"));
  EXPECT_THAT(errorAfter(escaped(TextMessage{1, "Some"}) + "\\377\\377\\377\\377"),
              StartsWith("Writing the answer failed because the engine gave an answer that makes no sense"));
  EXPECT_THAT(errorAfter(escaped(FailedMessage{1, {engine::ErrorCode::kDevice, "The card is gone."}})),
              testing::Eq("The card is gone."));
}

TEST_F(EngineProcessTest, LeaksNoDescriptors) {
  const auto open = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()); };
  static_cast<void>(answer(*nano(), {}));
  const auto before = open();
  for (int i = 0; i < 5; ++i) static_cast<void>(answer(*nano(), {}));
  static_cast<void>(errorOf(m_scratch / "none"));
  static_cast<void>(errorOf(impostor("exit 1")));
  {
    const auto process = nano();
    Listener listener;
    listener.whenRead = [&] { kill(process->process(), SIGKILL); };
    static_cast<void>(process->generate(kQuestion, {}, listener, {}));
  }
  EXPECT_EQ(open(), before);
}

TEST_F(EngineProcessTest, GivesTheEngineNothingButItsSocket) {
  const fs::path seen = m_scratch / "seen";
  static_cast<void>(errorOf(impostor("ls -l /proc/$$/fd >" + seen.string())));
  std::ifstream stream(seen);
  const std::string listing(std::istreambuf_iterator<char>(stream), {});
  EXPECT_THAT(listing, AllOf(HasSubstr(" 3 -> socket"), HasSubstr(" 0 -> /dev/null")));
  for (int descriptor = 4; descriptor < 9; ++descriptor) {
    EXPECT_THAT(listing, Not(HasSubstr(" " + std::to_string(descriptor) + " -> socket")));
  }
}

TEST_F(EngineProcessTest, StartedByHandItSaysWhatItIs) {
  std::array<char, 200> said{};
  FILE* pipe = popen((std::string(LECTERN_ENGINE) + " 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  EXPECT_NE(fgets(said.data(), said.size(), pipe), nullptr);
  EXPECT_NE(pclose(pipe), 0);
  EXPECT_THAT(said.data(), HasSubstr("is started by the program lectern"));
}

TEST_F(EngineProcessTest, DiesWithItsParent) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    close(ends[0]);
    const auto process = nano();
    const pid_t id = process->process();
    Listener listener;
    listener.whenWritten = [&] {
      if (listener.pieces == 3) static_cast<void>(!write(ends[1], &id, sizeof id));
    };
    static_cast<void>(process->generate(kQuestion, imaginative(1, 1'000'000), listener, {}));
    _exit(0);
  }
  close(ends[1]);
  pid_t engine = 0;
  EXPECT_EQ(read(ends[0], &engine, sizeof engine), static_cast<ssize_t>(sizeof engine));
  close(ends[0]);
  EXPECT_TRUE(isRunning(engine));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  for (int i = 0; i < 300 && isRunning(engine); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_FALSE(isRunning(engine));
}

}  // namespace
}  // namespace lectern::app
