// SPDX-License-Identifier: Apache-2.0
// Softmax attention block by block, without a matrix of all scores (Milakov and Gimelshein 2018, "Online normalizer
// calculation for softmax"; Dao et al. 2022, "FlashAttention").
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kKeyBlock = 64;
constexpr std::int64_t kTileRows = 32;     // query rows (tokens x heads) that share one pass over the keys
constexpr std::int64_t kSplitKeys = 1024;  // keys of one task when there are few queries and many keys

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
      const std::int64_t block_end = std::min(last, key + kKeyBlock);
      std::int64_t skip = 0;
      while (skip < rows_ && limit(skip) <= key) ++skip;
      if (skip < rows_) add_block(head, key, block_end, last, skip, limit);
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
  // Rows of one head lie apart, which hardware does not foresee; without this a long context waits for memory.
  static void fetch(const float* first_row, std::int64_t rows, const HeadRows& head) {
    constexpr std::int64_t kLine = 16;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t i = 0; i < head.width; i += kLine) __builtin_prefetch(first_row + row * head.stride + i, 0, 2);
    }
  }

  template <class Limit>
  void add_block(const HeadRows& head, std::int64_t first, std::int64_t last, std::int64_t end, std::int64_t skip,
                 const Limit& limit) {
    const std::int64_t rows = rows_ - skip;
    const std::int64_t count = last - first;
    float scores[kTileRows * kKeyBlock];
    fetch(head.values + first * head.stride, count, head);
    kernels_.multiply({queries_.data() + skip * width_, width_, rows, width_, head.keys + first * head.stride,
                       DType::kF32, head.stride, scores, kKeyBlock, 0, count, false});
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t seen = std::min(count, limit(skip + r) - first);
      weigh(skip + r, scores + r * kKeyBlock, seen);
      std::fill(scores + r * kKeyBlock + seen, scores + r * kKeyBlock + count, 0.0F);
    }
    if (last + kKeyBlock <= end) fetch(head.keys + last * head.stride, kKeyBlock, head);
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
  slices(x.rows, 1, x.cols, [&](std::int64_t begin, std::int64_t end) {
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

namespace {

// Cuts causal attention into tiles: the tokens of one block and the query heads that read one KV head, so that these
// share the pass over keys and values.
class TilePlan {
 public:
  struct Tile {
    std::int64_t kv_head, head, heads, token, tokens;
    std::int64_t rows() const { return heads * tokens; }
    std::int64_t token_of(std::int64_t row) const { return token + row / heads; }
    std::int64_t head_of(std::int64_t row) const { return head + row % heads; }
  };

  TilePlan(const AttentionShape& shape, std::int64_t tokens)
      : kv_heads_(shape.kv_heads),
        group_(shape.query_heads / shape.kv_heads),
        heads_(std::min(group_, kTileRows)),
        head_tiles_((group_ + heads_ - 1) / heads_),
        all_tokens_(tokens),
        tokens_(std::max<std::int64_t>(1, kTileRows / heads_)) {}

  std::int64_t count() const { return kv_heads_ * head_tiles_ * ((all_tokens_ + tokens_ - 1) / tokens_); }

  Tile operator[](std::int64_t index) const {
    const std::int64_t kv_head = index % kv_heads_;
    const std::int64_t head = index / kv_heads_ % head_tiles_ * heads_;
    const std::int64_t token = index / (kv_heads_ * head_tiles_) * tokens_;
    return {kv_head, kv_head * group_ + head, std::min(heads_, group_ - head), token,
            std::min(tokens_, all_tokens_ - token)};
  }

 private:
  std::int64_t kv_heads_;
  std::int64_t group_;       // query heads of a KV head
  std::int64_t heads_;       // of them in one tile
  std::int64_t head_tiles_;  // that this takes
  std::int64_t all_tokens_;
  std::int64_t tokens_;  // of one tile
};

}  // namespace

// With too few tiles for the team the keys are cut as well, and the parts' results are merged.
void CpuBackend::attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) {
  const std::int64_t width = shape.head_dim;
  const std::int64_t before = cache.length - q.rows;
  const float scale = 1.0F / std::sqrt(static_cast<float>(width));
  const TilePlan plan(shape, q.rows);
  const bool few = plan.count() < 4 * team_.size();
  const std::int64_t splits = few ? (cache.length + kSplitKeys - 1) / kSplitKeys : 1;
  const std::int64_t keys = splits > 1 ? kSplitKeys : cache.length;

  std::vector<std::optional<QueryTile>> parts(static_cast<std::size_t>(plan.count() * splits));
  const auto give = [&](std::int64_t index) {
    const TilePlan::Tile tile = plan[index];
    std::optional<QueryTile>& whole = parts[static_cast<std::size_t>(index * splits)];
    for (std::int64_t s = 1; s < splits; ++s) whole->merge(*parts[static_cast<std::size_t>(index * splits + s)]);
    for (std::int64_t r = 0; r < tile.rows(); ++r) {
      whole->give(r, y.row(tile.token_of(r)) + tile.head_of(r) * width);
    }
    whole.reset();
  };
  const std::int64_t cost = 2 * std::min(keys, cache.length) * width * std::min(kTileRows, q.rows * shape.query_heads);
  each(plan.count() * splits, cost, [&](std::int64_t task) {
    const TilePlan::Tile tile = plan[task / splits];
    const std::int64_t offset = tile.kv_head * width;
    const HeadRows source = {cache.keys->data() + offset, cache.values->data() + offset, shape.kv_heads * width, width};
    QueryTile& queries = parts[static_cast<std::size_t>(task)].emplace(kernels_, tile.rows(), width);
    for (std::int64_t r = 0; r < tile.rows(); ++r) {
      queries.set_query(r, q.row(tile.token_of(r)) + tile.head_of(r) * width, scale);
    }
    const std::int64_t first = task % splits * keys;
    const std::int64_t last = std::min(before + tile.token + tile.tokens, first + keys);
    queries.attend(source, first, last, [&](std::int64_t row) { return before + tile.token_of(row) + 1; });
    if (splits == 1) give(task);
  });
  for (std::int64_t index = 0; splits > 1 && index < plan.count(); ++index) give(index);
}

void CpuBackend::attend_bidirectional(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads,
                                      std::span<const std::int64_t> starts, const Tensor& y) {
  const std::int64_t width = q.cols / heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(width));
  const auto sequences = static_cast<std::int64_t>(starts.size()) - 1;
  const std::int64_t average = q.rows / sequences;
  each(sequences * heads, 2 * average * average * width, [&](std::int64_t task) {
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
