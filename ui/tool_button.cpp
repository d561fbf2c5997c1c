// SPDX-License-Identifier: GPL-3.0-or-later
#include "tool_button.h"

#include <QToolButton>

#include "theme.h"

namespace lectern::ui {

QToolButton* makeToolButton(const QString& icon, const QString& name, QWidget* parent, const QString& toolTip) {
  auto* button = new QToolButton(parent);
  button->setIcon(theme::icon(icon));
  button->setIconSize({theme::kIconSize, theme::kIconSize});
  button->setAccessibleName(name);
  button->setToolTip(toolTip.isEmpty() ? name : toolTip);
  button->setFocusPolicy(Qt::StrongFocus);
  return button;
}

}  // namespace lectern::ui
