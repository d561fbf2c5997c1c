// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QPlainTextEdit>

namespace lectern::ui {

// Where questions are written: grows to a few lines; Enter asks, Shift+Enter begins a new line.
class QuestionBox : public QPlainTextEdit {
  Q_OBJECT

 public:
  explicit QuestionBox(QWidget* parent = nullptr);

  QSize sizeHint() const override;

 signals:
  void submitted();
  void focusChanged(bool focused);

 protected:
  void keyPressEvent(QKeyEvent* event) override;
  void focusInEvent(QFocusEvent* event) override;
  void focusOutEvent(QFocusEvent* event) override;
  void insertFromMimeData(const QMimeData* source) override;
  void resizeEvent(QResizeEvent* event) override;

 private:
  void fitHeight();
};

}  // namespace lectern::ui
