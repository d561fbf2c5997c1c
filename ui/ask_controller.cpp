// SPDX-License-Identifier: GPL-3.0-or-later
#include "ask_controller.h"

#include <QStringDecoder>

#include "display_text.h"

namespace lectern::ui {

namespace {

// Passes the events of one question on as values.
class PostingSink : public retrieval::AskSink {
 public:
  PostingSink(const JobContext& job, AskController* receiver) : m_job(job), m_receiver(receiver) {}

  void on_context(const retrieval::ContextReport& context) override {
    m_job.post([receiver = m_receiver, context] { emit receiver->contextReady(context); });
  }

  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    m_job.post([receiver = m_receiver, done, total, seconds] { emit receiver->prefilled({done, total, seconds}); });
  }

  void on_text(std::string_view piece) override {
    const QString text = m_decoder(QByteArrayView(piece.data(), static_cast<qsizetype>(piece.size())));
    if (!text.isEmpty()) m_job.post([receiver = m_receiver, text] { emit receiver->textArrived(text); });
  }

 private:
  const JobContext& m_job;
  AskController* m_receiver;
  QStringDecoder m_decoder{QStringDecoder::Utf8};  // a piece may end inside a character
};

}  // namespace

AskController::AskController(const Services& services, QObject* parent)
    : QObject(parent),
      m_library(services.library),
      m_embedder(services.embedder),
      m_model(std::make_shared<Model>(Model{services.openModel, {}, std::nullopt})),
      m_thread(QStringLiteral("ask")) {
  connect(this, &AskController::modelOpened, this, [this] { m_modelReady = true; });
}

retrieval::Result<const OpenedModel*> AskController::opened(Model& model, AskController* receiver,
                                                            const JobContext& job) {
  if (!model.opened) {
    job.post([receiver] { emit receiver->modelOpening(); });
    RETRIEVAL_TRY(model.opened, model.open(model.directory, job.stop()));
  }
  // Said every time: whoever had it opened may have been abandoned since.
  const ModelLine line{labelText(model.opened->generator->model_name(), 80), model.opened->note,
                       model.opened->generator->context_tokens()};
  job.post([receiver, line] { emit receiver->modelOpened(line); });
  return &*model.opened;
}

void AskController::openModel(const std::filesystem::path& directory) {
  m_modelReady = false;
  m_opening = m_thread.submit(
      [this, model = m_model, directory](const JobContext& job) -> retrieval::Result<void> {
        model->directory = directory;
        model->opened.reset();  // memory of the old one is free before the new one is opened
        RETRIEVAL_TRY([[maybe_unused]] const OpenedModel* ready, opened(*model, this, job));
        return {};
      },
      [this](const retrieval::Result<void>& ready) {
        if (!ready.ok()) emit modelFailed(displayText(ready.error().message));
      });
}

void AskController::ask(const QString& question, const std::vector<retrieval::DocumentId>& documents) {
  if (busy()) return;
  auto work = [this, library = m_library, embedder = m_embedder, model = m_model, text = question.toStdString(),
               documents](const JobContext& job) -> retrieval::Result<retrieval::Answer> {
    RETRIEVAL_TRY(const OpenedModel* ready, opened(*model, this, job));
    retrieval::AskOptions options;
    options.documents = documents;
    options.generate.max_new_tokens = ready->profile.max_new_tokens;
    PostingSink sink(job, this);
    return retrieval::ask(*library, *ready->generator, embedder.get(), ready->profile, text, options, sink, job.stop());
  };
  emit started(question);
  m_question = m_thread.submit(std::move(work), [this](const retrieval::Result<retrieval::Answer>& answer) {
    if (answer.ok()) {
      emit finished(*answer);
    } else {
      emit failed(displayText(answer.error().message), answer.error().code == retrieval::ErrorCode::kCancelled);
    }
  });
}

void AskController::stop() {
  if (!busy()) return;
  if (m_modelReady) {
    m_question.requestStop();
    return;
  }
  // Opening a large model may not look at the stop token often enough for a person.
  m_question.abandon();
  emit failed(tr("Stopped before the model was ready."), true);
}

}  // namespace lectern::ui
