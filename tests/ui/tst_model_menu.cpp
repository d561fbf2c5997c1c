// SPDX-License-Identifier: GPL-3.0-or-later
// Choosing the model and what computes it, and what the window says while a model is being loaded.
#include <QLabel>
#include <QMenuBar>
#include <QStatusBar>
#include <atomic>
#include <mutex>

#include "ui/model_menu.h"
#include "window_driver.h"

namespace lectern::ui::test {
namespace {

// A window whose models are opened by the book: every choice is written down.
class ModelWindow {
 public:
  explicit ModelWindow(retrieval::Result<std::vector<DeviceChoice>> cards)
      : m_driver([](const std::string&) { return std::string("Yes."); }, nullptr,
                 [&, cards](Services& services) { prepare(services, cards); }) {}

  QStringList choices() {
    const std::lock_guard lock(m_mutex);
    return m_choices;
  }
  bool waitForChoices(qsizetype count) {
    return QTest::qWaitFor([&] { return choices().size() >= count; }, kPatienceMs);
  }
  QMenu* devices() {
    auto* menu = m_driver.window.findChild<ModelMenu*>();
    for (QAction* action : menu->actions()) {
      if (action->menu() != nullptr) return action->menu();
    }
    return nullptr;
  }
  // Opens the list of devices and waits for the cards.
  bool look(qsizetype entries) {
    emit devices()->aboutToShow();
    return QTest::qWaitFor([&] { return devices()->actions().size() >= entries; }, kPatienceMs);
  }
  WindowDriver& driver() { return m_driver; }
  QString line() {
    return m_driver.window.statusBar()->findChild<QLabel*>(QString(), Qt::FindDirectChildrenOnly)->text();
  }

  std::atomic<bool> held = false;  // loading stops halfway until this is false

 private:
  void prepare(Services& services, const retrieval::Result<std::vector<DeviceChoice>>& cards) {
    services.listDevices = [cards](std::stop_token) { return cards; };
    services.openModel = [this, inner = services.openModel](const ModelChoice& choice, const LoadProgress& progress,
                                                            std::stop_token stop) {
      {
        const std::lock_guard lock(m_mutex);
        m_choices += toQString(choice.path.filename()) + u'|' + choice.device;
      }
      progress(2'000'000'000, 5'000'000'000);
      while (held && !stop.stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return inner(choice, progress, stop);
    };
  }

  std::mutex m_mutex;
  QStringList m_choices;
  WindowDriver m_driver;
};

const std::vector<DeviceChoice> kCards = {
    {QStringLiteral("cuda:0"), QStringLiteral("A small card, 8 GB"), QStringLiteral("The driver is too old.")},
    {QStringLiteral("cuda:1"), QStringLiteral("A large card, 24 GB"), {}}};

TEST(ModelMenu, OffersTheCardsAndRemembersTheChoice) {
  ModelWindow window(kCards);
  ASSERT_TRUE(window.waitForChoices(1));
  EXPECT_EQ(window.choices().first(), QStringLiteral("|automatic"));
  ASSERT_TRUE(window.look(5));  // two of ours, a separator, two cards
  const QList<QAction*> entries = window.devices()->actions();
  EXPECT_TRUE(entries[0]->isChecked());
  EXPECT_FALSE(entries[3]->isEnabled());
  EXPECT_EQ(entries[3]->toolTip(), QStringLiteral("The driver is too old."));
  entries[4]->trigger();
  ASSERT_TRUE(window.waitForChoices(2));
  EXPECT_EQ(window.choices().last(), QStringLiteral("|cuda:1"));
  EXPECT_FALSE(entries[0]->isChecked());

  MainWindow again(window.driver().world.services, nullptr);
  ASSERT_TRUE(window.waitForChoices(3));
  EXPECT_EQ(window.choices().last(), QStringLiteral("|cuda:1"));
}

TEST(ModelMenu, SaysWhenThereIsNoCardOrNoAnswer) {
  ModelWindow none(std::vector<DeviceChoice>{});
  ASSERT_TRUE(none.look(4));
  EXPECT_EQ(none.devices()->actions().last()->text(), QStringLiteral("No graphics card was found"));
  EXPECT_FALSE(none.devices()->actions().last()->isEnabled());

  ModelWindow broken(retrieval::Error{retrieval::ErrorCode::kGenerator, "The engine crashed."});
  ASSERT_TRUE(broken.look(4));
  EXPECT_EQ(broken.devices()->actions().last()->text(), QStringLiteral("The engine crashed."));
}

TEST(ModelMenu, ADroppedModelIsOpenedAndNoDocument) {
  ModelWindow window(kCards);
  ASSERT_TRUE(window.waitForChoices(1));
  window.driver().drop({window.driver().world.scratch.write("large.gguf", "GGUF")});
  ASSERT_TRUE(window.waitForChoices(2));
  EXPECT_EQ(window.choices().last(), QStringLiteral("large.gguf|automatic"));
  EXPECT_FALSE(window.driver().window.library()->ingesting());
}

TEST(ModelMenu, LoadingIsShownInTheStatusBarAndUnderTheQuestion) {
  ModelWindow window(kCards);
  ASSERT_TRUE(window.waitForChoices(1));
  window.held = true;
  window.driver().drop({window.driver().world.scratch.write("large.gguf", "GGUF")});
  ASSERT_TRUE(window.waitForChoices(2));
  const QString expected = QStringLiteral("Opening the model: 40 % of 5.0 GB");
  EXPECT_TRUE(QTest::qWaitFor([&] { return window.line() == expected; }, kPatienceMs)) << window.line().toStdString();
  window.held = false;
  EXPECT_TRUE(QTest::qWaitFor([&] { return window.line().contains(QStringLiteral("follows a script")); }, kPatienceMs))
      << window.line().toStdString();
}

TEST(LoadingText, NamesRateAndTimeLeft) {
  EXPECT_EQ(loadingText(0, 0, 0), QStringLiteral("Opening the model…"));
  EXPECT_EQ(loadingText(1'000'000'000, 4'000'000'000, 0.1), QStringLiteral("Opening the model: 25 % of 4.0 GB"));
  EXPECT_EQ(loadingText(1'000'000'000, 4'000'000'000, 2),
            QStringLiteral("Opening the model: 25 % of 4.0 GB, 500.0 MB/s, 6.0 s left"));
}

}  // namespace
}  // namespace lectern::ui::test
