// SPDX-License-Identifier: Apache-2.0
// Softmax attention block by block, without a matrix of all scores (Milakov and Gimelshein 2018, "Online normalizer
// calculation for softmax"; Dao et al. 2022, "FlashAttention").
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kKeyBlock = 64;
constexpr std::int64_t kTileRows = 32;      // query rows (tokens x heads) that share one pass over the keys
constexpr std::int64_t kSplitKeys = 1024;   // keys of one task when there are few queries and many keys

// Rows of keys and values of one head, `stride` floats apart.
struct HeadRows {
  const float* keys;
  const float* values;
  std::int64_t stride;
  std::int64_t width;
};

// Up to kTileRows queries of one head against a range of keys. The result stays unnormalised, so that the results of
// several ranges can be added up.
class QueryTile {
 public:
  QueryTile(const Kernels& kernels, std::int64_t rows, std::int64_t width)
      : kernels_(kernels),
        rows_(rows),
        width_(width),
        queries_(static_cast<std::size_t>(rows * width)),
        sums_(static_cast<std::size_t>(rows * width)),
        largest_(static_cast<std::size_t>(rows), -std::numeric_limits<float>::infinity()),
        total_(static_cast<std::size_t>(rows)) {}

  void set_query(std::int64_t row, const float* query, float scale) {
    std::copy_n(query, width_, queries_.data() + row * width_);
    kernels_.scale(scale, queries_.data() + row * width_, width_);
  }

  // Keys [first, last); row r sees those before limit(r), which must not fall from row to row.
  template <class Limit>
  void attend(const HeadRows& head, std::int64_t first, std::int64_t last, const Limit& limit) {
    for (std::int64_t key = first; key < last; key += kKeyBlock) {
      const std::int64_t end = std::min(last, key + kKeyBlock);
      std::int64_t skip = 0;
      while (skip < rows_ && limit(skip) <= key) ++skip;
      if (skip < rows_) add_block(head, key, end, skip, limit);
    }
  }

  // Adds the result for the same queries and another range of keys.
  void merge(const QueryTile& other) {
    for (std::int64_t r = 0; r < rows_; ++r) {
      const auto at = static_cast<std::size_t>(r);
      if (other.total_[at] == 0) continue;
      raise(r, other.largest_[at]);
      const float factor = std::exp(other.largest_[at] - largest_[at]);
      total_[at] += factor * other.total_[at];
      kernels_.add_scaled(factor, other.sums_.data() + r * width_, sums_.data() + r * width_, width_);
    }
  }

  void give(std::int64_t row, float* y) const {
    std::copy_n(sums_.data() + row * width_, width_, y);
    kernels_.scale(1.0F / total_[static_cast<std::size_t>(row)], y, width_);
  }

 private:
  template <class Limit>
  void add_block(const HeadRows& head, std::int64_t first, std::int64_t last, std::int64_t skip, const Limit& limit) {
    const std::int64_t rows = rows_ - skip;
    const std::int64_t count = last - first;
    float scores[kTileRows * kKeyBlock];
    kernels_.multiply({queries_.data() + skip * width_, width_, rows, width_, head.keys + first * head.stride, DType::kF32,
                       head.stride, scores, kKeyBlock, 0, count, false});
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t seen = std::min(count, limit(skip + r) - first);
      weigh(skip + r, scores + r * kKeyBlock, seen);
      std::fill(scores + r * kKeyBlock + seen, scores + r * kKeyBlock + count, 0.0F);
    }
    kernels_.combine({scores, kKeyBlock, rows, count, head.values + first * head.stride, head.stride, width_,
                      sums_.data() + skip * width_, width_});
  }

  // Scores become weights relative to the row's largest score so far.
  void weigh(std::int64_t row, float* scores, std::int64_t count) {
    raise(row, *std::max_element(scores, scores + count));
    const auto at = static_cast<std::size_t>(row);
    total_[at] += kernels_.exponentials(largest_[at], scores, count);
  }

  void raise(std::int64_t row, float score) {
    const auto at = static_cast<std::size_t>(row);
    if (!(score > largest_[at])) return;
    if (total_[at] > 0) {
      const float shrink = std::exp(largest_[at] - score);
      kernels_.scale(shrink, sums_.data() + row * width_, width_);
      total_[at] *= shrink;
    }
    largest_[at] = score;
  }

  const Kernels& kernels_;
  std::int64_t rows_;
  std::int64_t width_;
  std::vector<float> queries_;  // scaled
  std::vector<float> sums_;     // sum of weight * value
  std::vector<float> largest_;
  std::vector<float> total_;  // sum of weights
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

