// SPDX-License-Identifier: Apache-2.0
#include "ops/backend.h"

namespace lectern::engine {

void Backend::copy_rows(const Tensor& from, const Tensor& to, std::int64_t first) {
  copy(from.data, to.row(first), from.rows * from.cols);
}

// By way of the computer's memory; a failure here stays in status().
void Backend::pass_on(const Tensor& rows, Backend& next, const Tensor& to) {
  static_cast<void>(end_pass());
  if (rows.rows == 0) return;
  std::vector<float> numbers(static_cast<std::size_t>(rows.rows * rows.cols));
  download(rows.data, numbers);
  next.upload(numbers, to.data);
}

void Backend::linear_of_norm(const Tensor& x, const Norm& norm, std::span<const Projection> products,
                             const Tensor& normed) {
  rms_norm(x, norm.gain, x.cols, norm.eps, normed);
  for (const Projection& product : products) linear(normed, *product.weight, false, product.y);
}

void Backend::linear_of_gated_norm(const Tensor& o, const Tensor& z, const Norm& norm, std::int64_t width,
                                   const Weight& w, const Tensor& y) {
  gated_rms_norm(z, norm.gain, width, norm.eps, o);
  linear(o, w, true, y);
}

void Backend::linear_of_gated(const Tensor& o, const Tensor& gate, const Weight& w, const Tensor& y) {
  sigmoid_gate(gate, o);
  linear(o, w, true, y);
}

void Backend::step_conv(const Tensor& u, const float* w, std::int64_t taps, float* state, float* kept,
                        const Tensor& y) {
  causal_conv(u, w, taps, state, y);
  if (kept != nullptr) {
    copy(u.data, kept, u.rows * u.cols);
  } else {
    advance_conv(u, taps, state);
  }
}

void Backend::append_heads(const Tensor& q, const Norm& q_norm, const Tensor& k, const Norm& k_norm, const Tensor& v,
                           const RotaryTable& table, std::int64_t head_dim, KvCache& cache) {
  rms_norm(q, q_norm.gain, head_dim, q_norm.eps, q);
  rms_norm(k, k_norm.gain, head_dim, k_norm.eps, k);
  rotate(table, cache.length(), head_dim, q);
  rotate(table, cache.length(), head_dim, k);
  append_kv(k, v, cache);
}

void Backend::experts_of_norm(const Tensor& x, const Norm& norm, const ExpertWeights& w, const Tensor& normed,
                              const Tensor& y) {
  rms_norm(x, norm.gain, x.cols, norm.eps, normed);
  mixture_of_experts(normed, w, y);
}

}  // namespace lectern::engine
