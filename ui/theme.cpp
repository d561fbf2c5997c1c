// SPDX-License-Identifier: GPL-3.0-or-later
#include "theme.h"

#include <QApplication>
#include <QBuffer>
#include <QEvent>
#include <QFile>
#include <QIconEngine>
#include <QImageReader>
#include <QPainter>
#include <QPalette>
#include <QPixmapCache>
#include <QStyleFactory>
#include <QWidget>

// Resources of a static library are forgotten by the linker unless something names them; only outside a namespace.
static void initResources() { Q_INIT_RESOURCE(app); }

namespace lectern::ui {

namespace {

Colors lightColors() {
  return {.panel = "#f5f6f8",
          .surface = "#ffffff",
          .desk = "#e4e7ec",
          .border = "#d9dde4",
          .text = "#1b1f27",
          .muted = "#5a6372",
          .accent = "#2456c7",
          .accentFill = "#2f62d6",
          .onAccent = "#ffffff",
          .hover = "#e9ecf2",
          .selected = "#dbe5fb",
          .good = "#1a7343",
          .caution = "#8a5200",
          .bad = "#b3261e",
          .highlight = "#ffe36b"};
}

Colors darkColors() {
  return {.panel = "#1d2026",
          .surface = "#23272f",
          .desk = "#15171b",
          .border = "#383e49",
          .text = "#e7e9ee",
          .muted = "#a2abb9",
          .accent = "#8db0ff",
          .accentFill = "#3a68d8",
          .onAccent = "#ffffff",
          .hover = "#2d323c",
          .selected = "#2c3d63",
          .good = "#66cf97",
          .caution = "#e8b968",
          .bad = "#ff8f86",
          .highlight = "#ffe36b"};
}

QPalette paletteOf(const Colors& c) {
  QPalette p;
  p.setColor(QPalette::Window, c.panel);
  p.setColor(QPalette::WindowText, c.text);
  p.setColor(QPalette::Base, c.surface);
  p.setColor(QPalette::AlternateBase, c.panel);
  p.setColor(QPalette::Text, c.text);
  p.setColor(QPalette::PlaceholderText, c.muted);
  p.setColor(QPalette::Button, c.panel);
  p.setColor(QPalette::ButtonText, c.text);
  p.setColor(QPalette::BrightText, c.onAccent);
  p.setColor(QPalette::ToolTipBase, c.surface);
  p.setColor(QPalette::ToolTipText, c.text);
  p.setColor(QPalette::Highlight, c.accentFill);
  p.setColor(QPalette::HighlightedText, c.onAccent);
  p.setColor(QPalette::Link, c.accent);
  p.setColor(QPalette::LinkVisited, c.accent);
  p.setColor(QPalette::Light, c.surface);
  p.setColor(QPalette::Midlight, c.hover);
  p.setColor(QPalette::Mid, c.border);
  p.setColor(QPalette::Dark, c.border.darker(130));
  p.setColor(QPalette::Shadow, c.border.darker(180));
  for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText}) {
    QColor faded = c.muted;
    faded.setAlphaF(0.6F);
    p.setColor(QPalette::Disabled, role, faded);
  }
  return p;
}

QString styleSheetOf(const Colors& c) {
  QFile file(QStringLiteral(":/lectern/style.qss"));
  if (!file.open(QIODevice::ReadOnly)) return {};
  QString sheet = QString::fromUtf8(file.readAll());
  const std::pair<const char*, QColor> names[] = {{"@panel", c.panel},
                                                  {"@surface", c.surface},
                                                  {"@desk", c.desk},
                                                  {"@border", c.border},
                                                  {"@text", c.text},
                                                  {"@muted", c.muted},
                                                  {"@accentFill", c.accentFill},
                                                  {"@accent", c.accent},
                                                  {"@onAccent", c.onAccent},
                                                  {"@hover", c.hover},
                                                  {"@selected", c.selected},
                                                  {"@good", c.good},
                                                  {"@caution", c.caution},
                                                  {"@bad", c.bad}};
  for (const auto& [name, color] : names) sheet.replace(QLatin1String(name) + u';', color.name() + u';');
  return sheet;
}

QColor colorOf(IconTint tint) {
  const Colors& c = theme::colors();
  switch (tint) {
    case IconTint::kText:
      return c.text;
    case IconTint::kMuted:
      return c.muted;
    case IconTint::kAccent:
      return c.accent;
    case IconTint::kOnAccent:
      return c.onAccent;
    case IconTint::kGood:
      return c.good;
    case IconTint::kCaution:
      return c.caution;
    case IconTint::kBad:
      return c.bad;
  }
  return c.text;
}

