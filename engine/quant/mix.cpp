// SPDX-License-Identifier: Apache-2.0
#include "quant/mix.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace lectern::engine {
namespace {

constexpr std::array<Mix, 17> kMixes = {{
    {"F32", "32 bits, nothing lost", 0, DType::kF32},
    {"F16", "16 bits, small range", 1, DType::kF16},
    {"BF16", "16 bits, as the checkpoints are published", 32, DType::kBF16},
    {"Q8_0", "8.5 bits, hardly to be told from 16", 7, DType::kQ8_0},
    {"Q6_K", "6.6 bits", 18, DType::kQ6K},
    {"Q5_K_M", "5.5 bits, the sensitive half of the tensors 6.6", 17, DType::kQ5K},
    {"Q4_K_M", "4.5 bits, the sensitive half of the tensors 6.6; the usual choice", 15, DType::kQ4K},
    {"Q4_K_S", "4.5 bits, the first layers 5.5", 14, DType::kQ4K},
    {"IQ4_XS", "4.25 bits on an uneven scale", 30, DType::kIq4Xs},
    {"IQ4_NL", "4.5 bits on an uneven scale, for rows that are no multiple of 256", 25, DType::kIq4Nl},
    {"Q4_0", "4.5 bits, the simplest and fastest", 2, DType::kQ4_0},
    {"Q4_1", "5 bits with an offset", 3, DType::kQ4_1},
    {"Q5_0", "5.5 bits", 8, DType::kQ5_0},
    {"Q5_1", "6 bits with an offset", 9, DType::kQ5_1},
    {"MXFP4_MOE", "4.25-bit floats for experts, 8.5 bits for the rest", 38, DType::kQ8_0},
    {"Q3_K_M", "3.4 bits, the sensitive tensors 4.5", 12, DType::kQ3K},
    {"Q2_K", "2.6 bits, the sensitive tensors 3.4; answers suffer", 10, DType::kQ2K},
}};

bool stays_f32(const MixSubject& tensor) {
  const std::string_view name = tensor.name;
  const auto lengths = std::count_if(tensor.shape.begin(), tensor.shape.end(), [](std::int64_t n) { return n != 1; });
  return lengths <= 1 || name.ends_with("_norm.weight") || name.find("ffn_gate_inp") != std::string_view::npos ||
         name.ends_with("ssm_conv1d.weight");
}

// The first and last eighth of the layers and every third between.
bool is_sensitive(std::int64_t block, std::int64_t blocks) {
  const std::int64_t eighth = blocks / 8;
  return block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2;
}

bool is_output(const MixSubject& tensor) {
  return tensor.name == "output.weight" || (tensor.tied_embeddings && tensor.name == "token_embd.weight");
}

// Attention's values, alone or with queries and keys.
DType value_type(const Mix& mix, const MixSubject& tensor) {
  const bool many_heads = tensor.heads_per_kv_head >= 4;
  if (mix.name == "Q2_K") return many_heads ? DType::kQ4K : DType::kQ3K;
  if (mix.name == "Q3_K_M") return tensor.block < 2 ? DType::kQ5K : DType::kQ4K;
  if (mix.name == "Q4_K_S" && tensor.block < 4) return DType::kQ5K;
  if (mix.name == "Q4_K_M" || mix.name == "Q5_K_M") {
    return is_sensitive(tensor.block, tensor.blocks) ? DType::kQ6K : mix.main;
  }
  const bool uneven = mix.name == "IQ4_XS" || mix.name == "IQ4_NL";
  return uneven && many_heads ? DType::kQ5K : mix.main;
}

DType down_type(const Mix& mix, const MixSubject& tensor) {
  const bool early = tensor.block < tensor.blocks / 8;
  if (mix.name == "Q2_K") return DType::kQ3K;
  if (mix.name == "Q3_K_M") return tensor.block < tensor.blocks / 16 ? DType::kQ5K : DType::kQ4K;
  if (mix.name == "Q4_K_M" || mix.name == "Q5_K_M") {
    return is_sensitive(tensor.block, tensor.blocks) ? DType::kQ6K : mix.main;
  }
  if (mix.name == "Q4_K_S" || mix.name == "IQ4_XS" || mix.name == "IQ4_NL") return early ? DType::kQ5K : mix.main;
  return mix.main;
}

bool keeps_one_type(const Mix& mix) { return block_size(mix.main).elements == 1 || mix.name == "Q6_K"; }

}  // namespace

std::span<const Mix> all_mixes() { return kMixes; }

const Mix* find_mix(std::string_view name) {
  const auto equal = [](char a, char b) {
    return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b));
  };
  const auto found = std::find_if(kMixes.begin(), kMixes.end(), [&](const Mix& mix) {
    return std::equal(mix.name.begin(), mix.name.end(), name.begin(), name.end(), equal);
  });
  return found == kMixes.end() ? nullptr : &*found;
}

DType type_in_mix(const Mix& mix, const MixSubject& tensor) {
  if (stays_f32(tensor)) return DType::kF32;
  if (keeps_one_type(mix)) return mix.main;
  if (mix.name == "MXFP4_MOE") return tensor.shape.size() == 3 ? DType::kMxfp4 : mix.main;
  if (is_output(tensor)) return mix.main == DType::kQ8_0 ? mix.main : DType::kQ6K;
  const std::string_view name = tensor.name;
  if (name.ends_with("attn_v.weight") || name.ends_with("attn_qkv.weight")) return value_type(mix, tensor);
  if (name.find("ffn_down") != std::string_view::npos) return down_type(mix, tensor);
  if (name.ends_with("attn_output.weight")) {
    if (mix.name == "Q2_K") return DType::kQ3K;
    if (mix.name == "Q3_K_M") return DType::kQ4K;
  }
  return mix.main;
}

DType type_for_rows(DType wanted, std::int64_t cols) {
  const auto fits = [cols](DType type) { return cols % block_size(type).elements == 0; };
  if (fits(wanted)) return wanted;
  DType smaller = DType::kF16;
  switch (wanted) {
    case DType::kQ2K:
    case DType::kQ3K:
    case DType::kIq4Xs:
      smaller = DType::kIq4Nl;
      break;
    case DType::kQ4K:
      smaller = DType::kQ5_0;
      break;
    case DType::kQ5K:
      smaller = DType::kQ5_1;
      break;
    case DType::kQ6K:
      smaller = DType::kQ8_0;
      break;
    default:
      break;
  }
  return fits(smaller) ? smaller : DType::kF16;
}

}  // namespace lectern::engine
