// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/tiny_model.h"

#include <fstream>
#include <stdexcept>
#include <utility>

#include "core/json.h"
#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "support/scratch.h"
#include "text/byte_alphabet.h"
#include "text/pre_tokenizer.h"

namespace lectern::engine::support {

namespace fs = std::filesystem;

namespace {

template <class T>
T checked(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}

void write_file(const fs::path& file, const std::string& content) {
  std::ofstream stream(file, std::ios::binary);
  stream << content;
  if (!stream.flush()) throw std::runtime_error("cannot write " + file.string());
}

std::string toy_vocabulary() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* token : {"he", "ll", "hell", "hello", " w"}) tokens.emplace_back(token);
  std::string text;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    text += (id > 0 ? "," : "") + json_quote(alphabet_from_bytes(tokens[id])) + ":" + std::to_string(id);
  }
  return "{" + text + "}";
}

std::string added_token(TokenId id, const std::string& content, bool special) {
  return "{\"id\":" + std::to_string(id) + ",\"content\":" + json_quote(content) +
         ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":" +
         (special ? "true}" : "false}");
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at == std::string::npos) throw std::runtime_error("the tiny configuration has no " + from);
  return text.replace(at, from.size(), to);
}

}  // namespace

ToyTokenizer::ToyTokenizer()
    : vocabulary(toy_vocabulary()),
      merges("[\"h e\",[\"l\",\"l\"],\"he ll\",\"hell o\",\"\u0120 w\"]"),
      added_tokens("[" + added_token(kToyEndOfText, "<|endoftext|>", true) + "," +
                   added_token(kToyTurnStart, "<|im_start|>", true) + "," +
                   added_token(kToyTurnEnd, "<|im_end|>", true) + "," + added_token(kToyThink, "<think>", false) + "," +
                   added_token(kToyThinkEnd, "</think>", false) + "]"),
      normalizer("{\"type\":\"NFC\"}"),
      pre_tokenizer("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":" +
                    json_quote(kQwen2Pattern) +
                    "},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                    "\"trim_offsets\":false,\"use_regex\":false}]}") {}

std::string ToyTokenizer::json() const {
  return "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":" + added_tokens +
         ",\"normalizer\":" + normalizer + ",\"pre_tokenizer\":" + pre_tokenizer +
         ",\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":" +
         vocabulary + ",\"merges\":" + merges + model_options + "}}";
}

std::unique_ptr<Tokenizer> load_toy_tokenizer() {
  const test::Scratch directory;
  directory.write("tokenizer.json", ToyTokenizer().json());
  return checked(Tokenizer::load(directory.path()));
}

void write_tiny_model(const fs::path& directory) {
  const fs::path source = golden::directory() / "models" / "tiny" / "config.json";
  const std::string config = replaced(checked(read_text_file(source, 1U << 20U)), "\"vocab_size\": 96",
                                      "\"vocab_size\": " + std::to_string(kTinyRows));
  const JsonDocument document = checked(JsonDocument::parse(config, "config.json"));
  write_file(directory / "config.json", config);
  write_file(directory / "tokenizer.json", ToyTokenizer().json());
  write_file(directory / "generation_config.json",
             "{\"eos_token_id\":[" + std::to_string(kToyTurnEnd) + "," + std::to_string(kToyEndOfText) + "]}");
  golden::write_safetensors(directory / "model.safetensors", golden::decoder_tensors(document.root(), true),
                            golden::Storage::kFloat32);
}

}  // namespace lectern::engine::support
