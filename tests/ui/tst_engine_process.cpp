// SPDX-License-Identifier: GPL-3.0-or-later
// The window over a model in a process of its own, which fails.
#include <signal.h>

#include <QLabel>
#include <QPushButton>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "app/engine_process.h"
#include "heartbeat.h"
#include "ui/source_row.h"
#include "window_driver.h"

namespace lectern::ui::test {
namespace {

constexpr int kFaults = 100;
const QString kQuestion = QStringLiteral("How tall is the lighthouse on Skerry Point?");

// An engine that is ended after a number of pieces of its answers.
class MortalEngine final : public retrieval::Generator {
 public:
  explicit MortalEngine(std::unique_ptr<app::EngineProcess> process) : m_process(std::move(process)) {}

  app::EngineProcess& process() { return *m_process; }
  std::atomic<int> piecesToLive = std::numeric_limits<int>::max();

  std::string model_name() const override { return m_process->model_name(); }
  std::int64_t context_tokens() const override { return m_process->context_tokens(); }
  retrieval::Result<std::int64_t> count_tokens(const std::vector<retrieval::ChatMessage>& messages) override {
    return m_process->count_tokens(messages);
  }
  retrieval::Result<retrieval::GeneratedText> generate(const std::vector<retrieval::ChatMessage>& messages,
                                                       const retrieval::GenerateOptions& options,
                                                       retrieval::GeneratorSink& sink, std::stop_token stop) override {
    Sink counting(*this, sink);
    return m_process->generate(messages, options, counting, std::move(stop));
  }

 private:
  struct Sink final : retrieval::GeneratorSink {
    Sink(MortalEngine& engine, retrieval::GeneratorSink& sink) : m_engine(engine), m_sink(sink) {}
    void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
      m_sink.on_prefill(done, total, seconds);
    }
    void on_text(std::string_view piece) override {
      if (--m_engine.piecesToLive == 0) kill(m_engine.process().process(), SIGKILL);
      m_sink.on_text(piece);
    }
    MortalEngine& m_engine;
    retrieval::GeneratorSink& m_sink;
  };

  std::unique_ptr<app::EngineProcess> m_process;
};

constexpr std::int64_t kWhole = 160;  // tokens

class EngineWindow {
 public:
  explicit EngineWindow(std::int64_t longestAnswer)
      : m_longestAnswer(longestAnswer),
        m_driver([](const std::string&) { return ""; }, nullptr, [this](Services& services) { use(services); }) {}

  // Adds the sample documents and waits for the model.
  bool prepare() {
    m_driver.drop({kHandbook});
    return m_driver.waitForIngest();
  }

  bool ask() {
    m_driver.type(kQuestion);
    return waitForEnd();
  }
  bool askAgain() {
    QTest::mouseClick(againButton(), Qt::LeftButton);
    return waitForEnd();
  }

  QString text() { return m_driver.answer()->markdown(); }
  QLabel* error() { return m_driver.turn()->findChild<QLabel*>(QStringLiteral("errorText")); }
  QPushButton* againButton() { return m_driver.turn()->findChild<QPushButton*>(QStringLiteral("askAgainButton")); }
  QList<ConversationTurn*> turns() { return m_driver.window.conversation()->findChildren<ConversationTurn*>(); }
  WindowDriver& driver() { return m_driver; }
  MortalEngine& engine() { return *m_engine; }

 private:
  bool waitForEnd() {
    return QTest::qWaitFor([this] { return !m_driver.window.asking()->busy(); }, kPatienceMs);
  }

  void use(Services& services) {
    services.openModel = [this](const ModelChoice&, const LoadProgress&,
                                std::stop_token stop) -> retrieval::Result<OpenedModel> {
      app::EngineProcessLimits limits;
      limits.failures = 1000;
      RETRIEVAL_TRY(auto process, app::EngineProcess::open(LECTERN_FAULTY_ENGINE, LECTERN_NANO, {}, stop, limits));
      m_engine = std::make_shared<MortalEngine>(std::move(process));
      RETRIEVAL_TRY(retrieval::PromptProfile profile,
                    retrieval::load_prompt_profile(std::filesystem::path(LECTERN_NANO) / "lectern.json"));
      profile.max_passages = 1;
      profile.max_new_tokens = m_longestAnswer;
      app::EngineProcess* engine = &m_engine->process();
      return OpenedModel{m_engine, profile, QString(), [engine] { return engine->running(); },
                         [engine](const std::stop_token& token, const LoadProgress& progress) {
                           return engine->prepare(token, progress);
                         }};
    };
  }

