// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

class QMainWindow;
class QWidget;

namespace lectern::ui {

// Both open beside the window's event loop, not inside one of their own.
void showShortcuts(QMainWindow* window);
void showAbout(QWidget* parent);

}  // namespace lectern::ui
