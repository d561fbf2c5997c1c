// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QHash>
#include <QVBoxLayout>

namespace lectern::ui {

// A column that remembers how high it is for each width it was asked about. Qt asks every part of a long page again
// whenever one of them changes, and to answer, all wrapped text is laid out anew.
class ColumnLayout : public QVBoxLayout {
 public:
  using QVBoxLayout::QVBoxLayout;

  int heightForWidth(int width) const override {
    return remembered(m_heights, width, [this](int asked) { return QVBoxLayout::heightForWidth(asked); });
  }
  int minimumHeightForWidth(int width) const override {
    return remembered(m_minimumHeights, width, [this](int asked) { return QVBoxLayout::minimumHeightForWidth(asked); });
  }
  void invalidate() override {
    m_heights.clear();
    m_minimumHeights.clear();
    QVBoxLayout::invalidate();
  }

 private:
  template <class Compute>
  static int remembered(QHash<int, int>& heights, int width, const Compute& compute) {
    constexpr qsizetype kMostWidths = 8;  // of a window that is being resized the last ones
    const auto found = heights.constFind(width);
    if (found != heights.constEnd()) return *found;
    const int height = compute(width);
    if (heights.size() >= kMostWidths) heights.clear();
    heights.insert(width, height);
    return height;
  }

  mutable QHash<int, int> m_heights;
  mutable QHash<int, int> m_minimumHeights;
};

}  // namespace lectern::ui
