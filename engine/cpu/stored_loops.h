// SPDX-License-Identifier: Apache-2.0
// Included once by each kernels_<instruction set>.cpp, inside an unnamed namespace after cpu/block_codes.h: products
// with stored weights by way of floats, for processors without anything better and for types without a faster way.

// Weights decoded at once: few enough to stay in the second-level cache.
constexpr std::int64_t kDecodedRows = 16;
constexpr std::int64_t kDecodedColumns = 2048;
constexpr std::int64_t kBatchRows = 48;  // rows of x that stay in the cache while weights pass by

constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// A part of one row of a matrix, scales applied. `first` is a multiple of 256; room for `count` rounded up to that.
using DecodeRow = void (*)(const HostMatrix& w, std::int64_t row, std::int64_t first, std::int64_t count, float* to);

inline const std::uint8_t* row_bytes(const HostMatrix& w, std::int64_t row) {
  return static_cast<const std::uint8_t*>(w.data) + row * bytes_of(w.dtype, w.cols);
}

template <DType Type>
void decode_blocks(const HostMatrix& w, std::int64_t row, std::int64_t first, std::int64_t count, float* to) {
  std::uint8_t padded[bytes_of(Type, 256)];
  CodeBlock block;
  for (std::int64_t k = first; k < first + count; k += 256, to += 256) {
    Unpack<Type>::run(blocks_at<Type>(row_bytes(w, row), k, w.cols, padded), block);
    for (int g = 0; g < 16; ++g) {
      for (int i = 0; i < 16; ++i) {
        to[16 * g + i] = block.scales[g] * static_cast<float>(block.codes[16 * g + i]) - block.offsets[g];
      }
    }
  }
}

// As with halves, the exponent is corrected by a multiplication.
inline float widen_f8(std::uint8_t code) {
  const std::uint32_t magnitude = code & 0x7FU;
  const float finite = __builtin_bit_cast(float, magnitude << 20) * 0x1p120F;
  const std::uint32_t bits = magnitude == 0x7FU ? 0x7FC00000U : __builtin_bit_cast(std::uint32_t, finite);
  return __builtin_bit_cast(float, bits | (code & 0x80U) << 24);
}

inline void decode_f8(const HostMatrix& w, std::int64_t row, std::int64_t first, std::int64_t count, float* to) {
  const std::uint8_t* codes = row_bytes(w, row);
  const float* scales = w.scales + row / 128 * ((w.cols + 127) / 128);
  for (std::int64_t k = first; k < first + count; k += 128) {
    const float scale = scales[k / 128];
    const std::int64_t end = smaller(k + 128, first + count);
    for (std::int64_t i = k; i < end; ++i) to[i - first] = scale * widen_f8(codes[i]);
  }
}

inline DecodeRow decoder_of(DType type) {
  switch (type) {
    case DType::kF8E4M3:
      return decode_f8;
    case DType::kQ8_0:
      return decode_blocks<DType::kQ8_0>;
    case DType::kQ4_0:
      return decode_blocks<DType::kQ4_0>;
    case DType::kQ4_1:
      return decode_blocks<DType::kQ4_1>;
    case DType::kQ5_0:
      return decode_blocks<DType::kQ5_0>;
    case DType::kQ5_1:
      return decode_blocks<DType::kQ5_1>;
    case DType::kQ2K:
      return decode_blocks<DType::kQ2K>;
    case DType::kQ3K:
      return decode_blocks<DType::kQ3K>;
    case DType::kQ4K:
      return decode_blocks<DType::kQ4K>;
    case DType::kQ5K:
      return decode_blocks<DType::kQ5K>;
    case DType::kQ6K:
      return decode_blocks<DType::kQ6K>;
    case DType::kIq4Nl:
      return decode_blocks<DType::kIq4Nl>;
    case DType::kIq4Xs:
      return decode_blocks<DType::kIq4Xs>;
    case DType::kMxfp4:
      return decode_blocks<DType::kMxfp4>;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  return nullptr;
}

// Weights of plain numbers are read where they are.
inline void multiply_plain(const StoredProduct& p) {
  const HostMatrix& w = *p.w;
  for (std::int64_t row = 0; row < p.rows; row += kBatchRows) {
    Product part;
    part.x_rows = reinterpret_cast<const float* const*>(p.x + row);
    part.rows = smaller(kBatchRows, p.rows - row);
    part.depth = w.cols;
    part.w = row_bytes(w, p.first);
    part.dtype = w.dtype;
    part.w_stride = w.cols;
    part.y = p.y + row * p.y_stride;
    part.y_stride = p.y_stride;
    part.last = p.last - p.first;
    part.accumulate = p.accumulate;
    multiply(part);
  }
}

// One tile of decoded weights: columns [first, first + depth) of `columns` rows, times all rows of x.
inline void multiply_tile_of_floats(const StoredProduct& p, const float* tile, std::int64_t columns, std::int64_t first,
                                    std::int64_t depth, float* y) {
  for (std::int64_t row = 0; row < p.rows; row += kBatchRows) {
    const float* x[kBatchRows];
    Product part;
    part.x_rows = x;
    part.rows = smaller(kBatchRows, p.rows - row);
    for (std::int64_t r = 0; r < part.rows; ++r) x[r] = static_cast<const float*>(p.x[row + r]) + first;
    part.depth = depth;
    part.w = tile;
    part.w_stride = kDecodedColumns;
    part.y = y + row * p.y_stride;
    part.y_stride = p.y_stride;
    part.last = columns;
    part.accumulate = p.accumulate || first > 0;
    multiply(part);
  }
}

inline void multiply_floats(const StoredProduct& p) {
  const HostMatrix& w = *p.w;
  const DecodeRow decode = decoder_of(w.dtype);
  if (decode == nullptr) {
    multiply_plain(p);
    return;
  }
  alignas(64) float tile[kDecodedRows * kDecodedColumns];
  for (std::int64_t n = p.first; n < p.last; n += kDecodedRows) {
    const std::int64_t columns = smaller(kDecodedRows, p.last - n);
    for (std::int64_t k = 0; k < w.cols; k += kDecodedColumns) {
      const std::int64_t depth = smaller(kDecodedColumns, w.cols - k);
      for (std::int64_t c = 0; c < columns; ++c) decode(w, n + c, k, depth, tile + c * kDecodedColumns);
      multiply_tile_of_floats(p, tile, columns, k, depth, p.y + (n - p.first));
    }
  }
}

inline Form always_float(DType, std::int64_t) { return Form::kFloat; }

inline void convert_to_float(Form, const float* x, std::int64_t columns, void* to) {
  __builtin_memcpy(to, x, static_cast<std::size_t>(columns) * sizeof(float));
}
