// SPDX-License-Identifier: Apache-2.0
// Matrix products, norms and element-wise operations.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "cpu/cpu_backend.h"
#include "quant/formats.h"

namespace lectern::engine::cpu {

void CpuBackend::embed(const Weight& table, std::span<const TokenId> tokens, const Tensor& y) {
  const HostMatrix& host = host_of(table);
  slices(y.rows, 1, y.cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) read_row(host, tokens[static_cast<std::size_t>(t)], y.row(t));
  });
}

std::int64_t CpuBackend::slice_of(DType type, std::int64_t cols, std::int64_t rows) const {
  constexpr std::int64_t kBytes = 1200 * 1024;
  std::int64_t slice = 1024;
  while (slice > 16 && (slice * bytes_of(type, cols) > kBytes || slice * 2 * team_.size() > rows)) slice /= 2;
  return slice;
}

void CpuBackend::form_rows(const Tensor& x, Form form, FormedRows& to) {
  to.reset(form, x.rows, x.cols);
  slices(x.rows, 1, x.cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) to.set(kernels_, t, x.row(t), x.cols);
  });
}

void CpuBackend::linear(const Tensor& x, const Weight& w, bool accumulate, const Tensor& y) {
  const HostMatrix& host = host_of(w);
  form_rows(x, kernels_.form_for(host.dtype, x.rows), linear_rows_);
  weight_slices(host, x.rows, [&](std::int64_t first, std::int64_t last) {
    kernels_.multiply_stored({linear_rows_.rows(0), linear_rows_.form(), x.rows, &host, first, last, y.data + first,
                              y.cols, accumulate, nullptr});
  });
}

void CpuBackend::silu_gate(const Tensor& gate, const Tensor& y) {
  slices(y.rows, 1, y.cols, [&](std::int64_t first, std::int64_t last) {
    kernels_.silu_multiply(gate.row(first), y.row(first), (last - first) * y.cols);
  });
}

void CpuBackend::add_bias(const float* bias, const Tensor& y) {
  slices(y.rows, 1, y.cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) kernels_.add_scaled(1.0F, bias, y.row(t), y.cols);
  });
}

void CpuBackend::rms_norm(const Tensor& x, const float* gain, std::int64_t width, float eps, const Tensor& y) {
  slices(x.rows, 1, x.cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t at = first * x.cols; at < last * x.cols; at += width) {
      const float* in = x.data + at;
      float* out = y.data + at;
      const float mean = kernels_.dot(in, in, width) / static_cast<float>(width);
      const float factor = 1.0F / std::sqrt(mean + eps);
      kernels_.norm(factor, in, gain, out, width);
    }
  });
}

void CpuBackend::gated_rms_norm(const Tensor& z, const float* gain, std::int64_t width, float eps, const Tensor& o) {
  rms_norm(o, gain, width, eps, o);
  slices(o.rows, 1, o.cols, [&](std::int64_t first, std::int64_t last) {
    kernels_.silu_multiply(z.row(first), o.row(first), (last - first) * o.cols);
  });
}

void CpuBackend::sigmoid_gate(const Tensor& gate, const Tensor& y) {
  slices(y.rows, 1, y.cols, [&](std::int64_t first, std::int64_t last) {
    kernels_.sigmoid_multiply(gate.row(first), y.row(first), (last - first) * y.cols);
  });
}

void CpuBackend::layer_norm(const Tensor& x, const float* gain, const float* bias, float eps, const Tensor& y) {
  slices(x.rows, 1, x.cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const float* in = x.row(t);
      float* out = y.row(t);
      float sum = 0;
      for (std::int64_t i = 0; i < x.cols; ++i) sum += in[i];
      const float mean = sum / static_cast<float>(x.cols);
      float square = 0;
      for (std::int64_t i = 0; i < x.cols; ++i) square += (in[i] - mean) * (in[i] - mean);
      const float factor = 1.0F / std::sqrt(square / static_cast<float>(x.cols) + eps);
      for (std::int64_t i = 0; i < x.cols; ++i) out[i] = (in[i] - mean) * factor * gain[i] + bias[i];
    }
  });
}

void CpuBackend::gelu(const Tensor& x) {
  slices(x.rows, 1, x.cols, [&](std::int64_t first, std::int64_t last) {
    for (float* value = x.row(first); value != x.row(last); ++value) {
      *value *= 0.5F * (1.0F + std::erf(*value * static_cast<float>(std::numbers::sqrt2 / 2)));
    }
  });
}

void CpuBackend::mean_pool(const Tensor& x, std::span<const std::int64_t> starts, const Tensor& y) {
  for (std::int64_t s = 0; s < y.rows; ++s) {
    float* out = y.row(s);
    std::fill_n(out, y.cols, 0.0F);
    for (std::int64_t t = starts[static_cast<std::size_t>(s)]; t < starts[static_cast<std::size_t>(s) + 1]; ++t) {
      kernels_.add_scaled(1.0F, x.row(t), out, y.cols);
    }
    // The division by the count of rows cancels in the division by the length.
    const float length = std::sqrt(kernels_.dot(out, out, y.cols));
    if (length > 0) kernels_.scale(1.0F / length, out, y.cols);
  }
}

}  // namespace lectern::engine::cpu
