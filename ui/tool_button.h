// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QString>

class QToolButton;
class QWidget;

namespace lectern::ui {

// A button that is only an icon: its name is for screen readers and, when no other is given, its tool tip.
QToolButton* makeToolButton(const QString& icon, const QString& name, QWidget* parent, const QString& toolTip = {});

}  // namespace lectern::ui