// Icons are SVG drawings in black; the colour is put in when a pixmap of some size is needed.
class TintedIconEngine : public QIconEngine {
 public:
  TintedIconEngine(QString name, IconTint tint) : m_name(std::move(name)), m_tint(tint) {}

  void paint(QPainter* painter, const QRect& rect, QIcon::Mode mode, QIcon::State iconState) override {
    const qreal ratio = painter->device() != nullptr ? painter->device()->devicePixelRatioF() : 1.0;
    QPixmap image = pixmap((QSizeF(rect.size()) * ratio).toSize(), mode, iconState);
    image.setDevicePixelRatio(ratio);
    painter->drawPixmap(rect.topLeft(), image);
  }

  QPixmap pixmap(const QSize& size, QIcon::Mode mode, QIcon::State /*state*/) override {
    QColor color = mode == QIcon::Disabled ? theme::colors().muted : colorOf(m_tint);
    const QString key = QStringLiteral("lectern/%1/%2/%3x%4/%5")
                            .arg(m_name, color.name())
                            .arg(size.width())
                            .arg(size.height())
                            .arg(mode == QIcon::Disabled);
    QPixmap result;
    if (QPixmapCache::find(key, &result)) return result;
    result = render(size, color);
    if (mode == QIcon::Disabled) fade(result);
    QPixmapCache::insert(key, result);
    return result;
  }

  QIconEngine* clone() const override { return new TintedIconEngine(m_name, m_tint); }

 private:
  QPixmap render(const QSize& size, const QColor& color) const {
    QFile file(QStringLiteral(":/lectern/icons/%1.svg").arg(m_name));
    if (size.isEmpty() || !file.open(QIODevice::ReadOnly)) return {};
    QByteArray drawing = file.readAll().replace("#000", color.name().toLatin1());
    QBuffer buffer(&drawing);
    QImageReader reader(&buffer, "svg");
    reader.setScaledSize(size);
    return QPixmap::fromImage(reader.read());
  }

  static void fade(QPixmap& pixmap) {
    if (pixmap.isNull()) return;
    QPixmap faded(pixmap.size());
    faded.fill(Qt::transparent);
    QPainter painter(&faded);
    painter.setOpacity(0.5);
    painter.drawPixmap(0, 0, pixmap);
    painter.end();
    pixmap = faded;
  }

  QString m_name;
  IconTint m_tint;
};

}  // namespace

Appearance appearanceNamed(const QString& name) {
  if (name == QLatin1String("light")) return Appearance::kLight;
  if (name == QLatin1String("dark")) return Appearance::kDark;
  return Appearance::kSystem;
}

namespace theme {

const Colors& colors() {
  static const Colors light = lightColors();
  static const Colors dark = darkColors();
  return isDark() ? dark : light;
}

bool isDark() { return QGuiApplication::palette().color(QPalette::Window).lightnessF() < 0.5F; }

QIcon icon(const QString& name, IconTint tint) { return QIcon(new TintedIconEngine(name, tint)); }

QFont scaledFont(const QWidget& widget, double factor, bool bold) {
  QFont font = widget.font();
  font.setPointSizeF(font.pointSizeF() * factor);
  if (bold) font.setWeight(QFont::DemiBold);
  return font;
}

}  // namespace theme

Theme::Theme(QApplication* application, Appearance appearance)
    : QObject(application), m_application(application), m_appearance(appearance) {
  initResources();
  application->setStyle(QStyleFactory::create(QStringLiteral("Fusion")));
  application->installEventFilter(this);
  apply();
}

void Theme::setAppearance(Appearance appearance) {
  m_appearance = appearance;
  apply();
}

bool Theme::eventFilter(QObject* watched, QEvent* event) {
  if (event->type() == QEvent::ThemeChange && !m_applying && m_appearance == Appearance::kSystem) apply();
  return QObject::eventFilter(watched, event);
}

// A palette of our own hides the system's, so it is taken away to look.
bool Theme::systemIsDark() {
  m_application->setPalette(QPalette());
  return theme::isDark();
}

void Theme::apply() {
  m_applying = true;
  const bool dark = m_appearance == Appearance::kDark || (m_appearance == Appearance::kSystem && systemIsDark());
  const Colors colors = dark ? darkColors() : lightColors();
  QPixmapCache::clear();
  m_application->setPalette(paletteOf(colors));
  m_application->setStyleSheet(styleSheetOf(colors));
  m_applying = false;
}

}  // namespace lectern::ui
