// SPDX-License-Identifier: GPL-3.0-or-later
#include "options.h"

#include <charconv>
#include <functional>
#include <map>
#include <string_view>

#include "synthetic_model.h"

namespace lectern::engine::bench {

const char* const kHelp =
    "gpu_bench: measures the engine on a GPU at the true size of Qwen3-Next-80B-A3B, with random weights.\n"
    "  --format=fp8|q4_k|bf16    types of the weights (fp8)\n"
    "  --shape=large|tiny        tiny is for the emulation (large)\n"
    "  --layers=N                the first N of the 48 layers\n"
    "  --contexts=N,N,...        tokens held while decoding, the most important first\n"
    "  --batches=N,N,...         sequences decoded together\n"
    "  --prefill=N,N,...         tokens read into an empty sequence\n"
    "  --kv=bf16,q8              keys and values; the second also for contexts from 100,000 tokens on\n"
    "  --chunk=N                 rows of a pass while reading (8192)\n"
    "  --passes=N                timed passes of each figure (128)\n"
    "  --seed=N  --device=N\n"
    "  --budget-seconds=N        measurements that have not begun by then are left out and named (240)\n"
    "  --json=FILE               results, written again after every measurement\n";

namespace {

Error bad_value(std::string_view option, std::string_view value) {
  return {ErrorCode::kInvalidArgument,
          "\"" + std::string(value) + "\" is no value of " + std::string(option) + "; gpu_bench --help lists what is."};
}

bool read_number(std::string_view text, std::int64_t& number) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return code == std::errc() && end == text.data() + text.size() && number >= 0;
}

bool read_list(std::string_view text, const std::function<bool(std::string_view)>& add) {
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    if (!add(text.substr(0, comma))) return false;
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return true;
}

bool read_numbers(std::string_view text, std::vector<std::int64_t>& list) {
  list.clear();
  return read_list(text,
                   [&](std::string_view part) { return read_number(part, list.emplace_back()) && list.back() > 0; });
}

bool read_kv(std::string_view text, std::vector<KvType>& list) {
  list.clear();
  const auto add = [&](std::string_view part) {
    if (part != "f32" && part != "bf16" && part != "q8") return false;
    list.push_back(part == "f32" ? KvType::kF32 : part == "bf16" ? KvType::kBF16 : KvType::kQ8);
    return true;
  };
  return read_list(text, add) && !list.empty();
}

}  // namespace

Result<Options> parse_options(int count, const char* const* arguments) {
  using Reader = std::function<bool(std::string_view)>;
  Options options;
  std::int64_t device = 0;
  std::int64_t budget = 240;
  const auto number_into = [](std::int64_t& target) -> Reader {
    return [&target](std::string_view text) { return read_number(text, target); };
  };
  const auto list_into = [](std::vector<std::int64_t>& target) -> Reader {
    return [&target](std::string_view text) { return read_numbers(text, target); };
  };
  const std::map<std::string_view, Reader> readers = {
      {"--format",
       [&](std::string_view text) {
         options.format = text;
         return find_format(text).has_value();
       }},
      {"--shape",
       [&](std::string_view text) {
         options.tiny = text == "tiny";
         return options.tiny || text == "large";
       }},
      {"--layers", [&](std::string_view text) { return read_number(text, options.layers) && options.layers >= 4; }},
      {"--contexts", list_into(options.contexts)},
      {"--batches", list_into(options.batches)},
      {"--prefill", list_into(options.prefill)},
      {"--kv", [&](std::string_view text) { return read_kv(text, options.kv); }},
      {"--chunk", [&](std::string_view text) { return read_number(text, options.chunk) && options.chunk > 0; }},
      {"--passes", [&](std::string_view text) { return read_number(text, options.passes) && options.passes > 0; }},
      {"--seed", number_into(options.seed)},
      {"--device", number_into(device)},
      {"--budget-seconds", number_into(budget)},
      {"--json",
       [&](std::string_view text) {
         options.json = text;
         return !text.empty();
       }},
  };
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--help") {
      options.help = true;
      return options;
    }
    const std::size_t equals = argument.find('=');
    const auto reader = readers.find(argument.substr(0, equals));
    if (reader == readers.end() || equals == std::string_view::npos) {
      return Error{ErrorCode::kInvalidArgument,
                   "\"" + std::string(argument) + "\" is no option; gpu_bench --help lists them."};
    }
    if (!reader->second(argument.substr(equals + 1))) return bad_value(reader->first, argument.substr(equals + 1));
  }
  options.device = static_cast<int>(device);
  options.budget_seconds = static_cast<double>(budget);
  return options;
}

}  // namespace lectern::engine::bench
