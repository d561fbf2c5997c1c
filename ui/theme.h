// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QColor>
#include <QFont>
#include <QIcon>
#include <QObject>
#include <QString>

class QApplication;
class QWidget;

namespace lectern::ui {

enum class Appearance { kSystem, kLight, kDark };

// "light", "dark"; anything else follows the system.
Appearance appearanceNamed(const QString& name);

// Colours by meaning. Text colours keep 4.5:1 or more on `panel` and `surface` in both appearances.
struct Colors {
  QColor panel;    // side panes, header and status bars
  QColor surface;  // where text is read and written
  QColor desk;     // around the pages of the reader
  QColor border;
  QColor text;
  QColor muted;
  QColor accent;      // links, focus
  QColor accentFill;  // main button
  QColor onAccent;    // text on accentFill
  QColor hover;
  QColor selected;
  QColor good;
  QColor caution;
  QColor bad;
  QColor highlight;  // multiplied onto page images, laid under text
};

enum class IconTint { kText, kMuted, kAccent, kOnAccent, kGood, kCaution, kBad };

namespace theme {

// Distances between things, in device-independent pixels.
inline constexpr int kSpace = 8;
inline constexpr int kWideSpace = 16;
inline constexpr int kRadius = 8;
inline constexpr int kIconSize = 18;

const Colors& colors();
bool isDark();

// A monochrome icon of resources/icons in the colour that `tint` has when it is painted.
QIcon icon(const QString& name, IconTint tint = IconTint::kText);

QFont scaledFont(const QWidget& widget, double factor, bool bold = false);

}  // namespace theme

// Sets style, palette and style sheet of the whole program, and follows later changes of the system's appearance.
// One per QApplication, which owns it.
class Theme : public QObject {
  Q_OBJECT

 public:
  Theme(QApplication* application, Appearance appearance);

  void setAppearance(Appearance appearance);

 private:
  bool eventFilter(QObject* watched, QEvent* event) override;
  void apply();
  bool systemIsDark();

  QApplication* m_application;
  Appearance m_appearance;
  bool m_applying = false;
};

}  // namespace lectern::ui
