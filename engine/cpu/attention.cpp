// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kKeyBlock = 64;
constexpr std::int64_t kQueryBlock = 16;

// Rows of keys and values of one head, `stride` floats apart.
struct HeadRows {
  const float* keys;
  const float* values;
  std::int64_t stride;
  std::int64_t width;
};

// Softmax attention of one query row seen block by block (Milakov and Gimelshein 2018, "Online normalizer
// calculation for softmax").
class OnlineRow {
 public:
  void begin(const float* query, float scale, float* out, std::int64_t width) {
    query_ = query;
    scale_ = scale;
    out_ = out;
    std::fill_n(out, width, 0.0F);
    largest_ = -std::numeric_limits<float>::infinity();
    sum_ = 0;
  }

  void add(const Kernels& kernels, const HeadRows& head, std::int64_t first, std::int64_t last) {
    float scores[kKeyBlock];
    float largest = largest_;
    for (std::int64_t k = first; k < last; ++k) {
      scores[k - first] = scale_ * kernels.dot(query_, head.keys + k * head.stride, head.width);
      largest = std::max(largest, scores[k - first]);
    }
    if (largest > largest_ && sum_ > 0) {
      const float shrink = std::exp(largest_ - largest);
      kernels.scale(shrink, out_, head.width);
      sum_ *= shrink;
    }
    largest_ = largest;
    sum_ += kernels.exponentials(largest, scores, last - first);
    for (std::int64_t k = first; k < last; ++k) {
      kernels.add_scaled(scores[k - first], head.values + k * head.stride, out_, head.width);
    }
  }

  void end(const Kernels& kernels, std::int64_t width) { kernels.scale(1.0F / sum_, out_, width); }

 private:
  const float* query_ = nullptr;
  float* out_ = nullptr;
  float scale_ = 1;
  float largest_ = 0;
  float sum_ = 0;
};

}  // namespace

void CpuBackend::rotate(const RotaryTable& table, std::int64_t first, std::int64_t head_dim, const Tensor& x) {
  const auto pairs = static_cast<std::int64_t>(table.inverse_frequency.size());
  slices(x.rows, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> cosines(static_cast<std::size_t>(pairs));
    std::vector<float> sines(static_cast<std::size_t>(pairs));
    for (std::int64_t t = begin; t < end; ++t) {
      for (std::size_t i = 0; i < cosines.size(); ++i) {
        const double angle = static_cast<double>(first + t) * table.inverse_frequency[i];
        cosines[i] = static_cast<float>(std::cos(angle) * table.magnitude);
        sines[i] = static_cast<float>(std::sin(angle) * table.magnitude);
      }
      for (float* head = x.row(t); head != x.row(t) + x.cols; head += head_dim) {
        for (std::int64_t i = 0; i < pairs; ++i) {
          const float a = head[i];
          const float b = head[i + pairs];
          const auto at = static_cast<std::size_t>(i);
          head[i] = a * cosines[at] - b * sines[at];
          head[i + pairs] = b * cosines[at] + a * sines[at];
        }
      }
    }
  });
}

void CpuBackend::attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) {
  const std::int64_t width = shape.head_dim;
  const std::int64_t stride = shape.kv_heads * width;
  const std::int64_t before = cache.length - q.rows;
  const std::int64_t blocks = (q.rows + kQueryBlock - 1) / kQueryBlock;
  const float scale = 1.0F / std::sqrt(static_cast<float>(width));
  team_.parallel_for(shape.query_heads * blocks, [&](std::int64_t task) {
    const std::int64_t head = task % shape.query_heads;
    const std::int64_t first = task / shape.query_heads * kQueryBlock;
    const std::int64_t rows = std::min(kQueryBlock, q.rows - first);
    const std::int64_t offset = head / (shape.query_heads / shape.kv_heads) * width;
    const HeadRows source = {cache.keys->data() + offset, cache.values->data() + offset, stride, width};
    OnlineRow online[kQueryBlock];
    for (std::int64_t r = 0; r < rows; ++r) {
      online[r].begin(q.row(first + r) + head * width, scale, y.row(first + r) + head * width, width);
    }
    const std::int64_t seen_by_last = before + first + rows;
    for (std::int64_t key = 0; key < seen_by_last; key += kKeyBlock) {
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t end = std::min(key + kKeyBlock, before + first + r + 1);
        if (key < end) online[r].add(kernels_, source, key, end);
      }
    }
    for (std::int64_t r = 0; r < rows; ++r) online[r].end(kernels_, width);
  });
}

void CpuBackend::attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                                      std::span<const std::int64_t> starts, const Tensor& y) {
  const std::int64_t width = q.cols / heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(width));
  const auto sequences = static_cast<std::int64_t>(starts.size()) - 1;
  team_.parallel_for(sequences * heads, [&](std::int64_t task) {
    const auto sequence = static_cast<std::size_t>(task / heads);
    const std::int64_t offset = task % heads * width;
    const std::int64_t count = starts[sequence + 1] - starts[sequence];
    const HeadRows source = {k.row(starts[sequence]) + offset, v.row(starts[sequence]) + offset, k.cols, width};
    for (std::int64_t t = starts[sequence]; t < starts[sequence + 1]; ++t) {
      OnlineRow online;
      online.begin(q.row(t) + offset, scale, y.row(t) + offset, width);
      for (std::int64_t key = 0; key < count; key += kKeyBlock) {
        online.add(kernels_, source, key, std::min(key + kKeyBlock, count));
      }
      online.end(kernels_, width);
    }
  });
}

}  // namespace lectern::engine::cpu
