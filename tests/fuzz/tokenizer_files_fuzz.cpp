// SPDX-License-Identifier: GPL-3.0-or-later
#include <string>

#include "fuzz/expect.h"
#include "support/tiny_model.h"
#include "text/tokenizer_files.h"

// The first byte says which part of a good tokenizer.json the rest replaces. What is accepted must be consistent.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lectern::engine;
  if (size == 0) return 0;
  static const support::ToyTokenizer good;
  support::ToyTokenizer toy = good;
  const std::string part(as_text(data + 1, size - 1));
  switch (data[0] % 6U) {
    case 0:
      toy.vocabulary.insert(toy.vocabulary.size() - 1, part);
      break;
    case 1:
      toy.merges = part;
      break;
    case 2:
      toy.added_tokens = part;
      break;
    case 3:
      toy.normalizer = part;
      break;
    case 4:
      toy.pre_tokenizer = part;
      break;
    default:
      toy.model_options = part;
  }
  const auto definition = read_tokenizer_json(data[0] >= 128 ? part : toy.json());
  if (!definition.ok()) return 0;
  const auto count = static_cast<TokenId>(definition->tokens.size());
  const auto known = [count](TokenId token) { return token >= 0 && token < count; };
  for (const std::string& token : definition->tokens) expect(!token.empty(), "every id has a token");
  for (const TokenId token : definition->byte_tokens) expect(known(token), "every byte has a token");
  for (const AddedToken& token : definition->added) expect(known(token.id), "added tokens are in range");
  for (const BpeMerge& merge : definition->merges) {
    expect(known(merge.left) && known(merge.right) && known(merge.merged), "merges are in range");
    const auto bytes = [&](TokenId token) { return definition->tokens[static_cast<std::size_t>(token)]; };
    expect(bytes(merge.left) + bytes(merge.right) == bytes(merge.merged), "merges join their sides");
  }
  return 0;
}