  std::int64_t m_longestAnswer;
  std::shared_ptr<MortalEngine> m_engine;
  WindowDriver m_driver;
};

TEST(EngineProcess, AnInterruptedAnswerStaysAndCanBeAskedAgain) {
  setenv("LECTERN_ENGINE_FAULT", "slow:200", 1);  // so that no answer is complete before this process gets to end it
  EngineWindow window(kWhole);
  ASSERT_TRUE(window.prepare());
  ASSERT_TRUE(window.ask());
  const QString whole = window.text();
  ASSERT_FALSE(whole.isEmpty());
  EXPECT_FALSE(window.againButton()->isVisible());

  window.engine().piecesToLive = 6;
  ASSERT_TRUE(window.ask());
  const QString partial = window.text();
  EXPECT_FALSE(partial.isEmpty());
  EXPECT_TRUE(whole.startsWith(partial)) << partial.toStdString();
  EXPECT_TRUE(window.driver().answer()->isVisible());
  EXPECT_TRUE(window.error()->isVisible());
  EXPECT_TRUE(window.error()->text().startsWith(QStringLiteral("The answer is incomplete. Writing the answer failed")))
      << window.error()->text().toStdString();
  ASSERT_TRUE(window.againButton()->isVisible());

  ASSERT_TRUE(window.askAgain());
  EXPECT_EQ(window.text(), whole);
  EXPECT_EQ(window.turns().size(), 3);
  EXPECT_EQ(window.driver().turn()->findChildren<SourceRow*>().size(), 1);
  unsetenv("LECTERN_ENGINE_FAULT");
}

TEST(EngineProcess, AFailureBeforeTheFirstWordIsExplained) {
  EngineWindow window(kWhole);
  ASSERT_TRUE(window.prepare());
  ASSERT_TRUE(window.ask());
  kill(window.engine().process().process(), SIGKILL);
  setenv("LECTERN_ENGINE_FAULT", "device:40", 1);
  ASSERT_TRUE(window.ask());
  unsetenv("LECTERN_ENGINE_FAULT");
  EXPECT_TRUE(window.text().isEmpty());
  EXPECT_EQ(window.error()->text(),
            QStringLiteral("The device failed for a test; ask again, which opens the model anew."));
  ASSERT_TRUE(window.askAgain());
  EXPECT_FALSE(window.text().isEmpty());
  EXPECT_FALSE(window.againButton()->isVisible());
}

TEST(EngineProcess, AHundredFaultsCostNoConversationNoPartialAnswerAndNoStall) {
  EngineWindow window(16);
  ASSERT_TRUE(window.prepare());
  ASSERT_TRUE(window.ask());
  const QString whole = window.text();
  kill(window.engine().process().process(), SIGKILL);
  QTest::qWait(200);

  std::mt19937 random(4);
  std::uniform_real_distribution<double> exponent(1.5, 4);
  QStringList said = {whole};
  int faults = 0;
  int partial = 0;
  bool failed = false;
  const Heartbeat heart;
  while (faults < kFaults) {
    const auto operations = static_cast<int>(std::pow(10, exponent(random)));
    setenv("LECTERN_ENGINE_FAULT", ("device:" + std::to_string(operations)).c_str(), 1);
    ASSERT_TRUE(failed ? window.askAgain() : window.ask());
    said += window.text();
    EXPECT_TRUE(whole.startsWith(said.back())) << said.back().toStdString();
    failed = window.againButton()->isVisible();
    EXPECT_TRUE(failed || said.back() == whole);
    if (failed) ++faults;
    if (failed && !said.back().isEmpty()) ++partial;
  }
  unsetenv("LECTERN_ENGINE_FAULT");
  std::printf("%d faults in %d questions, %d of them in an answer: longest work %.0f ms, longest gap %.0f ms\n", faults,
              static_cast<int>(said.size()), partial, heart.longestWorkMs(), heart.longestGapMs());
  EXPECT_LT(heart.longestWorkMs(), kLongestWorkMs);
  EXPECT_LT(heart.longestGapMs(), kLongestGapMs);
  EXPECT_GT(partial, 0);

  QStringList shown;
  for (ConversationTurn* turn : window.turns()) shown += turn->answerView()->markdown();
  EXPECT_EQ(shown, said);
  ASSERT_TRUE(failed ? window.askAgain() : window.ask());
}

}  // namespace
}  // namespace lectern::ui::test
