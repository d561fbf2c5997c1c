// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QByteArray>
#include <QSettings>
#include <QString>
#include <QVariant>

#include "services.h"

namespace lectern::ui {

// One setting: key, type and default on one line.
template <class T>
class Setting {
 public:
  Setting(QSettings* store, const char* key, T fallback)
      : m_store(store), m_key(key), m_fallback(std::move(fallback)) {}

  T get() const { return m_store->value(QLatin1String(m_key), QVariant::fromValue(m_fallback)).template value<T>(); }
  void set(const T& value) { m_store->setValue(QLatin1String(m_key), QVariant::fromValue(value)); }

 private:
  QSettings* m_store;
  const char* m_key;
  T m_fallback;
};

// What the window remembers. An empty file name remembers nothing.
class Settings {
 public:
  explicit Settings(const QString& file) : m_store(file, QSettings::IniFormat) {}

 private:
  QSettings m_store;  // before the settings that use it

 public:
  Setting<QByteArray> geometry{&m_store, "window/geometry", {}};
  Setting<QByteArray> splitter{&m_store, "window/splitter", {}};
  Setting<QString> appearance{&m_store, "window/appearance", QStringLiteral("system")};  // or "light", "dark"
  Setting<double> pageZoom{&m_store, "reader/zoom", 0.0};                                // 0: fit the width
  Setting<QString> modelPath{&m_store, "model/directory", {}};                           // empty: the bundled model
  Setting<QString> device{&m_store, "model/device", kAutomaticDevice};
  Setting<bool> samplesOffered{&m_store, "library/samples_offered", false};
};

}  // namespace lectern::ui
