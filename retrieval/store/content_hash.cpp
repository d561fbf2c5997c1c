// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/content_hash.h"

#include <openssl/evp.h>

#include <stdexcept>

namespace lectern::retrieval {

struct Hasher::State {
  struct Free {
    void operator()(EVP_MD_CTX* digest) const { EVP_MD_CTX_free(digest); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

namespace {

void check(int ok) {
  if (ok != 1) throw std::runtime_error("SHA-256 is not available from OpenSSL; check the OpenSSL installation");
}

// Fetched once: an implicit fetch per hash costs several times the hash of a short text.
const EVP_MD* sha256() {
  static EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return algorithm;
}

}  // namespace

Hasher::Hasher() : state_(std::make_unique<State>()) {
  check(state_->context != nullptr && sha256() != nullptr ? 1 : 0);
  check(EVP_DigestInit_ex(state_->context.get(), sha256(), nullptr));
}

Hasher::~Hasher() = default;

void Hasher::add(const void* data, std::size_t size) { check(EVP_DigestUpdate(state_->context.get(), data, size)); }

ContentHash Hasher::finish() {
  ContentHash hash{};
  check(EVP_DigestFinal_ex(state_->context.get(), hash.data(), nullptr));
  return hash;
}

ContentHash hash_of(std::string_view bytes) {
  Hasher hasher;
  hasher.add(bytes.data(), bytes.size());
  return hasher.finish();
}

}  // namespace lectern::retrieval
