// SPDX-License-Identifier: Apache-2.0
// Included once by each kernels_<instruction set>.cpp, inside an unnamed namespace after cpu/kernel_loops.h. Every
// block format as small unsigned codes with a scale and an offset for 16 columns each: weight = scale code - offset.
// The loops are written so that the compiler can vectorise them; a new format is one more `unpack` here and a line in
// unpack_blocks(). Offsets are those of quant/blocks.h.

// 256 columns of a row.
struct CodeBlock {
  alignas(64) std::uint8_t codes[256];
  float scales[16];
  float offsets[16];

  void set16(int group, float scale, float offset) {
    scales[group] = scale;
    offsets[group] = offset;
  }
  void set32(int group, float scale, float offset) {
    set16(2 * group, scale, offset);
    set16(2 * group + 1, scale, offset);
  }
};

inline float half_at(const std::uint8_t* bytes) {
  return widen(Half{static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8)});
}

// Blocks of 32: the low nibbles are the first half.
inline void unpack_nibbles(const std::uint8_t* nibbles, std::uint8_t* codes) {
  for (int l = 0; l < 16; ++l) {
    codes[l] = nibbles[l] & 15;
    codes[16 + l] = nibbles[l] >> 4;
  }
}

inline void add_fifth_bits(const std::uint8_t* bits, std::uint8_t* codes) {
  for (int l = 0; l < 32; ++l) codes[l] = static_cast<std::uint8_t>(codes[l] | (bits[l / 8] >> l % 8 & 1) << 4);
}

inline void look_up(const std::uint8_t* table, std::uint8_t* codes, int count) {
  for (int l = 0; l < count; ++l) codes[l] = table[codes[l]];
}

// The values of IQ4_NL and of MXFP4 (doubled), raised to be at least 0.
constexpr int kIq4Raise = 127;
constexpr std::uint8_t kIq4Codes[16] = {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240};
constexpr int kMxfp4Raise = 12;
constexpr std::uint8_t kMxfp4Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// 2^(exponent - 128)
inline float mxfp4_scale(std::uint8_t exponent) {
  if (exponent == 255) return 0x1p127F;
  const std::uint32_t bits = exponent < 2 ? 0x200000U << exponent : static_cast<std::uint32_t>(exponent - 1) << 23;
  return __builtin_bit_cast(float, bits);
}

template <DType Type>
struct Unpack;

template <>
struct Unpack<DType::kQ8_0> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j, p += 34) {
      for (int l = 0; l < 32; ++l) out.codes[32 * j + l] = p[2 + l] ^ 0x80;
      const float d = half_at(p);
      out.set32(j, d, 128 * d);
    }
  }
};

template <>
struct Unpack<DType::kQ4_0> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j, p += 18) {
      unpack_nibbles(p + 2, out.codes + 32 * j);
      const float d = half_at(p);
      out.set32(j, d, 8 * d);
    }
  }
};

template <>
struct Unpack<DType::kQ4_1> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j, p += 20) {
      unpack_nibbles(p + 4, out.codes + 32 * j);
      out.set32(j, half_at(p), -half_at(p + 2));
    }
  }
};

template <>
struct Unpack<DType::kQ5_0> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j, p += 22) {
      unpack_nibbles(p + 6, out.codes + 32 * j);
      add_fifth_bits(p + 2, out.codes + 32 * j);
      const float d = half_at(p);
      out.set32(j, d, 16 * d);
    }
  }
};

template <>
struct Unpack<DType::kQ5_1> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j, p += 24) {
      unpack_nibbles(p + 8, out.codes + 32 * j);
      add_fifth_bits(p + 4, out.codes + 32 * j);
      out.set32(j, half_at(p), -half_at(p + 2));
    }
  }
};

template <>
struct Unpack<DType::kIq4Nl> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j, p += 18) {
      unpack_nibbles(p + 2, out.codes + 32 * j);
      const float d = half_at(p);
      out.set32(j, d, kIq4Raise * d);
    }
    look_up(kIq4Codes, out.codes, 256);
  }
};

template <>
struct Unpack<DType::kMxfp4> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j, p += 17) {
      unpack_nibbles(p + 1, out.codes + 32 * j);
      const float d = mxfp4_scale(p[0]);
      out.set32(j, d, kMxfp4Raise * d);
    }
    look_up(kMxfp4Codes, out.codes, 256);
  }
};

