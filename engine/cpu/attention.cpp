// SPDX-License-Identifier: Apache-2.0
// Softmax attention group by group of keys, without a matrix of all scores (Milakov and Gimelshein 2018, "Online
// normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention").
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/kv_cache.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kTileRows = 64;    // query rows (tokens x heads) that share one pass over the keys
constexpr std::int64_t kMostRanges = 16;  // of keys, when there are few queries: each leaves results to add up
constexpr std::int64_t kShortestRange = 4 * kGroupRows;
constexpr float kNone = -std::numeric_limits<float>::infinity();

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

// What queries have gathered from a range of keys, not yet normalised, so that the results of several ranges can be
// added up. Memory of floats(rows, width) for each tile, whole cache lines.
struct Gathered {
  float* sums;     // [rows, width]: of weight * value
  float* largest;  // [rows]
  float* total;    // [rows]: sum of weights

  static std::int64_t floats(std::int64_t rows, std::int64_t width) { return rows * width + 2 * round_up(rows, 16); }
  static Gathered at(float* memory, std::int64_t rows, std::int64_t width) {
    float* stats = memory + rows * width;
    return {memory, stats, stats + round_up(rows, 16)};
  }
};

// Up to kTileRows queries of one head against a range of its keys. `Source` knows keys and values.
template <class Source>
class QueryTile {
 public:
  // queries: memory for [rows, width].
  QueryTile(const Kernels& kernels, const Source& source, std::int64_t rows, float* queries, const Gathered& to)
      : kernels_(kernels), source_(source), rows_(rows), width_(source.width()), queries_(queries), to_(to) {
    std::fill_n(to.sums, rows * width_, 0.0F);
    std::fill_n(to.largest, rows, kNone);
    std::fill_n(to.total, rows, 0.0F);
  }

  // The query's numbers beyond `count` are zero.
  void set_query(std::int64_t row, const float* query, std::int64_t count, float scale) {
    float* to = queries_ + row * width_;
    std::copy_n(query, count, to);
    std::fill(to + count, to + width_, 0.0F);
    kernels_.scale(scale, to, count);
  }

  // Keys [first, last), first a multiple of kGroupRows; row r sees those before limit(r), which must not fall from row
  // to row.
  template <class Limit>
  void attend(std::int64_t first, std::int64_t last, const Limit& limit) {
    std::int64_t skip = 0;
    for (std::int64_t key = first; key < last; key += kGroupRows) {
      while (skip < rows_ && limit(skip) <= key) ++skip;
      if (skip < rows_) add_group(key, std::min(kGroupRows, last - key), skip, limit);
    }
  }

 private:
  template <class Limit>
  void add_group(std::int64_t key, std::int64_t count, std::int64_t skip, const Limit& limit) {
    alignas(64) float scores[kTileRows * kGroupRows];
    source_.score(queries_ + skip * width_, rows_ - skip, key, count, scores);
    const auto seen = [&](std::int64_t row) { return std::min(count, limit(row) - key); };
    for (std::int64_t row = skip; row < rows_; ++row) weigh(row, scores + (row - skip) * kGroupRows, seen(row));
    for (std::int64_t row = skip, end = skip; row < rows_; row = end) {
      while (end < rows_ && seen(end) == seen(row)) ++end;
      source_.add(scores + (row - skip) * kGroupRows, end - row, key, seen(row), to_.sums + row * width_);
    }
  }

  // Scores become weights relative to the row's largest score so far.
  void weigh(std::int64_t row, float* scores, std::int64_t count) {
    std::fill(scores + count, scores + kGroupRows, kNone);
    const float largest = kernels_.largest(scores, kGroupRows);
    if (largest > to_.largest[row]) {
      if (to_.total[row] > 0) {
        const float shrink = std::exp(to_.largest[row] - largest);
        kernels_.scale(shrink, to_.sums + row * width_, width_);
        to_.total[row] *= shrink;
      }
      to_.largest[row] = largest;
    }
    to_.total[row] += kernels_.exponentials(to_.largest[row], scores, kGroupRows);
  }

  const Kernels& kernels_;
  const Source& source_;
  std::int64_t rows_;
  std::int64_t width_;
  float* queries_;  // scaled
  Gathered to_;
};

// One head of a cache.
class CachedHead {
 public:
  CachedHead(const Kernels& kernels, const CpuKvCache& cache, std::int64_t head)
      : kernels_(kernels), cache_(cache), head_(head) {}

  std::int64_t width() const { return cache_.padded_width(); }

  void score(const float* queries, std::int64_t rows, std::int64_t key, std::int64_t count, float* scores) const {
    PanelProduct product = cache_.keys(head_, key);
    product.a = queries;
    product.a_stride = width();
    product.rows = rows;
    product.panels = (count + kPanelColumns - 1) / kPanelColumns;
    product.y = scores;
    product.y_stride = kGroupRows;
    kernels_.multiply_panels(product);
  }

