// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <QObject>
#include <QString>
#include <filesystem>
#include <optional>
#include <vector>

#include "job_thread.h"
#include "services.h"

namespace lectern::ui {

// What the status bar says about the model.
struct ModelLine {
  QString name;
  QString note;
  qint64 contextTokens = 0;
};

struct PrefillProgress {
  qint64 done = 0;
  qint64 total = 0;
  double seconds = 0;
  qint64 known = 0;  // of those done, from an earlier question

  double rate() const { return seconds > 0 ? static_cast<double>(done - known) / seconds : 0.0; }
  // Negative: not known yet.
  double secondsLeft() const { return rate() > 0 ? static_cast<double>(total - done) / rate() : -1.0; }
};

// Of a model being loaded.
struct LoadingState {
  qint64 done = 0;  // bytes
  qint64 total = 0;
  double seconds = 0;  // since the first of them
};

// One question at a time, on its own thread, which also opens the model when it is first needed.
class AskController : public QObject {
  Q_OBJECT

 public:
  explicit AskController(const Services& services, QObject* parent = nullptr);

  // Opens the model without a question, so that the first one need not wait.
  void openModel(const ModelChoice& choice);
  // Ignored while a question is being answered. No documents: all.
  void ask(const QString& question, const std::vector<retrieval::DocumentId>& documents);
  // Takes effect in every phase; the partial answer still arrives.
  void stop();
  bool busy() const { return m_question.pending(); }

 signals:
  void modelOpening();
  void modelLoading(const lectern::ui::LoadingState& state);
  void modelOpened(const lectern::ui::ModelLine& model);
  void modelFailed(const QString& message);

  void started(const QString& question);
  void contextReady(const lectern::retrieval::ContextReport& context);
  void prefilled(const lectern::ui::PrefillProgress& progress);
  void textArrived(const QString& piece);
  void finished(const lectern::retrieval::Answer& answer);
  // The model failed after `partial` had been written; its sources have been looked up.
  void interrupted(const lectern::retrieval::Answer& partial, const QString& message);
  void failed(const QString& message, bool cancelled);

 private:
  // Lives on the ask thread alone.
  struct Model {
    decltype(Services::openModel) open;
    ModelChoice choice;
    std::optional<OpenedModel> opened;
  };

  struct Outcome {
    retrieval::Result<retrieval::Answer> answer;
    std::optional<retrieval::Answer> partial;  // what had been written before an error
  };

  static retrieval::Result<const OpenedModel*> opened(Model& model, AskController* receiver, const JobContext& job);

  void deliver(const Outcome& outcome);

  std::shared_ptr<retrieval::Library> m_library;
  std::shared_ptr<retrieval::Embedder> m_embedder;
  std::shared_ptr<Model> m_model;
  JobThread m_thread;
  Job m_opening;
  Job m_question;
  bool m_modelReady = false;
};

}  // namespace lectern::ui
