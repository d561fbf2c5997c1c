// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QPlainTextEdit>
#include <QTimer>

namespace lectern::ui {

// Text and source code with line numbers and marked lines. Long texts are laid out piece by piece between events.
class TextView : public QPlainTextEdit {
  Q_OBJECT

 public:
  explicit TextView(QWidget* parent = nullptr);

  // Lines from 1; 0: none marked. Prose wraps and has the font of the window, code has neither.
  void showText(const QString& text, bool prose, int firstLine, int lastLine);
  void markLines(int firstLine, int lastLine);
  bool complete() const { return m_shown == m_text.size(); }
  int firstMarkedLine() const { return m_firstLine; }
  int lastMarkedLine() const { return m_lastLine; }

 signals:
  void completed();

 protected:
  void resizeEvent(QResizeEvent* event) override;
  void changeEvent(QEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;

 private:
  class Numbers;

  void showMore();
  void updateMarks();
  void updateNumbersWidth();
  void paintNumbers(QPaintEvent* event);

  Numbers* m_numbers;
  QTimer m_timer;
  QString m_text;
  qsizetype m_shown = 0;
  int m_firstLine = 0;
  int m_lastLine = 0;
};

}  // namespace lectern::ui