// A task takes the tokens of one block, for all query heads that read one KV head, so that these share the pass over
// keys and values. With too few such tasks for the team the keys are cut as well.
void CpuBackend::attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) {
  const std::int64_t width = shape.head_dim;
  const std::int64_t group = shape.query_heads / shape.kv_heads;
  const std::int64_t heads = std::min(group, kTileRows);  // of one tile
  const std::int64_t head_tiles = (group + heads - 1) / heads;
  const std::int64_t tokens = std::min(q.rows, std::max<std::int64_t>(1, kTileRows / heads));
  const std::int64_t tiles = shape.kv_heads * head_tiles * ((q.rows + tokens - 1) / tokens);
  const std::int64_t before = cache.length - q.rows;
  const std::int64_t splits = tiles < 4 * team_.size() ? (cache.length + kSplitKeys - 1) / kSplitKeys : 1;
  const float scale = 1.0F / std::sqrt(static_cast<float>(width));

  struct Place {
    std::int64_t token, tokens, head, heads, kv_head;
  };
  const auto place_of = [&](std::int64_t tile) {
    const std::int64_t kv_head = tile % shape.kv_heads;
    const std::int64_t head = tile / shape.kv_heads % head_tiles * heads;
    const std::int64_t token = tile / (shape.kv_heads * head_tiles) * tokens;
    return Place{token, std::min(tokens, q.rows - token), kv_head * group + head, std::min(heads, group - head), kv_head};
  };
  const auto give = [&](const QueryTile& queries, const Place& place) {
    for (std::int64_t r = 0; r < place.tokens * place.heads; ++r) {
      queries.give(r, y.row(place.token + r / place.heads) + (place.head + r % place.heads) * width);
    }
  };

  std::vector<QueryTile> parts;
  if (splits > 1) {
    for (std::int64_t task = 0; task < tiles * splits; ++task) {
      const Place place = place_of(task / splits);
      parts.emplace_back(kernels_, place.tokens * place.heads, width);
    }
  }
  const auto run = [&](QueryTile& queries, const Place& place, std::int64_t first, std::int64_t last) {
    const std::int64_t offset = place.kv_head * width;
    const HeadRows source = {cache.keys->data() + offset, cache.values->data() + offset, shape.kv_heads * width, width};
    for (std::int64_t r = 0; r < place.tokens * place.heads; ++r) {
      queries.set_query(r, q.row(place.token + r / place.heads) + (place.head + r % place.heads) * width, scale);
    }
    queries.attend(source, first, last,
                   [&](std::int64_t row) { return before + place.token + row / place.heads + 1; });
  };
  team_.parallel_for(tiles * splits, [&](std::int64_t task) {
    const Place place = place_of(task / splits);
    const std::int64_t seen = before + place.token + place.tokens;
    if (splits == 1) {
      QueryTile queries(kernels_, place.tokens * place.heads, width);
      run(queries, place, 0, seen);
      give(queries, place);
    } else {
      const std::int64_t first = task % splits * kSplitKeys;
      run(parts[static_cast<std::size_t>(task)], place, first, std::min(seen, first + kSplitKeys));
    }
  });
  for (std::int64_t tile = 0; splits > 1 && tile < tiles; ++tile) {
    QueryTile& whole = parts[static_cast<std::size_t>(tile * splits)];
    for (std::int64_t s = 1; s < splits; ++s) whole.merge(parts[static_cast<std::size_t>(tile * splits + s)]);
    give(whole, place_of(tile));
  }
}

void CpuBackend::attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                                      std::span<const std::int64_t> starts, const Tensor& y) {
  const std::int64_t width = q.cols / heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(width));
  const auto sequences = static_cast<std::int64_t>(starts.size()) - 1;
  team_.parallel_for(sequences * heads, [&](std::int64_t task) {
    const auto sequence = static_cast<std::size_t>(task / heads);
    const std::int64_t offset = task % heads * width;
    const std::int64_t begin = starts[sequence];
    const std::int64_t count = starts[sequence + 1] - begin;
    const HeadRows source = {k.row(begin) + offset, v.row(begin) + offset, k.cols, width};
    for (std::int64_t first = 0; first < count; first += kTileRows) {
      QueryTile queries(kernels_, std::min(kTileRows, count - first), width);
      const std::int64_t rows = std::min(kTileRows, count - first);
      for (std::int64_t r = 0; r < rows; ++r) queries.set_query(r, q.row(begin + first + r) + offset, scale);
      queries.attend(source, 0, count, [count](std::int64_t) { return count; });
      for (std::int64_t r = 0; r < rows; ++r) queries.give(r, y.row(begin + first + r) + offset);
    }
  });
}

}  // namespace lectern::engine::cpu
