// SPDX-License-Identifier: GPL-3.0-or-later
// model info, verify, convert, quantize, compare
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "cli_measure.h"
#include "composition.h"

namespace lectern::app {
namespace {

namespace fs = std::filesystem;

Json typesJson(const std::vector<engine::TypeShare>& types) {
  Json json = Json::array();
  for (const engine::TypeShare& share : types) {
    json.push_back(
        {{"type", share.type}, {"tensors", share.tensors}, {"numbers", share.numbers}, {"bytes", share.bytes}});
  }
  return json;
}

Json infoJson(const engine::ModelReport& report, bool tensors) {
  Json json = {{"name", report.name},
               {"format", report.format},
               {"architecture", report.architecture},
               {"fingerprint", report.fingerprint},
               {"parameters", report.parameters},
               {"active_parameters", report.active_parameters},
               {"weight_bytes", report.weight_bytes},
               {"mtp", report.has_mtp},
               {"mtp_bytes", report.mtp_bytes},
               {"context_tokens", report.context_tokens},
               {"hidden_size", report.hidden_size},
               {"vocabulary", report.vocabulary},
               {"attention_layers", report.attention_layers},
               {"delta_layers", report.delta_layers},
               {"experts", report.experts},
               {"experts_per_token", report.experts_per_token},
               {"tokenizer_tokens", report.tokenizer_tokens},
               {"available_memory_bytes", report.available_memory},
               {"types", typesJson(report.types)},
               {"memory", Json::array()}};
  if (!report.tokenizer_note.empty()) json["tokenizer_note"] = report.tokenizer_note;
  for (const engine::MemoryAtContext& at : report.memory) {
    Json entry = {{"context_tokens", at.context_tokens}, {"kv", name(at.kv_type)}, {"fits", at.fits}};
    entry.update(toJson(at.memory));
    json["memory"].push_back(std::move(entry));
  }
  if (!tensors) return json;
  json["tensors"] = Json::array();
  for (const engine::TensorReport& tensor : report.tensors) {
    json["tensors"].push_back(
        {{"name", tensor.name}, {"type", tensor.type}, {"shape", tensor.shape}, {"bytes", tensor.bytes}});
  }
  return json;
}

std::string typesText(const std::vector<engine::TypeShare>& types) {
  std::string text;
  for (const engine::TypeShare& share : types) {
    text += "  " + share.type + std::string(share.type.size() < 8 ? 8 - share.type.size() : 0, ' ') + "  " +
            counted(share.tensors, "tensor") + ", " + byteCount(static_cast<double>(share.bytes)) + ", " +
            threeDigits(8 * static_cast<double>(share.bytes) / static_cast<double>(share.numbers)) + " bits each\n";
  }
  return text;
}

std::string layersText(const engine::ModelReport& report) {
  std::string text = std::to_string(report.delta_layers + report.attention_layers) + " layers";
  if (report.delta_layers > 0) {
    text += " (" + std::to_string(report.delta_layers) + " DeltaNet, " + std::to_string(report.attention_layers) +
            " attention)";
  }
  if (report.experts > 0) {
    text += ", " + std::to_string(report.experts_per_token) + " of " + std::to_string(report.experts) +
            " experts for each token";
  }
  return text;
}

std::string infoText(const engine::ModelReport& report, bool tensors) {
  const auto millions = [](std::int64_t count) { return threeDigits(static_cast<double>(count) / 1e6) + " million"; };
  std::string text = printableLine(report.name) + ": " + report.architecture + ", " + report.format + "\n" +
                     millions(report.parameters) + " parameters, " + millions(report.active_parameters) +
                     " of them for each token; " + byteCount(static_cast<double>(report.weight_bytes)) + "\n" +
                     layersText(report) + "\n" + "Context " + std::to_string(report.context_tokens) +
                     " tokens, vocabulary " + std::to_string(report.vocabulary) + "\n";
  text += report.has_mtp
              ? "Guesses tokens ahead (MTP module, " + byteCount(static_cast<double>(report.mtp_bytes)) + ")\n"
              : "No module for guessing tokens ahead (MTP)\n";
  text += report.tokenizer_note.empty() ? "Tokenizer with " + std::to_string(report.tokenizer_tokens) + " tokens\n"
                                        : "Tokenizer: " + printableLine(report.tokenizer_note) + "\n";
  text += "Types\n" + typesText(report.types);
  text += "Memory (" + byteCount(static_cast<double>(report.available_memory)) + " available)\n";
  for (const engine::MemoryAtContext& at : report.memory) {
    text += "  " + std::to_string(at.context_tokens) + " tokens, keys and values " + name(at.kv_type) + ": " +
            byteCount(static_cast<double>(at.memory.total())) + (at.fits ? "\n" : ", does not fit\n");
  }
  for (std::size_t i = 0; tensors && i < report.tensors.size(); ++i) {
    const engine::TensorReport& tensor = report.tensors[i];
    std::string shape;
    for (const std::int64_t length : tensor.shape) shape += (shape.empty() ? "" : " x ") + std::to_string(length);
    text += printableLine(tensor.name) + "  " + tensor.type + "  " + shape + "\n";
  }
  return text;
}

Json placementJson(const engine::PlacementReport& placement) {
  return {{"context_tokens", placement.context_tokens},
          {"memory", toJson(placement.memory)},
          {"predicted", toJson(placement.speed)}};
}

std::string placementText(const engine::PlacementReport& placement, const std::string& device) {
  const auto amount = [](std::int64_t bytes) { return byteCount(static_cast<double>(bytes)); };
  const engine::MemoryPlan& plan = placement.memory;
  return "On " + device + ": " + amount(plan.total()) + " of " + amount(plan.limit) + " for a context of " +
         std::to_string(placement.context_tokens) + " tokens" + expertsText(plan) +
         "\nPredicted: " + predictionText(placement.speed, plan) + "\n";
}

Json verificationJson(const engine::VerificationReport& report) {
  Json json = {{"sound", report.sound()}, {"tensors", report.tensors}, {"numbers", report.numbers},
               {"bytes", report.bytes},   {"seconds", report.seconds}, {"findings", Json::array()}};
  for (const engine::ModelFinding& finding : report.findings) {
    json["findings"].push_back({{"wrong", finding.wrong}, {"item", finding.item}, {"what", finding.what}});
  }
  return json;
}

std::string verificationText(const engine::VerificationReport& report) {
  std::string text;
  for (const engine::ModelFinding& finding : report.findings) {
    text += std::string(finding.wrong ? "wrong    " : "strange  ") + printableLine(finding.item) + ": " +
            printableLine(finding.what) + "\n";
  }
  text += report.sound() ? "Sound: " : "Not sound: ";
  return text + counted(report.tensors, "tensor") + ", " + byteCount(static_cast<double>(report.bytes)) + " read in " +
         threeDigits(report.seconds) + " s.\n";
}

Json conversionJson(const engine::ConversionReport& report, const std::string& destination) {
  Json json = {{"file", destination},
               {"mix", report.mix},
               {"tensors", report.tensors},
               {"parameters", report.parameters},
               {"mtp", report.has_mtp},
               {"source_bytes", report.source_bytes},
               {"file_bytes", report.file_bytes},
               {"seconds", report.seconds},
               {"types", typesJson(report.types)},
               {"fallbacks", Json::array()},
               {"notes", report.notes}};
  for (const engine::TypeFallback& fallback : report.fallbacks) {
    json["fallbacks"].push_back({{"tensor", fallback.tensor}, {"wanted", fallback.wanted}, {"used", fallback.used}});
  }
  return json;
}

std::string conversionText(const engine::ConversionReport& report, const std::string& destination) {
  std::string text = "Wrote " + printableLine(destination) + ": " + byteCount(static_cast<double>(report.file_bytes)) +
                     " (" + report.mix + ") out of " + byteCount(static_cast<double>(report.source_bytes)) + " in " +
                     threeDigits(report.seconds) + " s" + (report.has_mtp ? ", with its MTP module" : "") + "\n" +
                     typesText(report.types);
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> fallbacks;
  for (const engine::TypeFallback& fallback : report.fallbacks) {
    fallbacks[{fallback.wanted, fallback.used}].push_back(fallback.tensor);
  }
  for (const auto& [types, tensors] : fallbacks) {
    text += "  " + types.second + " instead of " + types.first + " for " +
            counted(static_cast<long long>(tensors.size()), "tensor") +
            " whose rows are not whole blocks of it: " + printableLine(tensors.front()) +
            (tensors.size() > 1 ? " and others\n" : "\n");
  }
  return text;
}

Json agreementJson(const engine::Agreement& agreement) {
  return {{"positions", agreement.positions},
          {"same_top_token", agreement.same_top_token},
          {"mean_kl_divergence", agreement.mean_divergence},
          {"largest_kl_divergence", agreement.largest_divergence},
          {"mean_log_probability_difference", agreement.mean_log_probability_difference},
          {"perplexity_a", agreement.perplexity_a},
          {"perplexity_b", agreement.perplexity_b}};
}

Json comparedJson(const engine::ComparedModel& model) {
  Json json = {{"name", model.name},
               {"quantisation", model.quantisation},
               {"weight_bytes", model.weight_bytes},
               {"load_seconds", model.load_seconds}};
  put(json, "prefill_tokens_per_second", model.prefill_tokens_per_second);
  put(json, "decode_tokens_per_second", model.decode_tokens_per_second);
  return json;
}

Json comparisonJson(const engine::CompareReport& report) {
  Json json = {{"a", comparedJson(report.a)},
               {"b", comparedJson(report.b)},
               {"alternated", report.alternated},
               {"agreement", agreementJson(report.agreement)},
               {"texts", Json::array()}};
  for (const engine::ComparedText& text : report.texts) {
    Json entry = {{"beginning", text.beginning}};
    entry.update(agreementJson(text.agreement));
    entry["decoded_tokens"] = text.decoded_tokens;
    entry["same_decoded_tokens"] = text.same_tokens;
    json["texts"].push_back(std::move(entry));
  }
  return json;
}

std::string comparisonText(const engine::CompareReport& report) {
  std::string text;
  for (const auto* model : {&report.a, &report.b}) {
    text += std::string(model == &report.a ? "A  " : "B  ") + printableLine(model->name) + " (" + model->quantisation +
            "; " + byteCount(static_cast<double>(model->weight_bytes)) + "): reads " +
            threeDigits(model->prefill_tokens_per_second.median) + ", writes " +
            threeDigits(model->decode_tokens_per_second.median) + " tokens/s\n";
  }
  for (const engine::ComparedText& one : report.texts) {
    text += "  " + percent(one.agreement.same_top_token) + " same, KL " + threeDigits(one.agreement.mean_divergence) +
            ", continues alike for " + std::to_string(one.same_tokens) + " of " + std::to_string(one.decoded_tokens) +
            ": " + printableLine(one.beginning) + "\n";
  }
  const engine::Agreement& all = report.agreement;
  std::array<char, 200> line{};
  std::snprintf(
      line.data(), line.size(),
      "Over %lld tokens: same top token %.2f %%, KL(A||B) mean %.5f, largest %.4f; perplexity %.4f and %.4f\n",
      static_cast<long long>(all.positions), 100 * all.same_top_token, all.mean_divergence, all.largest_divergence,
      all.perplexity_a, all.perplexity_b);
  text += line.data();
  if (!report.alternated) text += "The models did not fit into memory together, so that B ran after A.\n";
  return text;
}

// Paragraphs: texts with empty lines between.
retrieval::Result<std::vector<std::string>> readTexts(const fs::path& file) {
  constexpr std::size_t kMostBytes = 16 << 20;
  std::ifstream stream(file, std::ios::binary);
  std::vector<std::string> texts(1);
  std::size_t bytes = 0;
  for (std::string line; std::getline(stream, line);) {
    bytes += line.size();
    if (bytes > kMostBytes) {
      return retrieval::Error{retrieval::ErrorCode::kTooLarge,
                              file.string() + " is larger than 16 MB; give fewer texts."};
    }
    if (line.find_first_not_of(" \t\r") != std::string::npos) {
      texts.back() += line + "\n";
    } else if (!texts.back().empty()) {
      texts.emplace_back();
    }
  }
  if (texts.back().empty()) texts.pop_back();
  if (!texts.empty()) return texts;
  return retrieval::Error{retrieval::ErrorCode::kUnreadable,
                          file.string() + " cannot be read or holds no text; give a text file."};
}

}  // namespace

ExitCode runModelInfo(const CommandContext& context) {
  const auto model = findModel(context.locations, context.options.paths[0]);
  if (!model.ok()) return fail(context, model.error());
  const auto report = engine::inspect_model(*model);
  if (!report.ok()) return fail(context, report.error());
  const CliOptions& cli = context.options;
  Json json = infoJson(*report, cli.tensors);
  std::string text = infoText(*report, cli.tensors);
  if (!cli.measure.device.empty()) {
    const auto placement = engine::plan_placement(*model, engineOptions(cli));
    if (!placement.ok()) return fail(context, placement.error());
    json["placement"] = placementJson(*placement);
    text += placementText(*placement, cli.measure.device);
  }
  context.terminal.write(cli.json ? dump(json) : text);
  return kExitOk;
}

ExitCode runModelVerify(const CommandContext& context) {
  const auto model = findModel(context.locations, context.options.paths[0]);
  if (!model.ok()) return fail(context, model.error());
  const auto report =
      engine::verify_model(*model, context.options.threads, progressOn(context, "Reading"), context.interrupt.token());
  if (!report.ok()) return fail(context, report.error());
  context.terminal.endProgress();
  context.terminal.write(context.options.json ? dump(verificationJson(*report)) : verificationText(*report));
  return report->sound() ? kExitOk : kExitError;
}

ExitCode runModelConvert(const CommandContext& context) {
  const CliOptions& cli = context.options;
  const auto source = findModel(context.locations, cli.paths[0]);
  if (!source.ok()) return fail(context, source.error());
  umask(context.usersMask);  // models are no secret
  const engine::ConversionOptions options{cli.convert.mix, !cli.convert.noMtp, cli.convert.force, cli.threads};
  const auto report =
      engine::convert_model(*source, cli.paths[1], options, progressOn(context, "Writing"), context.interrupt.token());
  if (!report.ok()) return fail(context, report.error());
  context.terminal.endProgress();
  for (const std::string& note : report->notes) context.terminal.note(note);
  context.terminal.write(cli.json ? dump(conversionJson(*report, cli.paths[1]))
                                  : conversionText(*report, cli.paths[1]));
  return kExitOk;
}

ExitCode runModelCompare(const CommandContext& context) {
  const CliOptions& cli = context.options;
  const auto a = findModel(context.locations, cli.paths[0]);
  if (!a.ok()) return fail(context, a.error());
  const auto b = findModel(context.locations, cli.paths[1]);
  if (!b.ok()) return fail(context, b.error());
  engine::CompareOptions options;
  options.engine = engineOptions(cli);
  options.decode_tokens = cli.measure.decodeTokens;
  if (!cli.measure.texts.empty()) {
    auto texts = readTexts(cli.measure.texts);
    if (!texts.ok()) return fail(context, texts.error());
    options.texts = std::move(texts).value();
  }
  const auto report = measureUnlessStopped(
      context, "Comparing", [a = *a, b = *b, options, stop = context.interrupt.token()](const engine::TaskSink& sink) {
        return engine::compare_models(a, b, options, sink, stop);
      });
  if (!report.ok()) return fail(context, report.error());
  context.terminal.endProgress();
  context.terminal.write(cli.json ? dump(comparisonJson(*report)) : comparisonText(*report));
  return kExitOk;
}

}  // namespace lectern::app
