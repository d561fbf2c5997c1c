// SPDX-License-Identifier: GPL-3.0-or-later
// SHA-256 from OpenSSL.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace lectern::retrieval {

using ContentHash = std::array<std::uint8_t, 32>;

class Hasher {
 public:
  Hasher();
  ~Hasher();
  void add(const void* data, std::size_t size);
  ContentHash finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

ContentHash hash_of(std::string_view bytes);

}  // namespace lectern::retrieval
