// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QFrame>
#include <functional>

class QLabel;
class QPushButton;

namespace lectern::ui {

// A message that stays until it is answered, inside the pane it is about: never a dialog.
class NoticeBar : public QFrame {
  Q_OBJECT

 public:
  explicit NoticeBar(QWidget* parent = nullptr);

  void tell(const QString& text);
  // `action` runs when its button is pressed; the other button only closes the notice.
  void offer(const QString& text, const QString& actionName, std::function<void()> action);
  // As offer(), for something that cannot be taken back.
  void ask(const QString& text, const QString& actionName, std::function<void()> action);
  QString text() const;

 private:
  void open(const QString& text, const QString& closeName);

  QLabel* m_text;
  QPushButton* m_action;
  QPushButton* m_close;
  std::function<void()> m_run;
};

}  // namespace lectern::ui
