// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QMenu>
#include <QString>
#include <vector>

#include "job_thread.h"
#include "services.h"

class QActionGroup;

namespace lectern::ui {

// Which model answers, and what computes it. The devices are looked for when the menu is first opened.
class ModelMenu : public QMenu {
  Q_OBJECT

 public:
  // `device`: the id of the one in use.
  ModelMenu(const Services& services, const QString& device, QWidget* parent = nullptr);

 signals:
  void modelChosen(const QString& path);  // of a folder or GGUF file; empty: the bundled model
  void deviceChosen(const QString& id);

 private:
  void chooseFile();
  void chooseFolder();
  void lookForDevices();
  void showDevices(const retrieval::Result<std::vector<DeviceChoice>>& found);
  void addDevice(const DeviceChoice& device);

  decltype(Services::listDevices) m_listDevices;
  QString m_device;
  QMenu* m_devices;
  QActionGroup* m_group;
  JobThread m_thread;
  Job m_listing;
};

}  // namespace lectern::ui
