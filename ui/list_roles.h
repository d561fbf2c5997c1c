// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <Qt>

namespace lectern::ui {

// What the two lists of the library pane tell their common delegate, besides Qt::DisplayRole for the first line.
enum ListRole : int {
  kDocumentRole = Qt::UserRole,  // retrieval::DocumentId; 0: none
  kDetailRole,                   // second and further lines
  kDetailLinesRole,              // how many of them at most
  kPlaceRole,                    // at the right end of the first line, such as "p. 3"
  kIconRole,                     // name of an icon
  kTintRole,                     // IconTint of icon and detail
  kWordsRole,                    // QStringList: words to make bold in the detail
};

}  // namespace lectern::ui
