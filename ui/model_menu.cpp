// SPDX-License-Identifier: GPL-3.0-or-later
#include "model_menu.h"

#include <QActionGroup>
#include <QFileDialog>

#include "display_text.h"

namespace lectern::ui {

ModelMenu::ModelMenu(const Services& services, const QString& device, QWidget* parent)
    : QMenu(tr("&Model"), parent),
      m_listDevices(services.listDevices),
      m_device(device),
      m_devices(new QMenu(tr("&Compute On"), this)),
      m_group(new QActionGroup(this)),
      m_thread(QStringLiteral("devices")) {
  addAction(tr("Open Model &File…"), this, &ModelMenu::chooseFile);
  addAction(tr("Open Model F&older…"), this, &ModelMenu::chooseFolder);
  addAction(tr("Use the &Bundled Model"), this, [this] { emit modelChosen({}); });
  if (!m_listDevices) return;
  addSeparator();
  m_devices->setToolTipsVisible(true);
  addMenu(m_devices);
  addDevice({kAutomaticDevice, tr("The Graphics Card, Where There Is One"), {}});
  addDevice({kProcessorDevice, tr("The Processor"), {}});
  connect(m_devices, &QMenu::aboutToShow, this, &ModelMenu::lookForDevices);
}

void ModelMenu::chooseFile() {
  auto* dialog = new QFileDialog(parentWidget(), tr("Open a model file"));
  dialog->setAttribute(Qt::WA_DeleteOnClose);
  dialog->setFileMode(QFileDialog::ExistingFile);
  dialog->setNameFilters({tr("Models (*.gguf)"), tr("All files (*)")});
  connect(dialog, &QFileDialog::fileSelected, this, &ModelMenu::modelChosen);
  dialog->open();
}

void ModelMenu::chooseFolder() {
  auto* dialog = new QFileDialog(parentWidget(), tr("Open a model folder (config.json and *.safetensors)"));
  dialog->setAttribute(Qt::WA_DeleteOnClose);
  dialog->setFileMode(QFileDialog::Directory);
  dialog->setOption(QFileDialog::ShowDirsOnly);
  connect(dialog, &QFileDialog::fileSelected, this, &ModelMenu::modelChosen);
  dialog->open();
}

void ModelMenu::lookForDevices() {
  if (m_listing.pending()) return;
  m_listing = m_thread.submit([list = m_listDevices](const JobContext& job) { return list(job.stop()); },
                              [this](const auto& found) { showDevices(found); });
}

void ModelMenu::showDevices(const retrieval::Result<std::vector<DeviceChoice>>& found) {
  disconnect(m_devices, &QMenu::aboutToShow, this, &ModelMenu::lookForDevices);
  m_devices->addSeparator();
  if (!found.ok()) {
    m_devices->addAction(labelText(found.error().message))->setEnabled(false);
    return;
  }
  for (const DeviceChoice& device : *found) addDevice(device);
  if (found->empty()) m_devices->addAction(tr("No graphics card was found"))->setEnabled(false);
}

void ModelMenu::addDevice(const DeviceChoice& device) {
  QAction* action = m_devices->addAction(buttonText(device.label));
  action->setCheckable(true);
  action->setChecked(device.id == m_device);
  action->setEnabled(device.problem.isEmpty());
  action->setToolTip(device.problem.isEmpty() ? device.label : device.problem);
  m_group->addAction(action);
  connect(action, &QAction::triggered, this, [this, id = device.id] {
    m_device = id;
    emit deviceChosen(id);
  });
}

}  // namespace lectern::ui
