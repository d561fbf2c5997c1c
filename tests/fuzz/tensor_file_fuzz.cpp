// SPDX-License-Identifier: GPL-3.0-or-later
#include <span>

#include "fuzz/expect.h"
#include "model/tensor_file.h"

// The input is a whole safetensors file; for a header length that fits, start from a corpus of small real ones.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lectern::engine;
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const auto tensors = parse_safetensors(file, "fuzz.safetensors");
  if (!tensors.ok()) return 0;
  for (const auto& [name, tensor] : *tensors) {
    const bool inside =
        tensor.bytes.empty() ||
        (tensor.bytes.data() >= file.data() && tensor.bytes.data() + tensor.bytes.size() <= file.data() + file.size());
    expect(inside, "tensors lie inside the file");
    for (const std::int64_t extent : tensor.shape) expect(extent >= 0, "extents are not negative");
  }
  return 0;
}
