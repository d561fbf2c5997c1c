// SPDX-License-Identifier: Apache-2.0
#include "cuda/experts.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "cuda/cuda_backend.h"
#include "cuda/cuda_plan.h"
#include "cuda/expert_groups.h"
#include "cuda/expert_tiles.h"
#include "cuda/host_experts.h"

namespace lectern::engine::cuda {
namespace {

constexpr std::int64_t kSlab = kExpertRowsAtOnce;               // rows worked on at a time
constexpr std::int64_t kProductBytes = std::int64_t{48} << 20;  // of products not yet summed, where that is possible
constexpr std::int64_t kFewPerExpert = 4;                       // rows, on average: tiles would be mostly empty

unsigned blocks_for(std::int64_t count, std::int64_t each) { return static_cast<unsigned>((count + each - 1) / each); }

std::int64_t whole_pieces(std::int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
std::int64_t whole_tiles(std::int64_t columns) { return (columns + kTileCols - 1) / kTileCols * kTileCols; }

PlacedMatrix placed(DType type, const DeviceMatrix& matrix) {
  return {matrix, static_cast<std::int32_t>(type), is_coded(type) ? 1 : 0};
}

PlacedMatrix placed(const Weight& weight, bool hosted) {
  if (hosted) return placed(host_matrix(weight).dtype, {});
  return placed(cuda_weight(weight).type(), cuda_weight(weight).matrix());
}

bool any_coded(const std::set<DType>& types) { return std::any_of(types.begin(), types.end(), is_coded); }
bool any_numbers(const std::set<DType>& types) { return !std::all_of(types.begin(), types.end(), is_coded); }

bool multiplies_floats(const WeightHandle& router) {
  if (router == nullptr) return true;
  const DType type = cuda_weight(*router).type();
  return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16;
}

// Columns of the result that are computed and summed at a time.
std::int64_t panel_columns(std::int64_t all_pairs, std::int64_t hidden) {
  const std::int64_t fitting = kProductBytes / 4 / all_pairs / kTileCols * kTileCols;
  return std::min(whole_tiles(hidden), std::max<std::int64_t>(fitting, 2 * kTileCols));
}

bool is_aligned(const float* rows, std::int64_t cols) {
  return cols % 4 == 0 && reinterpret_cast<std::uintptr_t>(rows) % 16 == 0;
}

FloatRows float_rows(const float* data, std::int64_t count, std::int64_t cols) {
  FloatRows rows;
  rows.data = data;
  rows.stride = cols;
  rows.cols = cols;
  rows.last = count - 1;
  rows.aligned = is_aligned(data, cols) ? 1 : 0;
  return rows;
}

// What a call works on.
struct Shape {
  std::int64_t rows = 0;
  std::int64_t hidden = 0;
  std::int64_t experts = 0;
  std::int64_t chosen = 0;
  std::int64_t width = 0;         // of an expert
  std::int64_t width_shared = 0;  // 0: none
  bool with_shared = false;

  Shape(const Tensor& x, const ExpertWeights& w)
      : rows(x.rows),
        hidden(x.cols),
        experts(static_cast<std::int64_t>(w.gate.size())),
        chosen(w.experts_per_token),
        width(w.gate.front()->rows()),
        width_shared(w.shared_gate ? w.shared_gate->rows() : 0),
        with_shared(w.shared_gate != nullptr) {}

  std::int64_t pairs() const { return rows * chosen; }
  std::int64_t all_pairs() const { return pairs() + (with_shared ? rows : 0); }
  std::int64_t widest() const { return std::max(width, width_shared); }
  std::int64_t most_groups() const { return std::min(pairs(), experts) + (with_shared ? 1 : 0); }
};

// What the operation needs of the backend: run(grid, kernel, arguments...), take(bytes), linear(x, w, y), works(code),
// which remembers a failure, and where experts are hosted, what brings them.
template <class Run, class Take, class Linear, class Works>
struct Device {
  Run run;
  Take take;
  Linear linear;
  Works works;
  PassValues& values;
  ExpertHost* host;
  bool again;  // more rows follow for the same block
};

// The operation, step by step.
template <class Device>
class Mixture {
 public:
  Mixture(Device& device, const Tensor& x, const ExpertWeights& w, const Tensor& y)
      : device_(device),
        x_(x),
        y_(y),
        w_(w),
        placed_(static_cast<CudaExperts&>(*w.placement)),
        shape_(x, w),
        aligned_(is_aligned(x.data, x.cols)) {}

  // `from`: rows that are x once they are normed, which the router's launch does then.
  void run_few(const Tensor& from, const Norm& norm) {
    norm_.gain = norm.gain;
    norm_.eps = norm.eps;
    norm_.wide = is_aligned(from.data, from.cols) && is_aligned(norm.gain, from.cols) && aligned_ ? 1 : 0;
    if (any_numbers(placed_.gate()) || any_numbers(placed_.up())) norm_.to = x_.data;
    from_ = &from;
    run_few();
  }

  void run_few() {
    prepare_choice();
    if (from_ != nullptr) {
      product_.x = from_->data;
      product_.aligned = is_aligned(from_->data, from_->cols) ? 1 : 0;
    }
    take_inner();
    grouped_.groups = take<ExpertGroup>(shape_.most_groups());
    grouped_.count = take<std::int32_t>(1);
    route_and_group();
    if (placed_.hosted() != nullptr) return multiply_on_both();
    multiply_groups(shape_.most_groups());
  }

  void run_many() {
    prepare_choice();
    if (multiplies_floats(w_.router) && multiplies_floats(w_.shared_router)) {
      device_.run(Grid{router_tiles(product_), kRouterThreads}, route_many, product_);
    } else {
      multiply_routers();
    }
    device_.run(Grid{choice_blocks(choices_), kRouterThreads, choice_bytes(choices_)}, choose_experts, choices_,
                GroupedRows{});
    const auto is_float = [](const std::set<DType>& types) { return types.contains(DType::kF32); };
    const bool floats = is_float(placed_.gate()) || is_float(placed_.up()) || is_float(placed_.down());
    if (floats || shape_.pairs() <= kFewPerExpert * shape_.experts) {
      sort(kGroupRows);
      multiply_in_groups();
    } else {
      sort(kTileRows);
      multiply_in_tiles();
    }
  }

 private:
  template <class T>
  T* take(std::int64_t count) {
    if (count == 0) return nullptr;
    return reinterpret_cast<T*>(device_.take(count * static_cast<std::int64_t>(sizeof(T))));
  }

  void prepare_choice() {
    choices_.experts_of = take<std::int32_t>(shape_.pairs());
    choices_.weights = take<float>(shape_.all_pairs());
    auto* const logits = take<float>(shape_.rows * shape_.experts);
    auto* const shared = shape_.with_shared ? take<float>(shape_.rows) : nullptr;
    choices_.logits = logits;
    choices_.shared = shared;
    choices_.rows = static_cast<std::int32_t>(shape_.rows);
    choices_.experts = static_cast<std::int32_t>(shape_.experts);
    choices_.chosen = static_cast<std::int32_t>(shape_.chosen);
    choices_.normalise = w_.normalise_top_k ? 1 : 0;
    product_.x = x_.data;
    product_.logits = logits;
    product_.shared = shared;
    const CudaWeight& router = cuda_weight(*w_.router);
    product_.router = router.matrix();
    product_.router_type = static_cast<std::int32_t>(router.type());
    if (shape_.with_shared) {
      product_.shared_router = cuda_weight(*w_.shared_router).matrix();
      product_.shared_type = static_cast<std::int32_t>(cuda_weight(*w_.shared_router).type());
    }
    product_.rows = choices_.rows;
    product_.aligned = aligned_ ? 1 : 0;
    if (any_coded(placed_.gate()) || any_coded(placed_.up())) coding_ = make_coding();
  }

  Coding make_coding() {
    auto* const memory = take<std::uint8_t>(coded_bytes(shape_.rows, shape_.hidden));
    const CodedRows rows = coded_rows(memory, shape_.rows, shape_.hidden);
    return {rows, shape_.rows * rows.groups};
  }

  // By the kernels for all types of weights.
  void multiply_routers() {
    device_.linear(x_, *w_.router, Tensor{product_.logits, shape_.rows, shape_.experts});
    if (shape_.with_shared) device_.linear(x_, *w_.shared_router, Tensor{product_.shared, shape_.rows, 1});
  }

  void route_and_group() {
    grouped_.arrived = placed_.counters();
    const std::size_t shared_bytes = choice_bytes(choices_);
    if (multiplies_floats(w_.router) && multiplies_floats(w_.shared_router)) {
      const unsigned blocks = router_blocks(product_) + coding_blocks(coding_) + norm_blocks(product_, norm_);
      device_.run(Grid{blocks, kRouterThreads, shared_bytes}, route_few, product_, norm_, coding_, choices_, grouped_);
      return;
    }
    multiply_routers();
    code_x();
    device_.run(Grid{1, kRouterThreads, shared_bytes}, choose_experts, choices_, grouped_);
  }

  void code_x() {
    if (coding_.groups == 0) return;
    device_.run(Grid{coding_blocks(coding_), kRouterThreads}, code_activations, product_, coding_);
  }

  void multiply_groups(std::int64_t most) {
    GroupProduct job = group_product();
    job.groups = grouped_.groups;
    job.count = grouped_.count;
    take_products();
    expand(job, most);
    sum_groups();
  }

  // The CPU computes while the GPU does.
  void multiply_on_both() {
    const HostedExperts& block = *placed_.hosted();
    if (!device_.works(cudaSuccess)) return;  // there is no choice to read
    if (!device_.works(device_.host->read(choices_, x_, *placed_.hosted()))) return;
    const std::vector<ExpertGroup> groups = device_.host->groups_on_gpu(choices_, block);
    if (!groups.empty()) {
      grouped_.groups = const_cast<ExpertGroup*>(device_.values.add(groups));
      grouped_.count = const_cast<std::int32_t*>(device_.values.add(static_cast<std::int32_t>(groups.size())));
      multiply_groups(static_cast<std::int64_t>(groups.size()));
    }
    device_.works(device_.host->add_others(choices_, block, y_));
  }

  void take_inner() {
    const std::int64_t shared_rows = shape_.with_shared ? shape_.rows : 0;
    if (any_coded(placed_.down())) {
      auto* const memory = take<std::uint8_t>(coded_bytes(shape_.pairs(), shape_.width));
      inner_.coded = coded_rows(memory, shape_.pairs(), shape_.width);
      auto* const shared = take<std::uint8_t>(coded_bytes(shared_rows, shape_.width_shared));
      inner_.coded_shared = coded_rows(shared, shared_rows, shape_.width_shared);
    }
    if (any_numbers(placed_.down())) {
      inner_.floats = float_rows(take<float>(shape_.pairs() * shape_.width), shape_.pairs(), shape_.width);
      inner_.floats_shared =
          float_rows(take<float>(shared_rows * shape_.width_shared), shared_rows, shape_.width_shared);
    }
  }

  GroupProduct group_product() const {
    GroupProduct job;
    job.experts = placed_.table();
    job.coded_x = coding_.to;
    job.x = float_rows(x_.data, x_.rows, x_.cols);
    job.inner = inner_;
    job.pairs = static_cast<std::int32_t>(shape_.pairs());
    job.chosen = choices_.chosen;
    return job;
  }

  // Where gate and up are of different types.
  void take_products() {
    if (!placed_.fused()) products_ = take<float>(shape_.all_pairs() * shape_.widest());
  }

  // inner = silu(gate x) up x
  void expand(GroupProduct job, std::int64_t most) {
    const Grid grid = {dim3(blocks_for(shape_.widest(), kSliceRows), static_cast<unsigned>(most)), kExpertThreads};
    const auto multiply = [&](const std::set<DType>& types, ExpertStep step) {
      job.step = step;
      for (const DType type : types) device_.run(grid, group_kernel(type, step), job);
    };
    if (placed_.fused()) return multiply(placed_.gate(), ExpertStep::kGateAndUp);
    job.product_width = shape_.widest();
    job.products = products_;
    multiply(placed_.gate(), ExpertStep::kGate);
    multiply(placed_.up(), ExpertStep::kUp);
  }

  void sum_groups() {
    GroupSum job;
    job.experts = placed_.table();
    job.groups = grouped_.groups;
    job.count = grouped_.count;
    job.weights = choices_.weights;
    job.inner = inner_;
    job.y = y_.data;
    job.columns = static_cast<std::int32_t>(shape_.hidden);
    job.pairs = static_cast<std::int32_t>(shape_.pairs());
    job.rows = choices_.rows;
    job.with_shared = shape_.with_shared ? 1 : 0;
    for (const DType type : placed_.down()) {
      job.lanes = sum_lanes(type, shape_.width);
      device_.run(Grid{group_sum_blocks(job), kExpertThreads}, group_sum_kernel(type, shape_.rows), job);
    }
  }

  // --- many rows
  // ------------------------------------------------------------------------------------------------------

  void sort(int tile_rows) {
    sorted_.experts_of = choices_.experts_of;
    sorted_.pairs = static_cast<std::int32_t>(shape_.pairs());
    sorted_.experts = choices_.experts;
    sorted_.shared_rows = shape_.with_shared ? choices_.rows : 0;
    sorted_.tile_rows = tile_rows;
    sorted_.sorted = take<std::int32_t>(shape_.all_pairs());
    sorted_.starts = take<std::int32_t>(shape_.experts + 2);
    sorted_.tiles = take<ExpertTile>(most_tiles(sorted_));
    sorted_.tile_count = take<std::int32_t>(1);
    sorted_.arrived = placed_.counters() + 1;
    device_.run(Grid{static_cast<unsigned>(shape_.experts), kSortThreads}, sort_pairs, sorted_);
  }

  // Of hosted experts all columns are computed while they are on the GPU.
  std::int64_t panel() const {
    return placed_.hosted() != nullptr ? whole_tiles(shape_.hidden) : panel_columns(shape_.all_pairs(), shape_.hidden);
  }

  // body(tiles) for the experts that are on the GPU at the same time.
  template <class Body>
  void each_batch(const Body& body) {
    if (placed_.hosted() == nullptr) return body(TileRange{sorted_.tiles, sorted_.tile_count, most_tiles(sorted_)});
    ExpertHost& host = *device_.host;
    if (!device_.works(cudaSuccess)) return;  // there is no order to read
    if (!device_.works(host.begin(placed_, sorted_, shape_.rows))) return;
    for (std::size_t batch = 0; batch < host.batches(); ++batch) {
      TileRange tiles;
      if (!device_.works(host.bring(placed_, batch, tiles))) return;
      body(tiles);
      if (!device_.works(host.end())) return;
    }
    device_.works(host.look_ahead(placed_, shape_.rows, device_.again));
  }

  void combine(const float* products, std::int64_t first, std::int64_t width) {
    Combination job;
    job.products = products;
    job.weights = choices_.weights;
    job.y = y_.data;
    job.columns = shape_.hidden;
    job.width = width;
    job.first_column = static_cast<std::int32_t>(first);
    job.rows = choices_.rows;
    job.chosen = choices_.chosen;
    job.with_shared = shape_.with_shared ? 1 : 0;
    device_.run(Grid{combine_blocks(job), kPlainThreads}, combine_pairs, job);
  }

  void multiply_in_groups() {
    take_inner();
    code_x();
    take_products();
    auto* const products = take<float>(shape_.all_pairs() * panel());
    each_batch([&](const TileRange& tiles) {
      GroupProduct job = group_product();
      job.tiles = tiles.tiles;
      job.sorted = sorted_.sorted;
      job.count = tiles.count;
      expand(job, tiles.most);
      job.product_width = panel();
      job.products = products;
      job.step = ExpertStep::kDown;
      for (std::int64_t first = 0; first < shape_.hidden; first += job.product_width) {
        job.first_row = static_cast<std::int32_t>(first);
        const std::int64_t columns = std::min(job.product_width, shape_.hidden - first);
        const Grid grid = {dim3(blocks_for(columns, kSliceRows), static_cast<unsigned>(tiles.most)), kExpertThreads};
        for (const DType type : placed_.down()) device_.run(grid, group_kernel(type, job.step), job);
        if (placed_.hosted() == nullptr) combine(products, first, job.product_width);
      }
    });
    if (placed_.hosted() != nullptr) combine(products, 0, panel());
  }

  RoundedRows take_rounded(std::int64_t rows, std::int64_t cols, std::int64_t parts) {
    RoundedRows rounded;
    rounded.columns = cols;
    rounded.depth = tile_depth(cols);
    rounded.part = rows * rounded.depth;
    rounded.numbers = take<std::uint16_t>(parts * rounded.part);
    if (rounded.depth > cols) {
      device_.run(Grid{blocks_for(parts * rows * (rounded.depth - cols), kPlainThreads), kPlainThreads}, clear_behind,
                  rounded, parts * rows);
    }
    return rounded;
  }

  void multiply_in_tiles() {
    TileProduct job;
    job.experts = placed_.table();
    job.sorted = sorted_.sorted;
    job.pairs = static_cast<std::int32_t>(shape_.pairs());
    job.chosen = choices_.chosen;
    const auto wide = [](const std::set<DType>& types) { return types.contains(DType::kBF16); };
    job.parts = wide(placed_.gate()) || wide(placed_.up()) || wide(placed_.down()) ? 2 : 1;
    job.x = take_rounded(shape_.rows, shape_.hidden, job.parts);
    device_.run(Grid{blocks_for(job.x.part / 2, kPlainThreads), kPlainThreads}, round_rows,
                static_cast<const float*>(x_.data), job.x, shape_.rows, job.parts);
    job.inner = take_rounded(shape_.pairs(), shape_.width, job.parts);
    if (shape_.with_shared) job.inner_shared = take_rounded(shape_.rows, shape_.width_shared, job.parts);
    take_products();
    auto* const gates = placed_.fused() ? nullptr : take<float>(shape_.all_pairs() * shape_.widest());
    auto* const products = take<float>(shape_.all_pairs() * panel());
    each_batch([&](const TileRange& tiles) {
      job.tiles = tiles.tiles;
      job.count = tiles.count;
      expand_tiles(job, tiles.most, gates);
      job.products = products;
      job.product_width = panel();
      for (std::int64_t first = 0; first < shape_.hidden; first += job.product_width) {
        job.first_column = static_cast<std::int32_t>(first);
        multiply_tiles(job, placed_.down(), ExpertStep::kDown, std::min(job.product_width, shape_.hidden - first),
                       tiles.most);
        if (placed_.hosted() == nullptr) combine(products, first, job.product_width);
      }
    });
    if (placed_.hosted() != nullptr) combine(products, 0, panel());
  }

  void multiply_tiles(TileProduct job, const std::set<DType>& types, ExpertStep step, std::int64_t columns,
                      std::int64_t most) {
    job.step = step;
    const Grid grid = {dim3(blocks_for(columns, tile_columns(step)), static_cast<unsigned>(most)), kTileThreads,
                       kTileSharedBytes};
    for (const DType type : types) device_.run(grid, tile_kernel(type, step), job);
  }

  // inner = silu(gate x) up x
  void expand_tiles(TileProduct job, std::int64_t most, float* gates) {
    if (placed_.fused()) {
      return multiply_tiles(job, placed_.gate(), ExpertStep::kGateAndUp, shape_.widest(), most);
    }
    job.product_width = shape_.widest();
    job.products = gates;
    multiply_tiles(job, placed_.gate(), ExpertStep::kGate, shape_.widest(), most);
    job.products = products_;
    multiply_tiles(job, placed_.up(), ExpertStep::kUp, shape_.widest(), most);
    const std::int64_t numbers = shape_.all_pairs() * job.product_width;
    device_.run(Grid{blocks_for(numbers, kPlainThreads), kPlainThreads}, gate_inner, job,
                static_cast<const float*>(gates), static_cast<std::int32_t>(shape_.all_pairs()));
  }

  Device& device_;
  const Tensor x_;
  const Tensor y_;
  const ExpertWeights& w_;
  CudaExperts& placed_;
  const Shape shape_;
  const bool aligned_;
  Choices choices_;
  RouterProduct product_;
  RouterNorm norm_;
  const Tensor* from_ = nullptr;  // what is to be normed, if anything
  Coding coding_;
  GroupedRows grouped_;
  PairRows inner_;
  SortedPairs sorted_;
  float* products_ = nullptr;
};

}  // namespace

CudaExperts::CudaExperts(HeapMemory& memory, std::byte* piece, const ExpertWeights& w,
                         std::unique_ptr<HostedExperts> hosted)
    : memory_(memory), piece_(piece), hosted_(std::move(hosted)) {
  const auto add = [&](const PlacedExpert& expert) {
    entries_.push_back(expert);
    gate_.insert(static_cast<DType>(expert.gate.type));
    up_.insert(static_cast<DType>(expert.up.type));
    down_.insert(static_cast<DType>(expert.down.type));
    fused_ = fused_ && expert.gate.type == expert.up.type;
  };
  const bool here = hosted_ == nullptr;
  for (std::size_t e = 0; e < w.gate.size(); ++e) {
    add({placed(*w.gate[e], !here), placed(*w.up[e], !here), placed(*w.down[e], !here)});
  }
  if (w.shared_gate) {
    add({placed(*w.shared_gate, false), placed(*w.shared_up, false), placed(*w.shared_down, false)});
  }
}

CudaExperts::~CudaExperts() {
  if (host_ != nullptr) host_->forget(*this);
  memory_.give_back(piece_);
}

std::int64_t CudaExperts::bytes(std::int64_t entries) {
  return entries * static_cast<std::int64_t>(sizeof(PlacedExpert)) + 2 * static_cast<std::int64_t>(sizeof(unsigned));
}

unsigned* CudaExperts::counters() const {
  return reinterpret_cast<unsigned*>(piece_ + entries_.size() * sizeof(PlacedExpert));
}

std::vector<std::byte> CudaExperts::contents() const {
  std::vector<std::byte> memory(static_cast<std::size_t>(bytes(static_cast<std::int64_t>(entries_.size()))));
  std::memcpy(memory.data(), entries_.data(), entries_.size() * sizeof(PlacedExpert));
  return memory;
}

std::byte* CudaExperts::slot(std::int64_t index) const {
  return piece_ + whole_pieces(bytes(static_cast<std::int64_t>(entries_.size()))) + index * hosted_->slot_bytes();
}

namespace {

// body(matrix, place in the table, memory on the device) for each of an expert's matrices, from `at` on.
template <class Entry, class Body>
void each_matrix(const cpu::HostExpert& expert, Entry& entry, std::byte* at, const Body& body) {
  const auto next = [&at](const HostMatrix& matrix) {
    return std::exchange(at, at + whole_pieces(device_bytes(matrix)));
  };
  body(*expert.gate, entry.gate, next(*expert.gate));
  body(*expert.up, entry.up, next(*expert.up));
  body(*expert.down, entry.down, next(*expert.down));
}

}  // namespace

cudaError_t CudaExperts::send(std::int64_t expert, std::byte* to, WeightStaging& staging,
                              const TransferStreams& streams) const {
  const auto index = static_cast<std::size_t>(expert);
  cudaError_t code = cudaSuccess;
  each_matrix(hosted_->experts()[index], entries_[index], to,
              [&](const HostMatrix& matrix, const PlacedMatrix& /*entry*/, std::byte* place) {
                if (code == cudaSuccess) code = fill_weight(matrix, planes_at(matrix, place), staging, streams);
              });
  return code;
}

void CudaExperts::point_to(std::int64_t expert, std::byte* at) {
  const auto index = static_cast<std::size_t>(expert);
  each_matrix(
      hosted_->experts()[index], entries_[index], at,
      [](const HostMatrix& matrix, PlacedMatrix& entry, std::byte* place) { entry.matrix = planes_at(matrix, place); });
}

cudaError_t CudaExperts::send_table(PassValues& values, cudaStream_t stream) const {
  return cudaMemcpyAsync(piece_, values.add(entries_), entries_.size() * sizeof(PlacedExpert), cudaMemcpyDeviceToDevice,
                         stream);
}

std::int64_t expert_working_bytes(const ExpertSizes& sizes) {
  constexpr std::int64_t kPieces = 24;  // each begins on a boundary
  const std::int64_t rows = std::min(sizes.rows, kSlab);
  const std::int64_t pairs = rows * sizes.chosen;
  const std::int64_t shared_rows = sizes.shared > 0 ? rows : 0;
  const std::int64_t all = pairs + shared_rows;
  const std::int64_t widest = std::max(sizes.width, sizes.shared);
  const std::int64_t tiles = all / kGroupRows + sizes.experts + 1;
  const std::int64_t choice = 12 * all + 4 * rows * (sizes.experts + 1) + coded_bytes(rows, sizes.hidden);
  const std::int64_t order = 4 * (sizes.experts + 2) + tiles * static_cast<std::int64_t>(sizeof(ExpertTile)) +
                             kMostChosen * kGroupRows * static_cast<std::int64_t>(sizeof(ExpertGroup));
  const std::int64_t panel = sizes.hosted ? whole_tiles(sizes.hidden) : panel_columns(all, sizes.hidden);
  const std::int64_t products = 4 * all * (2 * widest + panel);
  const std::int64_t inner = pairs * sizes.width + shared_rows * sizes.shared;
  const std::int64_t of_groups = inner * 4 + coded_bytes(1, inner);
  const std::int64_t of_tiles =
      4 * (rows * tile_depth(sizes.hidden) + pairs * tile_depth(sizes.width) + shared_rows * tile_depth(sizes.shared));
  return choice + order + products + std::max(of_groups, of_tiles) + kPieces * kAlignment;
}

Result<void> CudaBackend::place_experts(ExpertWeights& w) {
  const auto experts = static_cast<std::int64_t>(w.gate.size());
  if (experts > kMostExperts || w.experts_per_token > kMostChosen) {
    return Error{ErrorCode::kUnsupported,
                 "The model has blocks of " + std::to_string(experts) + " experts, of which a token uses " +
                     std::to_string(w.experts_per_token) + ", but on the GPU at most " + std::to_string(kMostExperts) +
                     " and " + std::to_string(kMostChosen) + " are supported; run the model on the CPU."};
  }
  choose_device();
  std::unique_ptr<HostedExperts> hosted;
  if (budget_.on_device >= 0) {
    hosted = std::make_unique<HostedExperts>(w, budget_.on_device);
    lock_experts(*hosted);
  }
  const std::int64_t table = CudaExperts::bytes(experts + (w.shared_gate ? 1 : 0));
  std::byte* const piece = weights_.take(hosted == nullptr ? table : whole_pieces(table) + hosted->all_slots_bytes());
  if (piece == nullptr) {
    return Error{ErrorCode::kOutOfMemory, "The GPU has no room for the " +
                                              std::string(hosted == nullptr ? "tables of the " : "") +
                                              "experts; choose a smaller quantisation of the model."};
  }
  auto placement = std::make_unique<CudaExperts>(weights_, piece, w, std::move(hosted));
  if (placement->hosted() != nullptr) ENGINE_CHECK(fill_slots(*placement, w));
  const std::vector<std::byte> contents = placement->contents();
  note(cudaMemcpyAsync(piece, contents.data(), contents.size(), cudaMemcpyHostToDevice, stream_), "Copying to it");
  note(cudaStreamSynchronize(stream_), "Copying to it");  // `contents` goes
  for (const std::set<DType>* types : {&placement->gate(), &placement->up(), &placement->down()}) {
    for (const DType type : *types) {
      if (type == DType::kF32) continue;
      allow_shared_memory(tile_kernel(type, ExpertStep::kGateAndUp));
      allow_shared_memory(tile_kernel(type, ExpertStep::kDown));  // and the other steps
    }
  }
  w.placement = std::move(placement);
  return status();
}

void CudaBackend::experts_of_norm(const Tensor& x, const Norm& norm, const ExpertWeights& w, const Tensor& normed,
                                  const Tensor& y) {
  const bool hosted = static_cast<const CudaExperts&>(*w.placement).hosted() != nullptr;  // the CPU wants normed rows
  if (hosted || x.rows > kSmallBatchRows || !multiplies_floats(w.router) || !multiplies_floats(w.shared_router)) {
    return Backend::experts_of_norm(x, norm, w, normed, y);
  }
  mix_experts(normed, w, y, &x, norm);
}

void CudaBackend::mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) {
  mix_experts(x, w, y, nullptr, {});
}

void CudaBackend::mix_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y, const Tensor* from,
                              const Norm& norm) {
  for (std::int64_t first = 0; first < x.rows; first += kSlab) {
    const std::int64_t rows = std::min(kSlab, x.rows - first);
    Workspace workspace(*this);
    Device device = {
        [this](const Grid& grid, auto kernel, const auto&... arguments) { run(grid, kernel, arguments...); },
        [&workspace](std::int64_t bytes) { return workspace.take<std::byte>(bytes); },
        [this](const Tensor& rows_in, const Weight& weight, const Tensor& to) { linear(rows_in, weight, false, to); },
        [this](cudaError_t code) {
          note(code, "Computing with experts");
          return !failure_.has_value();
        },
        values_,
        expert_host_.get(),
        first + rows < x.rows,
    };
    Mixture mixture(device, {x.row(first), rows, x.cols}, w, {y.row(first), rows, y.cols});
    if (from != nullptr) {
      mixture.run_few(*from, norm);
    } else if (x.rows <= kSmallBatchRows) {
      mixture.run_few();
    } else {
      mixture.run_many();
    }
  }
}

}  // namespace lectern::engine::cuda
