// SPDX-License-Identifier: GPL-3.0-or-later
#include <sanitizer/allocator_interface.h>

#include <span>
#include <string>
#include <string_view>

#include "fuzz/expect.h"
#include "model/gguf_config.h"
#include "model/gguf_parser.h"
#include "runtime/gguf_text.h"

// Only there with the address sanitizer; without it the memory is not counted.
#pragma weak __sanitizer_install_malloc_and_free_hooks

namespace {

using namespace lectern::engine;

std::size_t allocated = 0;  // freed or not

bool count_allocations() {
  if (__sanitizer_install_malloc_and_free_hooks == nullptr) return false;
  const auto add = [](const volatile void*, std::size_t size) { allocated += size; };
  return __sanitizer_install_malloc_and_free_hooks(add, [](const volatile void*) {}) > 0;
}

bool inside(std::span<const std::byte> part, std::span<const std::byte> file) {
  return part.empty() || (part.data() >= file.data() && part.data() + part.size() <= file.data() + file.size());
}

void check_tensors(const GgufTensors& tensors, std::span<const std::byte> file) {
  for (const auto& [name, tensor] : tensors) {
    expect(!name.empty() && inside(tensor.bytes, file), "tensors have names and lie inside the file");
    std::size_t elements = 1;
    for (const std::int64_t extent : tensor.shape) {
      expect(extent >= 0, "extents are not negative");
      elements *= static_cast<std::size_t>(extent);
    }
    const auto block = block_size(tensor.dtype);
    const std::size_t bytes =
        elements / static_cast<std::size_t>(block.elements) * static_cast<std::size_t>(block.bytes);
    expect(bytes == tensor.bytes.size(), "a tensor's bytes are those of its shape");
  }
}

void check_text(std::string_view text, std::span<const std::byte> file) {
  expect(inside(std::as_bytes(std::span(text.data(), text.size())), file), "strings lie inside the file");
}

void check_values(const GgufMetadata& metadata, std::span<const std::byte> file) {
  for (const std::string_view key : {"general.alignment", "general.architecture", "split.no", "tokenizer.ggml.tokens",
                                     "tokenizer.ggml.token_type", "qwen3next.block_count", "a", "b"}) {
    const GgufValue* value = metadata.find(key);
    if (value == nullptr) continue;
    expect(inside(value->bytes, file), "values lie inside the file");
    const auto whole = metadata.integer(key, -5, 5);
    expect(!whole.ok() || (*whole >= -5 && *whole <= 5), "integers are in range");
    static_cast<void>(metadata.number(key));
    static_cast<void>(metadata.boolean(key));
    static_cast<void>(metadata.booleans(key));
    if (const auto text = metadata.string(key); text.ok()) check_text(*text, file);
    if (const auto numbers = metadata.integers(key); numbers.ok()) {
      expect(numbers->size() == value->count, "every integer is there");
    }
    const auto texts = metadata.strings(key);
    if (!texts.ok()) continue;
    expect(texts->size() == value->count, "every string is there");
    for (const std::string_view text : *texts) check_text(text, file);
  }
}

void check_config(const GgufContent& content) {
  const auto config = read_gguf_config(content);
  if (!config.ok()) return expect(!config.error().message.empty(), "every refusal has a reason");
  expect(config->hidden_size > 0 && config->vocabulary > 0 && !config->layers.empty(), "sizes are positive");
  expect(config->attention.kv_heads > 0 && config->attention.query_heads % config->attention.kv_heads == 0,
         "query heads share key-value heads");
  expect(config->rotary_dims % 2 == 0 && config->rotary_dims <= config->attention.head_dim, "rotary pairs fit a head");
  if (config->has_delta_layers()) expect(config->delta.value_heads % config->delta.key_heads == 0, "heads are shared");
  expect(config->dense_width > 0 || config->experts_per_token <= config->experts, "there are enough experts");
}

void check_tokenizer(const GgufMetadata& metadata) {
  const auto tokenizer = load_gguf_tokenizer(metadata);
  if (!tokenizer.ok()) return;
  const std::string text = "Hello <|im_end|>, \xC3\xA9\xFF 12";
  for (const auto special : {Tokenizer::SpecialTokens::kIgnore, Tokenizer::SpecialTokens::kRecognise}) {
    for (const TokenId token : (*tokenizer)->encode(text, special)) {
      expect(token >= 0 && token < (*tokenizer)->size(), "tokens are in the vocabulary");
    }
  }
  const auto stop = read_gguf_stop_tokens(metadata, **tokenizer);
  if (stop.ok()) {
    for (const TokenId token : *stop) expect(token >= 0 && token < (*tokenizer)->size(), "stop tokens are tokens");
  }
  static_cast<void>(load_gguf_chat_template(metadata, **tokenizer));
}

}  // namespace

// The input is a whole GGUF file; start from a corpus of small ones.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  static const bool counting = count_allocations();
  allocated = 0;
  const auto content = parse_gguf(file, "fuzz.gguf");
  expect(!counting || allocated <= 32 * size + 16384, "memory is proportional to the file");
  if (!content.ok()) {
    expect(content.error().message.starts_with("fuzz.gguf: "), "every refusal names the file");
    return 0;
  }
  check_tensors(content->tensors, file);
  check_values(content->metadata, file);
  allocated = 0;
  check_config(*content);
  expect(!counting || allocated <= 32 * size + (std::size_t{1} << 16),
         "the configuration takes no more than the file justifies");
  check_tokenizer(content->metadata);
  return 0;
}
