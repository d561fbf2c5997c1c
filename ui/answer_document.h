// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QHash>
#include <QString>
#include <QTextDocument>
#include <QUrl>
#include <memory>
#include <optional>

namespace lectern::ui {

// A document that never loads anything, whatever its text refers to.
class InertDocument : public QTextDocument {
 public:
  using QTextDocument::QTextDocument;

 protected:
  QVariant loadResource(int /*type*/, const QUrl& /*name*/) override { return {}; }
};

// The k-th occurrence of mark n, "[n]", in an answer; the only kind of link an answer can hold.
struct CitationLink {
  int mark = 0;
  int occurrence = 0;  // from 0, among the occurrences of this mark

  QString href() const;
  static std::optional<CitationLink> parse(const QString& href);
};

enum class CitationState { kUnknown, kPending, kVerified, kUnverified };

// How often each mark has occurred so far.
using MarkCounts = QHash<int, int>;

// Markdown from a model as a document that is safe to show: no HTML, images as their description, links as text with
// their address, "[n]" as citation links. `counts` carries on from piece to piece.
std::unique_ptr<InertDocument> renderMarkdown(const QString& markdown, const QFont& font, MarkCounts& counts);

// Where the text between `from` and `end` can be cut so that both parts render as the whole does; `from` when nowhere.
qsizetype markdownBoundary(QStringView text, qsizetype from, qsizetype end);

}  // namespace lectern::ui