  void add(const float* weights, std::int64_t rows, std::int64_t key, std::int64_t count, float* sums) const {
    PanelProduct product = cache_.values(head_, key);
    product.a = weights;
    product.a_stride = kGroupRows;
    product.rows = rows;
    product.depth = count;
    product.y = sums;
    product.y_stride = width();
    kernels_.multiply_panels(product);
  }

 private:
  const Kernels& kernels_;
  const CpuKvCache& cache_;
  std::int64_t head_;
};

// Rows of keys and values of one head as numbers, `stride` apart.
class HeadRows {
 public:
  HeadRows(const Kernels& kernels, const float* keys, const float* values, std::int64_t stride, std::int64_t width)
      : kernels_(kernels), keys_(keys), values_(values), stride_(stride), width_(width) {}

  std::int64_t width() const { return width_; }

  void score(const float* queries, std::int64_t rows, std::int64_t key, std::int64_t count, float* scores) const {
    kernels_.multiply({queries, width_, rows, width_, keys_ + key * stride_, DType::kF32, stride_, scores, kGroupRows,
                       0, count, false});
  }

  void add(const float* weights, std::int64_t rows, std::int64_t key, std::int64_t count, float* sums) const {
    kernels_.combine({weights, kGroupRows, rows, count, values_ + key * stride_, stride_, width_, sums, width_});
  }

 private:
  const Kernels& kernels_;
  const float* keys_;
  const float* values_;
  std::int64_t stride_;
  std::int64_t width_;
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
        tokens_(std::max<std::int64_t>(1, std::min(tokens, kTileRows / heads_))) {}

  std::int64_t count() const { return kv_heads_ * head_tiles_ * ((all_tokens_ + tokens_ - 1) / tokens_); }
  std::int64_t most_rows() const { return heads_ * tokens_; }

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

// Causal attention of rows that see `before` + 1, `before` + 2, ... keys, these cut into ranges of `range`. A task is
// one tile against one range; the ranges' results are added up in order.
class CausalAttention {
 public:
  CausalAttention(const Kernels& kernels, const Tensor& q, const CpuKvCache& cache, std::int64_t before,
                  const AttentionShape& shape, std::int64_t range, const Tensor& y)
      : kernels_(kernels),
        q_(q),
        cache_(cache),
        before_(before),
        width_(shape.head_dim),
        range_(range),
        y_(y),
        plan_(shape, q.rows),
        ranges_((before + q.rows + range - 1) / range),
        query_floats_(plan_.most_rows() * cache.padded_width()),
        part_floats_(Gathered::floats(plan_.most_rows(), cache.padded_width())) {}

  std::int64_t tiles() const { return plan_.count(); }
  std::int64_t tasks() const { return plan_.count() * ranges_; }
  bool one_range() const { return ranges_ == 1; }

  // Each worker has memory for queries, and results stay until all ranges of a tile are there.
  std::int64_t floats(std::int64_t workers) const {
    return workers * query_floats_ + (one_range() ? workers : tasks()) * part_floats_;
  }
  void use(float* memory, std::int64_t workers) {
    queries_ = memory;
    parts_ = memory + workers * query_floats_;
  }

  void run(std::int64_t task, std::int64_t worker) const {
    const TilePlan::Tile tile = plan_[task / ranges_];
    const CachedHead source(kernels_, cache_, tile.kv_head);
    QueryTile<CachedHead> queries(kernels_, source, tile.rows(), queries_ + worker * query_floats_,
                                  part(one_range() ? worker : task));
    const float scale = 1.0F / std::sqrt(static_cast<float>(width_));
    for (std::int64_t r = 0; r < tile.rows(); ++r) {
      queries.set_query(r, q_.row(tile.token_of(r)) + tile.head_of(r) * width_, width_, scale);
    }
    const std::int64_t first = task % ranges_ * range_;
    const std::int64_t last = std::min(before_ + tile.token + tile.tokens, first + range_);
    queries.attend(first, last, [&](std::int64_t row) { return before_ + tile.token_of(row) + 1; });
    if (one_range()) give(tile, worker);
  }

  // After all tasks, with more than one range.
  void finish(std::int64_t tile) const { give(plan_[tile], tile * ranges_); }

 private:
  Gathered part(std::int64_t index) const {
    return Gathered::at(parts_ + index * part_floats_, plan_.most_rows(), cache_.padded_width());
  }

