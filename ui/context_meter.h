// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QWidget>

namespace lectern::ui {

// How much of the model's context the last question took: a small bar and both numbers.
class ContextMeter : public QWidget {
  Q_OBJECT

 public:
  explicit ContextMeter(QWidget* parent = nullptr);

  void setUse(qint64 used, qint64 limit);
  QString text() const;
  QSize sizeHint() const override;
  QSize minimumSizeHint() const override { return sizeHint(); }

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  qint64 m_used = 0;
  qint64 m_limit = 0;
};

}  // namespace lectern::ui
