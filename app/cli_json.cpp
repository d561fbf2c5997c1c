// SPDX-License-Identifier: GPL-3.0-or-later
#include "cli_json.h"

#include "exit_codes.h"

namespace lectern::app {
namespace {

// Fields that do not apply (0) are left out rather than given a meaning.
void putLines(Json& json, std::uint32_t first, std::uint32_t last) {
  if (first == 0) return;
  json["first_line"] = first;
  json["last_line"] = last;
}

Json highlightJson(const retrieval::PageHighlight& highlight) {
  Json rects = Json::array();
  for (const retrieval::Rect& rect : highlight.rects) rects.push_back({rect.left, rect.top, rect.right, rect.bottom});
  return {{"page", highlight.page}, {"rects", std::move(rects)}};
}

Json citationJson(const retrieval::Citation& citation) {
  Json json = {{"mark", citation.mark},   {"document", citation.document},  {"chunk", citation.chunk},
               {"title", citation.title}, {"path", citation.path.string()}, {"kind", name(citation.kind)},
               {"claim", citation.claim}, {"quote", citation.quote},        {"verified", citation.verified}};
  if (!citation.highlights.empty()) json["page"] = citation.highlights.front().page;
  json["highlights"] = Json::array();
  for (const retrieval::PageHighlight& highlight : citation.highlights)
    json["highlights"].push_back(highlightJson(highlight));
  putLines(json, citation.first_line, citation.last_line);
  return json;
}

Json contextJson(const retrieval::ContextReport& context) {
  Json json = {{"prompt_tokens", context.prompt_tokens},
               {"context_tokens", context.context_tokens},
               {"passages_left_out", context.passages_left_out},
               {"passages", Json::array()}};
  int mark = 0;
  for (const retrieval::SearchHit& hit : context.passages) {
    Json passage = {{"mark", ++mark}};
    passage.update(toJson(hit));
    json["passages"].push_back(std::move(passage));
  }
  return json;
}

Json statisticsOf(const retrieval::GeneratedText& text) {
  Json json = {{"prompt_tokens", text.prompt_tokens},     {"generated_tokens", text.generated_tokens},
               {"reused_tokens", text.reused_tokens},     {"drafted_tokens", text.drafted_tokens},
               {"accepted_tokens", text.accepted_tokens}, {"rope_factor", text.rope_factor},
               {"prefill_seconds", text.prefill_seconds}, {"decode_seconds", text.decode_seconds}};
  if (text.prefill_seconds > 0) {
    json["prefill_tokens_per_second"] =
        static_cast<double>(text.prompt_tokens - text.reused_tokens) / text.prefill_seconds;
  }
  if (text.decode_seconds > 0) {
    json["decode_tokens_per_second"] = static_cast<double>(text.generated_tokens) / text.decode_seconds;
  }
  return json;
}

}  // namespace

Json toJson(const retrieval::SearchHit& hit) {
  Json json = {{"chunk", hit.chunk},         {"document", hit.document},      {"title", hit.title},
               {"path", hit.path.string()},  {"heading", hit.heading},        {"score", hit.score},
               {"word_rank", hit.word_rank}, {"vector_rank", hit.vector_rank}};
  if (hit.page != 0) json["page"] = hit.page;
  putLines(json, hit.first_line, hit.last_line);
  json["text"] = hit.text;
  return json;
}

Json toJson(const retrieval::DocumentInfo& document) {
  return {{"document", document.id},     {"path", document.path.string()}, {"title", document.title},
          {"kind", name(document.kind)}, {"state", name(document.state)},  {"note", document.note},
          {"pages", document.pages},     {"passages", document.chunks},    {"bytes", document.bytes}};
}

Json toJson(const retrieval::IngestItem& item) {
  Json json = {{"path", item.file.string()}, {"outcome", name(item.outcome)}, {"message", item.message}};
  if (item.document != 0) json["document"] = item.document;
  json["pages"] = item.pages;
  json["passages"] = item.chunks;
  return json;
}

Json toJson(const retrieval::IngestReport& report) {
  Json json = {{"added", report.added},        {"updated", report.updated},   {"unchanged", report.unchanged},
               {"skipped", report.skipped},    {"failed", report.failed},     {"pages", report.pages},
               {"passages", report.chunks},    {"embedded", report.embedded}, {"seconds", report.seconds},
               {"cancelled", report.cancelled}};
  if (!report.embedding_error.empty()) json["embedding_error"] = report.embedding_error;
  return json;
}

Json toJson(const retrieval::LibraryStatus& status) {
  return {{"documents", status.documents},
          {"passages", status.chunks},
          {"embedded_passages", status.embedded_chunks},
          {"embedding_model", status.embedding_model},
          {"schema_version", status.schema_version},
          {"read_only_reason", status.read_only_reason}};
}

Json toJson(const retrieval::Answer& answer) {
  Json json = {{"answer", answer.text},
               {"refused", answer.refused},
               {"finish", name(answer.finish)},
               {"citations", Json::array()},
               {"unknown_marks", answer.unknown_marks},
               {"context", contextJson(answer.context)},
               {"statistics", statisticsOf(answer.generation)}};
  for (const retrieval::Citation& citation : answer.citations) json["citations"].push_back(citationJson(citation));
  return json;
}

Json toJson(const retrieval::Error& error) {
  return {{"error", {{"code", errorName(error.code)}, {"message", error.message}}}};
}

std::string dump(const Json& json) { return json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n"; }

const char* name(retrieval::DocumentKind kind) {
  switch (kind) {
    case retrieval::DocumentKind::kPdf:
      return "pdf";
    case retrieval::DocumentKind::kMarkdown:
      return "markdown";
    case retrieval::DocumentKind::kCode:
      return "code";
    case retrieval::DocumentKind::kText:
      break;
  }
  return "text";
}

const char* name(retrieval::DocumentState state) {
  switch (state) {
    case retrieval::DocumentState::kPartial:
      return "partial";
    case retrieval::DocumentState::kFailed:
      return "failed";
    case retrieval::DocumentState::kReady:
      break;
  }
  return "ready";
}

const char* name(retrieval::IngestOutcome outcome) {
  switch (outcome) {
    case retrieval::IngestOutcome::kUpdated:
      return "updated";
    case retrieval::IngestOutcome::kUnchanged:
      return "unchanged";
    case retrieval::IngestOutcome::kSkipped:
      return "skipped";
    case retrieval::IngestOutcome::kFailed:
      return "failed";
    case retrieval::IngestOutcome::kAdded:
      break;
  }
  return "added";
}

const char* name(retrieval::GenerateFinish finish) {
  switch (finish) {
    case retrieval::GenerateFinish::kLength:
      return "length";
    case retrieval::GenerateFinish::kCancelled:
      return "cancelled";
    case retrieval::GenerateFinish::kStop:
      break;
  }
  return "stop";
}

}  // namespace lectern::app
