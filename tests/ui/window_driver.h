// SPDX-License-Identifier: GPL-3.0-or-later
// A person in front of the window.
#pragma once

#include <gtest/gtest.h>

#include <QApplication>
#include <QDragEnterEvent>
#include <QDropEvent>
#include <QMimeData>
#include <QTest>
#include <QTextBlock>
#include <filesystem>
#include <string>
#include <vector>

#include "printing.h"
#include "ui/answer_view.h"
#include "ui/ask_controller.h"
#include "ui/conversation_turn.h"
#include "ui/conversation_view.h"
#include "ui/display_text.h"
#include "ui/library_controller.h"
#include "ui/main_window.h"
#include "ui/question_box.h"
#include "window_services.h"

namespace lectern::ui::test {

inline constexpr int kPatienceMs = 30'000;
inline const std::filesystem::path kHandbook = std::filesystem::path(LECTERN_SAMPLES) / "skerry_point_handbook.pdf";

class WindowDriver {
 public:
  // `change` may replace what the window is given.
  explicit WindowDriver(
      PacedGenerator::Reply reply, std::shared_ptr<retrieval::Embedder> embedder = nullptr,
      const std::function<void(Services&)>& change = [](Services&) {})
      : world(std::move(reply), std::move(embedder)), window((change(world.services), world.services), nullptr) {
    window.resize(1280, 800);
    window.show();
  }

  void drop(const std::vector<std::filesystem::path>& paths) {
    QMimeData data;
    QList<QUrl> urls;
    for (const auto& path : paths) urls += QUrl::fromLocalFile(toQString(path));
    data.setUrls(urls);
    QDragEnterEvent entering(QPoint(400, 300), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
    QApplication::sendEvent(&window, &entering);
    QDropEvent event(QPointF(400, 300), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
    QApplication::sendEvent(&window, &event);
  }

  bool waitForIngest() {
    return QTest::qWaitFor([&] { return !window.library()->ingesting(); }, kPatienceMs);
  }

  void type(const QString& question) {
    auto* box = window.findChild<QuestionBox*>();
    box->setPlainText(question);
    QTest::keyClick(box, Qt::Key_Return);
  }

  bool waitForAnswer() {
    return QTest::qWaitFor([&] { return !window.asking()->busy(); }, kPatienceMs) &&
           QTest::qWaitFor([&] { return answer()->complete() || answer()->markdown().isEmpty(); }, kPatienceMs);
  }

  ConversationTurn* turn() const { return window.conversation()->lastTurn(); }
  AnswerView* answer() const { return turn()->answerView(); }

  void clickMark(const QString& mark) {
    QTextCursor cursor = answer()->document()->find(mark);
    ASSERT_FALSE(cursor.isNull());
    cursor.setPosition(cursor.selectionStart() + 1);
    QTest::mouseClick(answer()->viewport(), Qt::LeftButton, {}, answer()->cursorRect(cursor).center());
  }

  WindowServices world;
  MainWindow window;
};

// The number of the passage that holds `sentence`, as a model would find it in its prompt.
inline std::string markOf(const std::string& prompt, const std::string& sentence) {
  const std::size_t found = prompt.find(sentence);
  if (found == std::string::npos) return "[9999]";
  const std::size_t line = prompt.rfind("\n[", found);
  const std::size_t begin = line == std::string::npos ? 0 : line + 1;
  return prompt.substr(begin, prompt.find(']', begin) + 1 - begin);
}

// Repeats a sentence with the mark of the passage it stands in.
inline PacedGenerator::Reply quoting(std::string sentence) {
  return [sentence = std::move(sentence)](const std::string& prompt) {
    std::string reply = sentence;
    reply += ' ';
    reply += markOf(prompt, sentence);
    return reply;
  };
}

}  // namespace lectern::ui::test
