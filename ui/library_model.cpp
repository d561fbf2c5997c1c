// SPDX-License-Identifier: GPL-3.0-or-later
#include "library_model.h"

#include <QCollator>
#include <QLocale>
#include <algorithm>

#include "display_text.h"
#include "list_roles.h"
#include "theme.h"

namespace lectern::ui {

namespace {

constexpr std::size_t kMostProblems = 200;  // rows; the report of the whole run names every file
constexpr int kReasonLines = 4;

QString sizeText(const retrieval::DocumentInfo& document) {
  QString bytes = QLocale().formattedDataSize(document.bytes, 1, QLocale::DataSizeTraditionalFormat);
  if (document.kind != retrieval::DocumentKind::kPdf) return bytes;
  return LibraryModel::tr("%n page(s)", nullptr, static_cast<int>(document.pages)) + QStringLiteral(" · ") + bytes;
}

QString stateText(const retrieval::DocumentInfo& document) {
  QString note = labelText(document.note, 600);
  switch (document.state) {
    case retrieval::DocumentState::kReady:
      return note.isEmpty() ? sizeText(document) : note;
    case retrieval::DocumentState::kPartial:
      return LibraryModel::tr("Read in part: %1").arg(note);
    case retrieval::DocumentState::kFailed:
      return LibraryModel::tr("Not read: %1").arg(note);
  }
  return note;
}

IconTint tintOf(const retrieval::DocumentInfo& document) {
  if (document.state == retrieval::DocumentState::kFailed) return IconTint::kBad;
  if (document.state == retrieval::DocumentState::kPartial || !document.note.empty()) return IconTint::kCaution;
  return IconTint::kMuted;
}

}  // namespace

QString iconOf(retrieval::DocumentKind kind) {
  switch (kind) {
    case retrieval::DocumentKind::kPdf:
      return QStringLiteral("pdf");
    case retrieval::DocumentKind::kText:
      return QStringLiteral("text");
    case retrieval::DocumentKind::kMarkdown:
      return QStringLiteral("markdown");
    case retrieval::DocumentKind::kCode:
      return QStringLiteral("code");
  }
  return QStringLiteral("text");
}

std::vector<retrieval::DocumentInfo> sortedByTitle(std::vector<retrieval::DocumentInfo> documents) {
  // The C locale, the one of a system without settings, would put all capitals first.
  QCollator byTitle(QLocale().language() == QLocale::C ? QLocale(QLocale::English) : QLocale());
  byTitle.setNumericMode(true);
  byTitle.setCaseSensitivity(Qt::CaseInsensitive);
  std::vector<std::pair<QCollatorSortKey, std::size_t>> order;
  order.reserve(documents.size());
  for (std::size_t i = 0; i < documents.size(); ++i) {
    order.emplace_back(byTitle.sortKey(labelText(documents[i].title, 200)), i);
  }
  const auto failed = [&](std::size_t i) { return documents[i].state == retrieval::DocumentState::kFailed; };
  std::sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
    return failed(a.second) != failed(b.second) ? failed(a.second) : a.first < b.first;
  });
  std::vector<retrieval::DocumentInfo> sorted;
  sorted.reserve(documents.size());
  for (const auto& [key, i] : order) sorted.push_back(std::move(documents[i]));
  return sorted;
}

void LibraryModel::setDocuments(std::vector<retrieval::DocumentInfo> documents) {
  beginResetModel();
  m_documents = std::move(documents);
  endResetModel();
}

void LibraryModel::setReading(const retrieval::IngestProgress& progress) {
  if (m_reading) {
    m_reading = progress;
    emit dataChanged(index(0), index(0));
    return;
  }
  beginInsertRows({}, 0, 0);
  m_reading = progress;
  endInsertRows();
}

void LibraryModel::clearReading() {
  if (!m_reading) return;
  beginRemoveRows({}, 0, 0);
  m_reading.reset();
  endRemoveRows();
}