  // Adds up the tile's parts, which begin at `first`.
  void give(const TilePlan::Tile& tile, std::int64_t first) const {
    for (std::int64_t r = 0; r < tile.rows(); ++r) {
      float* to = y_.row(tile.token_of(r)) + tile.head_of(r) * width_;
      float largest = kNone;
      for (std::int64_t i = first; i < first + ranges_; ++i) largest = std::max(largest, part(i).largest[r]);
      float total = 0;
      std::fill_n(to, width_, 0.0F);
      for (std::int64_t i = first; i < first + ranges_; ++i) {
        const Gathered from = part(i);
        if (from.total[r] == 0) continue;  // the range begins behind the row
        const float factor = std::exp(from.largest[r] - largest);
        total += factor * from.total[r];
        kernels_.add_scaled(factor, from.sums + r * cache_.padded_width(), to, width_);
      }
      kernels_.scale(1.0F / total, to, width_);
    }
  }

  const Kernels& kernels_;
  const Tensor q_;
  const CpuKvCache& cache_;
  std::int64_t before_;
  std::int64_t width_;
  std::int64_t range_;
  const Tensor y_;
  TilePlan plan_;
  std::int64_t ranges_;
  std::int64_t query_floats_;  // of a worker
  std::int64_t part_floats_;
  float* queries_ = nullptr;
  float* parts_ = nullptr;
};

// Keys of one range for a row that sees `limit` keys. It depends on the row alone, so that a row is computed the same
// way whatever is computed with it, and grows so that the number of ranges stays bounded.
std::int64_t range_of(std::int64_t limit) { return round_up((limit + kMostRanges - 1) / kMostRanges, kShortestRange); }

}  // namespace

void CpuBackend::attend(const Tensor& q, const KvCache& cache, const AttentionShape& shape, const Tensor& y) {
  const std::int64_t before = cache.length() - q.rows;
  if (q.rows > kSmallBatchRows) {
    const std::int64_t tiles = TilePlan(shape, q.rows).count();
    const std::int64_t ranges = (8 * team_.size() + tiles - 1) / tiles;  // so that every thread has work
    const std::int64_t keys = round_up((cache.length() + ranges - 1) / ranges, kGroupRows);
    attend_ranges(q, cache, before, shape, std::max(kShortestRange, keys), y);
    return;
  }
  for (std::int64_t row = 0, end = 0; row < q.rows; row = end) {
    const std::int64_t keys = range_of(before + row + 1);
    while (end < q.rows && range_of(before + end + 1) == keys) ++end;
    attend_ranges({q.row(row), end - row, q.cols}, cache, before + row, shape, keys, {y.row(row), end - row, y.cols});
  }
}

void CpuBackend::attend_ranges(const Tensor& q, const KvCache& cache, std::int64_t before, const AttentionShape& shape,
                               std::int64_t range, const Tensor& y) {
  CausalAttention attention(kernels_, q, static_cast<const CpuKvCache&>(cache), before, shape, range, y);
  const bool share = 2 * q.rows * q.cols * (before + q.rows) >= 2 * kWorthSharing;
  const std::int64_t workers = share ? std::min<std::int64_t>(team_.size(), attention.tasks()) : 1;
  attention.use(attention_memory(attention.floats(workers)), workers);
  std::atomic<std::int64_t> next = 0;
  team_.parallel_for(workers, [&](std::int64_t worker) {
    for (std::int64_t task = next++; task < attention.tasks(); task = next++) attention.run(task, worker);
  });
  if (attention.one_range()) return;
  const auto finish = [&](std::int64_t tile) { attention.finish(tile); };
  team_.parallel_for(attention.tiles(), finish);
}

float* CpuBackend::attention_memory(std::int64_t floats) {
  constexpr std::size_t kLine = 64;
  std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  std::size_t space = bytes + kLine;
  if (attention_memory_.size() * sizeof(float) < space) attention_memory_.resize(space / sizeof(float));
  void* memory = attention_memory_.data();
  return static_cast<float*>(std::align(kLine, bytes, memory, space));
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
    const HeadRows source(kernels_, k.row(begin) + offset, v.row(begin) + offset, k.cols, width);
    std::vector<float> memory(static_cast<std::size_t>(kTileRows * width + Gathered::floats(kTileRows, width)));
    const Gathered gathered = Gathered::at(memory.data() + kTileRows * width, kTileRows, width);
    for (std::int64_t first = 0; first < count; first += kTileRows) {
      const std::int64_t rows = std::min(kTileRows, count - first);
      QueryTile<HeadRows> queries(kernels_, source, rows, memory.data(), gathered);
      for (std::int64_t r = 0; r < rows; ++r) queries.set_query(r, q.row(begin + first + r) + offset, width, scale);
      queries.attend(0, count, [count](std::int64_t) { return count; });
      for (std::int64_t r = 0; r < rows; ++r) {
        float* to = y.row(begin + first + r) + offset;
        std::copy_n(gathered.sums + r * width, width, to);
        kernels_.scale(1.0F / gathered.total[r], to, width);
      }
    }
  });
}

}  // namespace lectern::engine::cpu
