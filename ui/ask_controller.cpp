// SPDX-License-Identifier: GPL-3.0-or-later
#include "ask_controller.h"

#include <QElapsedTimer>
#include <QStringDecoder>

#include "display_text.h"

namespace lectern::ui {

namespace {

// Passes the events of one question on as values.
class PostingSink : public retrieval::AskSink {
 public:
  PostingSink(const JobContext& job, AskController* receiver) : m_job(job), m_receiver(receiver) {}

  void on_context(const retrieval::ContextReport& context) override {
    m_partial.context = context;
    m_job.post([receiver = m_receiver, context] { emit receiver->contextReady(context); });
  }

  void on_prefill(std::int64_t done, std::int64_t total, double seconds) override {
    if (seconds <= 0) m_known = done;
    m_job.post([receiver = m_receiver, progress = PrefillProgress{done, total, seconds, m_known}] {
      emit receiver->prefilled(progress);
    });
  }

  void on_text(std::string_view piece) override {
    m_partial.text += piece;
    const QString text = m_decoder(QByteArrayView(piece.data(), static_cast<qsizetype>(piece.size())));
    if (!text.isEmpty()) m_job.post([receiver = m_receiver, text] { emit receiver->textArrived(text); });
  }

  // What has come so far, with its sources; nothing when that is no text, or the library cannot be read.
  std::optional<retrieval::Answer> partial(const retrieval::Library& library) && {
    if (m_partial.text.empty()) return std::nullopt;
    auto citations =
        retrieval::resolve_citations(library, m_partial.context.passages, m_partial.text, m_partial.unknown_marks);
    if (!citations.ok()) return std::nullopt;
    m_partial.citations = std::move(citations).value();
    return std::move(m_partial);
  }

 private:
  const JobContext& m_job;
  AskController* m_receiver;
  retrieval::Answer m_partial;
  qint64 m_known = 0;                              // tokens of the prompt, before anything was read
  QStringDecoder m_decoder{QStringDecoder::Utf8};  // a piece may end inside a character
};

// Posts what it is told, with the time since it was first called.
LoadProgress loadingReport(const JobContext& job, AskController* receiver) {
  QElapsedTimer clock;
  return [&job, receiver, clock](std::int64_t done, std::int64_t total) mutable {
    if (!clock.isValid()) clock.start();
    const LoadingState state{done, total, static_cast<double>(clock.elapsed()) / 1000};
    job.post([receiver, state] { emit receiver->modelLoading(state); });
  };
}

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
    RETRIEVAL_TRY(model.opened, model.open(model.choice, loadingReport(job, receiver), job.stop()));
  }
  if (model.opened->ready && !model.opened->ready()) job.post([receiver] { emit receiver->modelOpening(); });
  if (model.opened->prepare) RETRIEVAL_CHECK(model.opened->prepare(job.stop(), loadingReport(job, receiver)));
  // Said every time: whoever had it opened may have been abandoned since.
  const ModelLine line{labelText(model.opened->generator->model_name(), 80), model.opened->note,
                       model.opened->generator->context_tokens()};
  job.post([receiver, line] { emit receiver->modelOpened(line); });
  return &*model.opened;
}

void AskController::openModel(const ModelChoice& choice) {
  m_modelReady = false;
  m_opening = m_thread.submit(
      [this, model = m_model, choice](const JobContext& job) -> retrieval::Result<void> {
        model->choice = choice;
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
               documents](const JobContext& job) -> Outcome {
    const retrieval::Result<const OpenedModel*> opening = opened(*model, this, job);
    if (!opening.ok()) return {opening.error(), std::nullopt};
    const OpenedModel* ready = *opening;
    retrieval::AskOptions options;
    options.documents = documents;
    options.generate.max_new_tokens = ready->profile.max_new_tokens;
    PostingSink sink(job, this);
    Outcome outcome{
        retrieval::ask(*library, *ready->generator, embedder.get(), ready->profile, text, options, sink, job.stop()),
        std::nullopt};
    if (!outcome.answer.ok()) outcome.partial = std::move(sink).partial(*library);
    return outcome;
  };
  emit started(question);
  m_question = m_thread.submit(std::move(work), [this](const Outcome& outcome) { deliver(outcome); });
}

void AskController::deliver(const Outcome& outcome) {
  if (outcome.answer.ok()) {
    emit finished(*outcome.answer);
    return;
  }
  const retrieval::Error& error = outcome.answer.error();
  if (outcome.partial) {
    emit interrupted(*outcome.partial, displayText(error.message));
  } else {
    emit failed(displayText(error.message), error.code == retrieval::ErrorCode::kCancelled);
  }
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
