// SPDX-License-Identifier: GPL-3.0-or-later
// Writes what `verify` has gathered (one JSON file) as Markdown.
//   gpu_report RESULTS.json > RESULTS.md
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace lectern::engine {
namespace {

constexpr double kGiga = 1e9;

std::string number(std::optional<double> value, int digits = 1, double unit = 1) {
  if (!value) return "not measured";
  char text[40];
  std::snprintf(text, sizeof text, "%.*f", digits, *value / unit);
  return text;
}

std::string text_of(const JsonValue& value) {
  if (const auto text = value.string()) return std::string(*text);
  if (const auto truth = value.boolean()) return *truth ? "yes" : "no";
  if (const auto whole = value.integer()) return std::to_string(*whole);
  if (const auto any = value.number()) return number(any, 3);
  return "";
}

std::string percent(const JsonValue& share) {
  const auto value = share.number();
  return value ? number(*value * 100, 0) + " %" : "";
}

class Table {
 public:
  explicit Table(const std::vector<std::string>& heads) {
    row(heads);
    std::printf("|");
    for (std::size_t i = 0; i < heads.size(); ++i) std::printf(" --- |");
    std::printf("\n");
  }
  void row(const std::vector<std::string>& cells) const {
    std::printf("|");
    for (const std::string& cell : cells) std::printf(" %s |", cell.c_str());
    std::printf("\n");
  }
};

bool is(const JsonValue& value, std::int64_t wanted) { return value.integer() == wanted; }

// A figure that the issue asks for at least or at most.
struct Floor {
  const char* what;
  const char* format;
  bool is_decode;
  std::int64_t tokens;  // held or read
  double bound;
};

constexpr Floor kFloors[] = {
    {"decode at 4K, tokens/s", "fp8", true, 4096, 450},     {"decode at 4K, tokens/s", "q4_k", true, 4096, 600},
    {"decode at 262K, tokens/s", "fp8", true, 262144, 300}, {"decode at 262K, tokens/s", "q4_k", true, 262144, 300},
    {"prefill of 32K, seconds", "fp8", false, 32768, 1.2},  {"prefill of 32K, seconds", "q4_k", false, 32768, 1.2},
    {"prefill of 262K, seconds", "fp8", false, 262144, 30}, {"prefill of 262K, seconds", "q4_k", false, 262144, 30},
};

void print_floor(const JsonValue& bench, const Floor& floor, const Table& table) {
  bool found = false;
  for (const JsonValue entry : bench[floor.is_decode ? "decode" : "prefill"].elements()) {
    if (!is(entry[floor.is_decode ? "context" : "tokens"], floor.tokens)) continue;
    if (floor.is_decode && !is(entry["sequences"], 1)) continue;
    if (!floor.is_decode && entry["complete"].boolean() != true) continue;
    const auto value = entry[floor.is_decode ? "tokens_per_second" : "seconds"].number();
    const bool reached = value && (floor.is_decode ? *value >= floor.bound : *value <= floor.bound);
    table.row({floor.what, floor.format, text_of(entry["kv"]),
               (floor.is_decode ? "at least " : "at most ") + number(floor.bound, floor.is_decode ? 0 : 1),
               number(value, floor.is_decode ? 0 : 2), value ? (reached ? "reached" : "**missed**") : ""});
    found = true;
  }
  if (!found) {
    table.row({floor.what, floor.format, "", (floor.is_decode ? "at least " : "at most ") + number(floor.bound, 1),
               "not measured", ""});
  }
}

void print_floors(const JsonValue& root) {
  std::printf("\n## Floors (one sequence)\n\n");
  const Table table({"figure", "weights", "keys, values", "floor", "measured", ""});
  for (const Floor& floor : kFloors) print_floor(root[std::string("bench_") + floor.format], floor, table);
}

void print_phases(const JsonValue& root) {
  std::printf("\n## Phases\n\n");
  const Table table({"phase", "result", "seconds", "remark"});
  for (const JsonValue phase : root["phases"].elements()) {
    table.row({text_of(phase["name"]), text_of(phase["status"]), text_of(phase["seconds"]), text_of(phase["note"])});
  }
  std::vector<std::string> failed;
  std::size_t skipped = 0;
  for (const JsonValue test : root["tests"]["tests"].elements()) {
    if (test["failures"].size() > 0) failed.push_back(text_of(test["name"]));
    skipped += test["skipped"].exists() ? 1 : 0;
  }
  const std::size_t all = root["tests"]["tests"].size();
  if (all > 0) std::printf("\n%zu tests ran, %zu failed, %zu were skipped.\n", all, failed.size(), skipped);
  for (const std::string& name : failed) std::printf("- failed: `%s`\n", name.c_str());
}

void print_decode(const JsonValue& bench) {
  if (bench["decode"].size() == 0) return;
  std::printf("\n### Decoding\n\n");
  const Table table({"context", "sequences", "keys, values", "tokens/s", "ms median", "ms p99", "experts of a layer",
                     "GB per pass", "of the bandwidth"});
  for (const JsonValue entry : bench["decode"].elements()) {
    table.row({text_of(entry["context"]), text_of(entry["sequences"]), text_of(entry["kv"]),
               number(entry["tokens_per_second"].number()), number(entry["milliseconds_median"].number(), 3),
               number(entry["milliseconds_p99"].number(), 3), number(entry["experts_of_a_layer"].number()),
               number(entry["bytes_per_pass"].number(), 2, kGiga), percent(entry["share_of_bandwidth"])});
  }
}

void print_scripted(const JsonValue& bench) {
  if (bench["scripted"].size() == 0) return;
  std::printf(
      "\n### Guessing ahead at a scripted acceptance of 85, 67 and 51 %%\n\n"
      "Random weights guess nothing: which guesses count is written down, their cost is real.\n\n");
  const Table table({"context", "rows", "tokens per round", "ms per round", "draft", "verify", "accept",
                     "tokens/s at scripted acceptance"});
  for (const JsonValue entry : bench["scripted"].elements()) {
    table.row({text_of(entry["context"]), text_of(entry["rows"]), number(entry["tokens_per_round"].number(), 2),
               number(entry["milliseconds_median"].number(), 3), number(entry["milliseconds_draft"].number(), 3),
               number(entry["milliseconds_verify"].number(), 3), number(entry["milliseconds_accept"].number(), 3),
               number(entry["tokens_per_second_at_scripted_acceptance"].number())});
  }
}

void print_prefill(const JsonValue& bench) {
  if (bench["prefill"].size() == 0) return;
  std::printf("\n### Reading\n\n");
  const Table table({"tokens", "read", "seconds", "tokens/s", "TFLOP/s", "of the mma.sync rate"});
  for (const JsonValue entry : bench["prefill"].elements()) {
    table.row({text_of(entry["tokens"]), text_of(entry["read"]), number(entry["seconds"].number(), 3),
               number(entry["tokens_per_second"].number(), 0),
               number(entry["operations_per_second"].number(), 1, 1000 * kGiga),
               percent(entry["share_of_matrix_rate"])});
  }
}

void print_operations(const JsonValue& bench) {
  constexpr std::size_t kMost = 14;
  for (const JsonValue entry : bench["operations"].elements()) {
    std::printf("\n### Operations of %s row(s) at %s, %s: %s ms\n\n", text_of(entry["rows"]).c_str(),
                text_of(entry["context"]).c_str(), text_of(entry["how"]).c_str(),
                number(entry["milliseconds_of_a_pass"].number(), 3).c_str());
    const Table table({"operation", "calls", "microseconds", "share", "GB", "of the bandwidth"});
    std::size_t printed = 0;
    for (const JsonValue operation : entry["operations"].elements()) {
      if (printed++ == kMost) break;
      const auto bytes = operation["bytes"].number();
      table.row({text_of(operation["operation"]), number(operation["calls"].number(), 0),
                 number(operation["microseconds"].number()), percent(operation["share"]),
                 bytes ? number(bytes, 3, kGiga) : "", percent(operation["share_of_bandwidth"])});
    }
  }
}

void print_dense(const JsonValue& bench) {
  if (bench["dense"].size() == 0) return;
  std::printf("\n### Dense products, in use: %s\n\n", text_of(bench["dense_products"]).c_str());
  const Table table({"weight", "rows", "outputs", "depth", "own kernels, TFLOP/s", "of the mma.sync rate",
                     "library, TFLOP/s", "of the mma.sync rate", "apart by, millionths"});
  for (const JsonValue entry : bench["dense"].elements()) {
    for (const JsonValue product : entry["products"].elements()) {
      table.row({text_of(product["weight"]), text_of(product["rows"]), text_of(product["outputs"]),
                 text_of(product["depth"]), number(product["own_operations_per_second"].number(), 1, 1000 * kGiga),
                 percent(product["own_share_of_matrix_rate"]),
                 number(product["library_operations_per_second"].number(), 1, 1000 * kGiga),
                 percent(product["library_share_of_matrix_rate"]), number(product["difference"].number(), 3, 1e-6)});
    }
  }
}

void print_members(const char* title, const JsonValue& object) {
  if (object.size() == 0) return;
  std::printf("\n### %s\n\n", title);
  for (const JsonMember member : object.members()) {
    if (member.value.is_object()) {
      for (const JsonMember inner : member.value.members()) {
        std::printf("- %.*s, %.*s: %s\n", static_cast<int>(member.key.size()), member.key.data(),
                    static_cast<int>(inner.key.size()), inner.key.data(), text_of(inner.value).c_str());
      }
    } else if (!member.value.is_array()) {
      std::printf("- %.*s: %s\n", static_cast<int>(member.key.size()), member.key.data(),
                  text_of(member.value).c_str());
    }
  }
}

void print_bench(const JsonValue& bench, const char* name) {
  if (!bench.is_object()) return;
  std::printf("\n## Weights as %s: %s, %s layers\n", name, text_of(bench["shape"]).c_str(),
              text_of(bench["layers"]).c_str());
  print_members("Rates of the device in this run", bench["rates"]);
  for (const JsonValue check : bench["checks"].elements()) print_members("Checks", check);
  print_members("Memory, bytes", bench["memory"]);
  for (const JsonValue routing : bench["routing"].elements()) print_members("Routing", routing);
  print_decode(bench);
  print_prefill(bench);
  print_scripted(bench);
  print_operations(bench);
  print_dense(bench);
  if (bench["not_measured"].size() == 0) return;
  std::printf("\n### Not measured\n\n");
  for (const JsonValue entry : bench["not_measured"].elements()) {
    std::printf("- %s: %s\n", text_of(entry["name"]).c_str(), text_of(entry["why"]).c_str());
  }
}

void print_comparison(const JsonValue& comparison) {
  if (!comparison.is_object()) return;
  std::printf("\n## Beside PyTorch's transformers\n");
  print_members("What was compared", comparison);
  if (comparison["transformers_settings"].size() == 0) return;
  std::printf("\n");
  const Table table({"attention", "experts", "prefill, s", "decode, tokens/s", ""});
  const JsonValue ours = comparison["engine"];
  table.row({"**this engine**", "", number(ours["prefill_seconds"].number(), 3),
             number(ours["decode_tokens_per_second"].number()), ""});
  for (const JsonValue setting : comparison["transformers_settings"].elements()) {
    table.row({text_of(setting["attn_implementation"]), text_of(setting["experts_implementation"]),
               number(setting["prefill_seconds"].number(), 3), number(setting["decode_tokens_per_second"].number()),
               text_of(setting["not_measured"])});
  }
}

int print_report(const std::filesystem::path& file) {
  const Result<JsonDocument> document = JsonDocument::read(file);
  if (!document.ok()) {
    std::fprintf(stderr, "%s\n", document.error().message.c_str());
    return 1;
  }
  const JsonValue root = document.value().root();
  std::printf("# %s, %s\n\n", text_of(root["gpu"]).c_str(), text_of(root["date"]).c_str());
  for (const char* key : {"result", "commit", "driver", "toolkit", "host", "seconds"}) {
    std::printf("- %s: %s\n", key, text_of(root[key]).c_str());
  }
  print_phases(root);
  print_floors(root);
  print_bench(root["bench_fp8"], "fp8");
  print_bench(root["bench_q4_k"], "q4_k");
  print_comparison(root["comparison"]);
  return 0;
}

}  // namespace
}  // namespace lectern::engine

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("gpu_report RESULTS.json > RESULTS.md\n", stderr);
    return 2;
  }
  return lectern::engine::print_report(argv[1]);
}
