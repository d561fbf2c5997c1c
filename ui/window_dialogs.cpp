// SPDX-License-Identifier: GPL-3.0-or-later
#include "window_dialogs.h"

#include <QAction>
#include <QCoreApplication>
#include <QDialog>
#include <QDialogButtonBox>
#include <QFormLayout>
#include <QLabel>
#include <QMainWindow>
#include <QMenu>
#include <QMenuBar>
#include <QMessageBox>
#include <QVBoxLayout>

namespace lectern::ui {

namespace {

QString tr(const char* text) { return QCoreApplication::translate("Dialogs", text); }

// The menus know every action and its keys, so the list cannot fall behind them.
void addShortcuts(QFormLayout* form, const QMenu* menu) {
  for (const QAction* action : menu->actions()) {
    if (action->menu() != nullptr) {
      addShortcuts(form, action->menu());
    } else if (!action->shortcut().isEmpty() && action->isVisible()) {
      auto* keys = new QLabel(action->shortcut().toString(QKeySequence::NativeText));
      QString name = action->text();
      form->addRow(keys, new QLabel(name.remove(u'&').remove(u'…')));
    }
  }
}

}  // namespace

void showShortcuts(QMainWindow* window) {
  auto* dialog = new QDialog(window);
  dialog->setAttribute(Qt::WA_DeleteOnClose);
  dialog->setWindowTitle(tr("Keyboard shortcuts"));
  auto* form = new QFormLayout;
  form->setHorizontalSpacing(28);
  form->setVerticalSpacing(8);
  for (const QAction* top : window->menuBar()->actions()) {
    if (top->menu() != nullptr) addShortcuts(form, top->menu());
  }
  form->addRow(new QLabel(tr("Enter")), new QLabel(tr("Ask the question")));
  form->addRow(new QLabel(tr("Shift+Enter")), new QLabel(tr("Begin a new line in the question")));
  form->addRow(new QLabel(tr("Del")), new QLabel(tr("Remove the selected documents")));
  auto* buttons = new QDialogButtonBox(QDialogButtonBox::Close);
  QObject::connect(buttons, &QDialogButtonBox::rejected, dialog, &QDialog::reject);
  auto* layout = new QVBoxLayout(dialog);
  layout->setContentsMargins(24, 20, 24, 16);
  layout->setSpacing(18);
  layout->addLayout(form);
  layout->addWidget(buttons);
  dialog->open();
}

void showAbout(QWidget* parent) {
  auto* box = new QMessageBox(parent);
  box->setAttribute(Qt::WA_DeleteOnClose);
  box->setWindowTitle(tr("About Lectern"));
  box->setText(QStringLiteral("Lectern ") + QCoreApplication::applicationVersion());
  box->setInformativeText(
      tr("Reads, searches and answers questions about long documents on this machine, with every "
         "claim cited. Nothing is sent anywhere.\n\nFree software under the GNU General Public "
         "License, version 3 or later."));
  box->setStandardButtons(QMessageBox::Close);
  box->open();
}

}  // namespace lectern::ui