template <>
struct Unpack<DType::kQ2K> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j) {
      for (int l = 0; l < 32; ++l) out.codes[32 * j + l] = p[16 + 32 * (j / 4) + l] >> 2 * (j % 4) & 3;
    }
    const float d = half_at(p + 80);
    const float m = half_at(p + 82);
    for (int k = 0; k < 16; ++k) out.set16(k, d * static_cast<float>(p[k] & 15), m * static_cast<float>(p[k] >> 4));
  }
};

template <>
struct Unpack<DType::kQ3K> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j) {
      for (int l = 0; l < 32; ++l) {
        const int low = p[32 + 32 * (j / 4) + l] >> 2 * (j % 4) & 3;
        out.codes[32 * j + l] = static_cast<std::uint8_t>(low | (p[l] >> j & 1) << 2);
      }
    }
    const float d = half_at(p + 108);
    const std::uint8_t* scales = p + 96;
    for (int k = 0; k < 16; ++k) {
      const int low = k < 8 ? scales[k] & 15 : scales[k - 8] >> 4;
      const int high = scales[8 + k % 4] >> 2 * (k / 4) & 3;
      const float scale = d * static_cast<float>((low | high << 4) - 32);
      out.set16(k, scale, 4 * scale);
    }
  }
};

// The 6-bit scale and minimum of group j of Q4_K and Q5_K.
inline void set_k_scale(const std::uint8_t* p, int j, CodeBlock& out) {
  const std::uint8_t* packed = p + 4;
  const int scale = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
  const int minimum = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
  out.set32(j, half_at(p) * static_cast<float>(scale), half_at(p + 2) * static_cast<float>(minimum));
}

template <>
struct Unpack<DType::kQ4K> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j) {
      for (int l = 0; l < 32; ++l) out.codes[32 * j + l] = p[16 + 32 * (j / 2) + l] >> 4 * (j % 2) & 15;
      set_k_scale(p, j, out);
    }
  }
};

template <>
struct Unpack<DType::kQ5K> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j) {
      for (int l = 0; l < 32; ++l) {
        const int low = p[48 + 32 * (j / 2) + l] >> 4 * (j % 2) & 15;
        out.codes[32 * j + l] = static_cast<std::uint8_t>(low | (p[16 + l] >> j & 1) << 4);
      }
      set_k_scale(p, j, out);
    }
  }
};

template <>
struct Unpack<DType::kQ6K> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    for (int j = 0; j < 8; ++j) {
      const int half = j / 4;
      const int s = j % 4;
      for (int l = 0; l < 32; ++l) {
        const int low = p[64 * half + 32 * (s % 2) + l] >> 4 * (s / 2) & 15;
        const int high = p[128 + 32 * half + l] >> 2 * s & 3;
        out.codes[32 * j + l] = static_cast<std::uint8_t>(low | high << 4);
      }
    }
    const float d = half_at(p + 208);
    for (int k = 0; k < 16; ++k) {
      const float scale = d * static_cast<float>(static_cast<std::int8_t>(p[192 + k]));
      out.set16(k, scale, 32 * scale);
    }
  }
};

template <>
struct Unpack<DType::kIq4Xs> {
  static void run(const std::uint8_t* p, CodeBlock& out) {
    const float d = half_at(p);
    for (int j = 0; j < 8; ++j) {
      unpack_nibbles(p + 8 + 16 * j, out.codes + 32 * j);
      const int low = p[4 + j / 2] >> 4 * (j % 2) & 15;
      const int high = (p[2] | p[3] << 8) >> 2 * j & 3;
      const float scale = d * static_cast<float>((low | high << 4) - 32);
      out.set32(j, scale, kIq4Raise * scale);
    }
    look_up(kIq4Codes, out.codes, 256);
  }
};

// Columns [first, first + 256) of a row whose blocks begin at `row`; `first` is a multiple of 256. Behind the end of
// the row the blocks are zero.
template <DType Type>
const std::uint8_t* blocks_at(const std::uint8_t* row, std::int64_t first, std::int64_t columns, std::uint8_t* padded) {
  constexpr std::int64_t kBytes = bytes_of(Type, 256);
  const std::uint8_t* blocks = row + first / 256 * kBytes;
  if (first + 256 <= columns) return blocks;
  __builtin_memset(padded, 0, kBytes);
  __builtin_memcpy(padded, blocks, static_cast<std::size_t>(bytes_of(Type, columns - first)));
  return padded;
}
