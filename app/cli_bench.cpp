// SPDX-License-Identifier: GPL-3.0-or-later
// bench
#include <cmath>
#include <string>
#include <utility>

#include "cli_commands.h"
#include "cli_json.h"
#include "cli_loading.h"
#include "cli_measure.h"
#include "composition.h"

namespace lectern::app {
namespace {

constexpr double kGiga = 1e9;

Json machineJson(const engine::MachineRates& machine) {
  Json json = {{"read_gigabytes_per_second", machine.read_bytes_per_second / kGiga},
               {"f32_gigaflops", machine.f32_operations_per_second / kGiga}};
  if (machine.bf16_operations_per_second > 0) json["bf16_gigaflops"] = machine.bf16_operations_per_second / kGiga;
  if (machine.int8_operations_per_second > 0) json["int8_gigaops"] = machine.int8_operations_per_second / kGiga;
  return json;
}

Json draftsJson(const engine::DraftReport& drafts) {
  Json json = {{"most_drafts", drafts.most_drafts}, {"prompt_tokens", drafts.prompt_tokens}, {"tokens", drafts.tokens},
               {"drafted", drafts.drafted},         {"accepted", drafts.accepted},           {"gain", drafts.gain()},
               {"same_tokens", drafts.same_tokens}};
  if (drafts.drafted > 0) {
    json["acceptance"] = static_cast<double>(drafts.accepted) / static_cast<double>(drafts.drafted);
  }
  put(json, "plain_tokens_per_second", drafts.plain_tokens_per_second);
  put(json, "tokens_per_second", drafts.tokens_per_second);
  return json;
}

double ofEachSequence(const engine::BenchReport& report) {
  return report.decode_tokens_per_second.median / report.options.sequences;
}

Json benchJson(const engine::BenchReport& report) {
  Json json = {{"model", report.model},
               {"architecture", report.architecture},
               {"parameters", report.parameters},
               {"weight_bytes", report.weight_bytes},
               {"threads", report.threads},
               {"kv", name(report.kv_type)},
               {"prefill_tokens", report.options.prefill_tokens},
               {"decode_tokens", report.options.decode_tokens},
               {"depth_tokens", report.options.depth_tokens},
               {"synthetic_depth", report.options.synthetic_depth},
               {"batch", report.options.sequences},
               {"repeat", report.options.repeats},
               {"chunk_tokens", report.prefill_chunk_tokens},
               {"load_seconds", report.load_seconds},
               {"copy_seconds", report.copy_seconds},
               {"depth_seconds", report.depth_seconds}};
  put(json, "prefill_tokens_per_second", report.prefill_tokens_per_second);
  put(json, "decode_tokens_per_second", report.decode_tokens_per_second);
  json["decode_tokens_per_second_each"] = ofEachSequence(report);
  json["decode_bytes_per_pass"] = std::llround(report.decode_bytes_per_pass);
  json["decode_gigabytes_per_second"] = report.decode_bytes_per_second / kGiga;
  json["prefill_gigaflops"] = report.prefill_operations_per_second / kGiga;
  if (report.gpu_memory.empty()) json["machine"] = machineJson(report.machine);
  if (report.drafts) json["drafts"] = draftsJson(*report.drafts);
  json["memory"] = toJson(report.memory);
  json["predicted"] = toJson(report.prediction);
  if (!report.dense_products.empty()) json["dense_products"] = report.dense_products;
  for (const engine::GpuMemoryUse& used : report.gpu_memory) {
    json["gpu_memory_used"].push_back(
        {{"weights_bytes", used.weights}, {"state_bytes", used.state}, {"scratch_bytes", used.scratch}});
  }
  json["sequence_bytes"] = report.sequence_bytes;
  json["peak_resident_bytes"] = report.peak_resident_bytes;
  json["logits_fingerprint"] = report.logits_fingerprint;
  json["top_token"] = report.top_token;
  json["repeatable"] = report.repeatable;
  return json;
}

std::string spreadText(const engine::Spread& spread) {
  return threeDigits(spread.median) + " tokens/s (" + threeDigits(spread.least) + " to " + threeDigits(spread.most) +
         ")";
}

std::string draftsText(const engine::DraftReport& drafts) {
  std::string text = "Guessing ahead  " + spreadText(drafts.tokens_per_second) + ", " + threeDigits(drafts.gain()) +
                     " times as fast as without; " + std::to_string(drafts.accepted) + " of " +
                     std::to_string(drafts.drafted) + " guesses right\n";
  if (!drafts.same_tokens) text += "                WRONG: it changed the text\n";
  return text;
}

// What the processor reaches, beside what was computed and read; nothing of that kind is measured on a GPU.
std::string computedText(const engine::BenchReport& report) {
  const engine::MachineRates& machine = report.machine;
  std::string text = threeDigits(report.prefill_operations_per_second / kGiga) + " GFLOP/s";
  if (!report.gpu_memory.empty()) return text + ", dense products by " + report.dense_products;
  text += "; the machine reaches " + threeDigits(machine.f32_operations_per_second / kGiga) + " in f32";
  if (machine.bf16_operations_per_second > 0) {
    text += ", " + threeDigits(machine.bf16_operations_per_second / kGiga) + " in bf16";
  }
  if (machine.int8_operations_per_second > 0) {
    text += ", " + threeDigits(machine.int8_operations_per_second / kGiga) + " in int8";
  }
  return text;
}

// Beside what was measured, so that the prediction can be judged.
std::string predictedText(const engine::BenchReport& report) {
  const engine::PredictedSpeed& speed = report.prediction.chosen;
  std::string text = predictionText(report.prediction, report.memory);
  if (speed.prefill_tokens_per_second <= 0 || speed.decode_tokens_per_second <= 0) return text + "\n";
  return text + "; measured " + threeDigits(report.prefill_tokens_per_second.median / speed.prefill_tokens_per_second) +
         " and " + threeDigits(report.decode_tokens_per_second.median / speed.decode_tokens_per_second) +
         " times that\n";
}

std::string memoryText(const engine::BenchReport& report) {
  const auto amount = [](std::int64_t bytes) { return byteCount(static_cast<double>(bytes)); };
  if (report.gpu_memory.empty()) {
    return amount(report.peak_resident_bytes) + " at most, " + amount(report.sequence_bytes) + " for a sequence\n";
  }
  std::string text;
  for (std::size_t i = 0; i < report.memory.gpus.size() && i < report.gpu_memory.size(); ++i) {
    const engine::GpuShare& plan = report.memory.gpus[i];
    const engine::GpuMemoryUse& used = report.gpu_memory[i];
    text += (i == 0 ? "" : "                ") + std::string("of GPU ") + std::to_string(plan.gpu) + " with " +
            counted(plan.layers, "layer") + ", in use of planned: weights " + amount(used.weights) + " of " +
            amount(plan.weights) + ", sequences " + amount(used.state) + " of " + amount(plan.sequences) +
            ", working memory " + amount(used.scratch) + " of " + amount(plan.scratch) + expertsText(report.memory) +
            "\n";
  }
  return text;
}

std::string benchText(const engine::BenchReport& report) {
  const engine::BenchOptions& options = report.options;
  std::string text = printableLine(report.model) + " (" + report.architecture + ", " +
                     byteCount(static_cast<double>(report.weight_bytes)) + "), " + counted(report.threads, "thread") +
                     ", opened in " + threeDigits(report.load_seconds) + " s";
  if (report.copy_seconds > 0) text += ", copied into memory in " + threeDigits(report.copy_seconds) + " s";
  text += "\n";
  if (options.depth_tokens > 0) {
    text += "Depth           " + std::to_string(options.depth_tokens) + " tokens" +
            (options.synthetic_depth ? " of random keys and values\n"
                                     : ", read in " + threeDigits(report.depth_seconds) + " s\n");
  }
  text += "Reading         " + spreadText(report.prefill_tokens_per_second) + ", " + computedText(report);
  text += "\nWriting         " + spreadText(report.decode_tokens_per_second);
  if (options.sequences > 1) {
    text += " of " + std::to_string(options.sequences) + " sequences together, " + threeDigits(ofEachSequence(report)) +
            " each";
  }
  text += ", " + threeDigits(report.decode_bytes_per_second / kGiga) + " GB/s";
  if (report.gpu_memory.empty()) {
    text += "; the machine reads " + threeDigits(report.machine.read_bytes_per_second / kGiga) + " GB/s";
  }
  text += "\n";
  text += "Predicted       " + predictedText(report);
  if (report.drafts) text += draftsText(*report.drafts);
  text += "Memory          " + memoryText(report);
  text += "Last logits     " + report.logits_fingerprint + ", token " + std::to_string(report.top_token) +
          (report.repeatable ? "\n" : ", NOT the same in every run\n");
  return text;
}

}  // namespace

ExitCode runBench(const CommandContext& context) {
  const CliOptions& cli = context.options;
  const auto model = findModel(context.locations, cli.model);
  if (!model.ok()) return fail(context, model.error());
  engine::BenchOptions options;
  options.engine = engineOptions(cli);
  options.prefill_tokens = cli.measure.prefillTokens;
  options.decode_tokens = cli.measure.decodeTokens;
  options.depth_tokens = cli.measure.depthTokens;
  options.synthetic_depth = cli.measure.syntheticDepth;
  options.sequences = cli.measure.batch;
  options.repeats = cli.measure.repeat;
  const auto report = measureUnlessStopped(
      context, "Measuring", [model = *model, options, stop = context.interrupt.token()](const engine::TaskSink& sink) {
        return engine::run_bench(model, options, sink, stop);
      });
  if (!report.ok()) return fail(context, report.error());
  context.terminal.endProgress();
  context.terminal.write(cli.json ? dump(benchJson(*report)) : benchText(*report));
  return kExitOk;
}

}  // namespace lectern::app
