// SPDX-License-Identifier: GPL-3.0-or-later
// A taken-over lectern-extract may answer anything. What the decoder accepts must be sound and survive a round trip.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "retrieval/extract.h"

namespace {

using lectern::retrieval::decode_extraction;
using lectern::retrieval::encode_extraction;

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const std::string& bytes) {
  const auto decoded = decode_extraction(bytes);
  if (!decoded.ok()) {
    require(!decoded.error().message.empty());
    return;
  }
  for (const auto& page : decoded->pages) {
    for (const auto& word : page.words) require(word.begin < word.end && word.end <= page.text.size());
  }
  require(encode_extraction(decoded) == bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(data, data + size);
  check(bytes);
  // Without this, most of the effort would go into guessing the signature.
  check("LXM1" + bytes);
  return 0;
}
