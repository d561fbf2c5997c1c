// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QAbstractButton>
#include <vector>

#include "answer_document.h"
#include "retrieval/answer.h"

namespace lectern::ui {

// One source under an answer: number, title, place, and whether the answer's words stand there.
class SourceRow : public QAbstractButton {
  Q_OBJECT

 public:
  explicit SourceRow(const retrieval::Citation& citation, QWidget* parent = nullptr);

  const retrieval::Citation& citation() const { return m_citation; }
  QSize sizeHint() const override;

 protected:
  void paintEvent(QPaintEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;

 private:
  retrieval::Citation m_citation;
};

// Rows for the citations of an answer: every place once, in the order of the marks' numbers.
std::vector<retrieval::Citation> distinctSources(const std::vector<retrieval::Citation>& citations);

// The citation that a link stands for; null when its mark names no passage.
const retrieval::Citation* citationOf(const std::vector<retrieval::Citation>& citations, const CitationLink& link);

}  // namespace lectern::ui
