// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QString>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "retrieval/answer.h"
#include "retrieval/library.h"
#include "retrieval/ports.h"
#include "retrieval/result.h"

namespace lectern::ui {

// Ids of devices: one of these, or whatever listDevices() gives.
inline constexpr QLatin1String kAutomaticDevice("automatic");
inline constexpr QLatin1String kProcessorDevice("cpu");

struct DeviceChoice {
  QString id;
  QString label;
  QString problem;  // why it cannot be used; empty: it can
};

struct ModelChoice {
  std::filesystem::path path;  // of a folder or GGUF file; empty: the bundled model
  QString device = kAutomaticDevice;
};

// Bytes of weights loaded, and of all.
using LoadProgress = std::function<void(std::int64_t done, std::int64_t total)>;

// A model that is ready to answer.
struct OpenedModel {
  std::shared_ptr<retrieval::Generator> generator;
  retrieval::PromptProfile profile;
  QString note;  // what the user should know, such as "bundled nano model: extracts sentences only"; may be empty
  // For a generator that can be lost with what runs it. `ready`: whether it can answer at once; if not, `prepare` opens
  // the model again, or says why that is impossible. Both empty: always ready.
  std::function<bool()> ready = {};
  std::function<retrieval::Result<void>(const std::stop_token&, const LoadProgress&)> prepare = {};
};

// Everything the window needs from the host program, which fills it and outlives the window.
struct Services {
  std::shared_ptr<retrieval::Library> library;

  // Used by one job thread at a time.
  std::shared_ptr<retrieval::Extractor> extractor;

  // Empty: words alone. Ingest, search and questions share it, so a second caller must wait inside embed().
  std::shared_ptr<retrieval::Embedder> embedder;

  // Called on a job thread: before the first question, after a failure, and when the user chooses another model.
  std::function<retrieval::Result<OpenedModel>(const ModelChoice&, const LoadProgress&, std::stop_token)> openModel;

  // Graphics cards, usable or not; called on a job thread. Empty: the processor computes.
  std::function<retrieval::Result<std::vector<DeviceChoice>>(std::stop_token)> listDevices;

  std::filesystem::path samples;  // directory offered at the first start; empty: none
  QString settingsFile;           // INI file; empty: nothing is remembered
};

}  // namespace lectern::ui