void LibraryModel::addItem(const retrieval::IngestItem& item) {
  const bool stored = item.document != 0;  // it is in the list with its reason
  if (item.outcome != retrieval::IngestOutcome::kFailed || stored || m_problems.size() >= kMostProblems) return;
  const int row = firstDocumentRow();
  beginInsertRows({}, row, row);
  m_problems.push_back(item);
  endInsertRows();
}

void LibraryModel::clearProblems() {
  if (m_problems.empty()) return;
  beginRemoveRows({}, readingRows(), firstDocumentRow() - 1);
  m_problems.clear();
  endRemoveRows();
}

const retrieval::DocumentInfo* LibraryModel::document(const QModelIndex& index) const {
  const int i = index.row() - firstDocumentRow();
  if (!index.isValid() || i < 0 || i >= static_cast<int>(m_documents.size())) return nullptr;
  return &m_documents[static_cast<std::size_t>(i)];
}

QModelIndex LibraryModel::indexOf(retrieval::DocumentId document) const {
  const auto found =
      std::find_if(m_documents.begin(), m_documents.end(), [&](const auto& info) { return info.id == document; });
  if (found == m_documents.end()) return {};
  return index(firstDocumentRow() + static_cast<int>(found - m_documents.begin()));
}

int LibraryModel::rowCount(const QModelIndex& parent) const {
  return parent.isValid() ? 0 : firstDocumentRow() + static_cast<int>(m_documents.size());
}

QVariant LibraryModel::data(const QModelIndex& index, int role) const {
  if (!index.isValid() || index.row() >= rowCount()) return {};
  if (index.row() < readingRows()) return readingData(role);
  if (const retrieval::DocumentInfo* info = document(index)) return documentData(*info, role);
  return problemData(m_problems[static_cast<std::size_t>(index.row() - readingRows())], role);
}

QVariant LibraryModel::readingData(int role) const {
  const QString name = pathText(m_reading->file.filename());
  switch (role) {
    case Qt::DisplayRole:
      return name;
    case Qt::ToolTipRole:
      return pathText(m_reading->file);
    case Qt::AccessibleTextRole:
      return tr("Reading %1").arg(name);
    case kDetailRole:
      return tr("Reading…");
    case kDetailLinesRole:
      return 1;
    case kIconRole:
      return QStringLiteral("waiting");
    case kTintRole:
      return static_cast<int>(IconTint::kAccent);
    default:
      return {};
  }
}

QVariant LibraryModel::problemData(const retrieval::IngestItem& item, int role) const {
  const QString name = pathText(item.file.filename());
  const QString reason = labelText(item.message, 600);
  switch (role) {
    case Qt::DisplayRole:
      return name;
    case Qt::ToolTipRole:
      return pathText(item.file) + u'\n' + reason;
    case Qt::AccessibleTextRole:
      return tr("%1, not added: %2").arg(name, reason);
    case kDetailRole:
      return tr("Not added: %1").arg(reason);
    case kDetailLinesRole:
      return kReasonLines;
    case kIconRole:
      return QStringLiteral("error");
    case kTintRole:
      return static_cast<int>(IconTint::kBad);
    default:
      return {};
  }
}

QVariant LibraryModel::documentData(const retrieval::DocumentInfo& document, int role) const {
  const bool quiet = tintOf(document) == IconTint::kMuted;
  switch (role) {
    case Qt::DisplayRole:
      return labelText(document.title);
    case Qt::ToolTipRole:
      return pathText(document.path);
    case Qt::AccessibleTextRole:
      return tr("%1, %2").arg(labelText(document.title), stateText(document));
    case kDocumentRole:
      return QVariant::fromValue<qint64>(document.id);
    case kDetailRole:
      return stateText(document);
    case kDetailLinesRole:
      return quiet ? 1 : kReasonLines;
    case kIconRole:
      return quiet ? iconOf(document.kind) : QStringLiteral("warning");
    case kTintRole:
      return static_cast<int>(tintOf(document));
    default:
      return {};
  }
}

}  // namespace lectern::ui
