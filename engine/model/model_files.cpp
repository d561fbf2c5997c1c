// SPDX-License-Identifier: Apache-2.0
#include "model/model_files.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "model/gguf_config.h"

namespace lectern::engine {
namespace {

using Renaming = std::pair<std::string_view, std::string_view>;

constexpr std::array<Renaming, 3> kTopNames = {{{"token_embd.weight", "model.embed_tokens.weight"},
                                                {"output.weight", "lm_head.weight"},
                                                {"output_norm.weight", "model.norm.weight"}}};

// Under blk.N. and model.layers.N.
constexpr std::array<Renaming, 30> kLayerNames = {{
    {"attn_norm.weight", "input_layernorm.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ssm_in.weight", "linear_attn.in_proj_qkvz.weight"},
    {"attn_qkv.weight", "linear_attn.in_proj_qkv.weight"},
    {"attn_gate.weight", "linear_attn.in_proj_z.weight"},
    {"ssm_ba.weight", "linear_attn.in_proj_ba.weight"},
    {"ssm_conv1d.weight", "linear_attn.conv1d.weight"},
    {"ssm_a", "linear_attn.decay_rate"},
    {"ssm_dt.bias", "linear_attn.dt_bias"},
    {"ssm_norm.weight", "linear_attn.norm.weight"},
    {"ssm_out.weight", "linear_attn.out_proj.weight"},
    {"ffn_gate_inp.weight", "mlp.gate.weight"},
    {"ffn_gate_exps.weight", "mlp.experts.gate_proj"},
    {"ffn_up_exps.weight", "mlp.experts.up_proj"},
    {"ffn_gate_up_exps.weight", "mlp.experts.gate_up_proj"},
    {"ffn_down_exps.weight", "mlp.experts.down_proj"},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
}};

// Under blk.N. of the MTP block and mtp.
constexpr std::array<Renaming, 4> kMtpNames = {{{"nextn.eh_proj.weight", "fc.weight"},
                                                {"nextn.enorm.weight", "pre_fc_norm_embedding.weight"},
                                                {"nextn.hnorm.weight", "pre_fc_norm_hidden.weight"},
                                                {"nextn.shared_head_norm.weight", "norm.weight"}}};

template <std::size_t N>
std::optional<std::string> renamed(const std::array<Renaming, N>& table, std::string_view name,
                                   const std::string& prefix) {
  for (const auto& [from, to] : table) {
    if (from == name) return prefix + std::string(to);
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> hugging_face_name(std::string_view gguf_name, std::int64_t layers) {
  if (!gguf_name.starts_with("blk.")) return renamed(kTopNames, gguf_name, "");
  std::int64_t layer = -1;
  const std::string_view rest = gguf_name.substr(4);
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  const std::string_view tail = rest.substr(static_cast<std::size_t>(end - rest.data()));
  if (error != std::errc() || layer < 0 || layer > layers || !tail.starts_with('.')) return std::nullopt;
  const std::string_view name = tail.substr(1);
  if (layer < layers) return renamed(kLayerNames, name, "model.layers." + std::to_string(layer) + ".");
  const auto mtp = renamed(kMtpNames, name, "mtp.");
  return mtp ? mtp : renamed(kLayerNames, name, "mtp.layers.0.");
}

Result<void> ModelFiles::move_to_memory(int threads, const std::stop_token& stop) {
  for (MappedFile& file : gguf_ ? gguf_->files() : safetensors_->files())
    ENGINE_CHECK(file.move_to_memory(threads, stop));
  return {};
}

std::string ModelFiles::fingerprint() const {
  constexpr std::size_t kSample = 64;
  std::uint64_t hash = 14695981039346656037U;  // FNV-1a
  const auto add = [&hash](std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 1099511628211U;
  };
  for (const auto& [name, tensor] : tensors_) {
    add(std::as_bytes(std::span(name)));
    add(std::as_bytes(std::span(tensor.dtype)));
    add(std::as_bytes(std::span(tensor.shape)));
    const std::size_t size = tensor.bytes.size();
    for (const std::size_t at : {std::size_t{0}, size / 2, size - std::min(size, kSample)}) {
      add(tensor.bytes.subspan(at, std::min(kSample, size - at)));
    }
  }
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[hash >> shift & 15U];
  return text;
}

Result<ModelFiles> ModelFiles::open(const std::filesystem::path& path) {
  if (path.extension() == ".gguf") return open_gguf(path);
  ModelFiles files;
  ENGINE_TRY(files.config_, read_config(path));
  ENGINE_TRY(files.safetensors_, TensorFiles::open(path));
  files.tensors_ = files.safetensors_->tensors();
  return files;
}

Result<ModelFiles> ModelFiles::open_gguf(const std::filesystem::path& path) {
  ModelFiles files;
  ENGINE_TRY(files.gguf_, GgufFile::open(path));
  ENGINE_TRY(files.config_, read_gguf_config(*files.gguf_));
  const auto layers = static_cast<std::int64_t>(files.config_.layers.size());
  for (const auto& [name, tensor] : files.gguf_->tensors()) {
    const auto known = hugging_face_name(name, layers);
    const bool inserted =
        files.tensors_
            .emplace(known.value_or(name), StoredTensor{std::string(name_of(tensor.dtype)), tensor.shape, tensor.bytes})
            .second;
    if (!inserted) {
      return Error{ErrorCode::kCorrupt, path.filename().string() + ": tensor " + name +
                                            " stands for the same part of the model as another; fetch it again."};
    }
  }
  return files;
}

}  // namespace lectern::engine
