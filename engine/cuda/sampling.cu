// SPDX-License-Identifier: Apache-2.0
#include "cuda/sampling.h"

#include "cuda/ordered_bits.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

using Word = unsigned long long;  // what CUDA's atomics take

constexpr int kBins = 1024;
constexpr double kBinsPerUnit = 32;        // of the distance to the best logit; the last bin takes all beyond
constexpr double kOne = 17592186044416.0;  // 2^44: the weight of the best token; 2^18 of them fit into a word
constexpr Word kKept = Word{1} << 63;      // in a listed weight: min_p keeps the token
constexpr Word kNotFinite = ~Word{0};      // larger than any best token
constexpr int kDigits = 256;
constexpr int kWarps = kSamplingThreads / kWarp;

static_assert(kSamplingThreads == kDigits, "one thread for every digit");
static_assert(kBins % kSamplingThreads == 0);

// What the blocks of one row tell each other.
struct RowState {
  Word best[kMostSlices];  // of each slice
  Word mass[kBins];        // sum of weights
  Word target;             // of the draw within the bins
  unsigned count[kBins];
  unsigned weighed;  // blocks that have done their part
  unsigned drawn;
  unsigned listed;
  int first_bin;  // tokens of the bins between are listed
  int last_bin;
  int pad;
};
static_assert(sizeof(RowState) % 8 == 0);

__host__ __device__ std::int64_t row_bytes(std::int64_t columns) {
  return static_cast<std::int64_t>(sizeof(RowState)) + columns * 2 * static_cast<std::int64_t>(sizeof(Word));
}

__device__ RowState& state_of(const Sampling& job, unsigned row) {
  return *reinterpret_cast<RowState*>(job.memory + row * row_bytes(job.columns));
}
__device__ Word* keys_of(const Sampling& job, unsigned row) {
  return reinterpret_cast<Word*>(job.memory + row * row_bytes(job.columns) + sizeof(RowState));
}

// Whether tokens are taken by rank; else by index.
__device__ bool by_rank(const TokenChoice& options) {
  return options.top_p < 1 || (options.top_k > 0 && options.top_k < options.vocabulary);
}

__device__ float penalised(const TokenChoice& options, float logit, int token) {
  unsigned seen = options.seen == nullptr ? 0U : options.seen[token];
#pragma unroll
  for (int i = 0; i < TokenChoice::kMostTokens; ++i) {
    if (i < options.generated && options.tokens[i] == token) seen |= kGenerated;
  }
  if (seen == 0) return logit;
  // Two roundings, as on the host.
  const float repeated = logit > 0 ? logit / options.repetition_penalty : __fmul_rn(logit, options.repetition_penalty);
  return (seen & kGenerated) != 0 ? __fsub_rn(repeated, options.presence_penalty) : repeated;
}

__device__ bool is_finite(float value) { return (__float_as_uint(value) & 0x7f800000U) != 0x7f800000U; }

struct Slice {
  int first;
  int last;
};
__device__ Slice slice_of(int vocabulary) {
  const int slices = static_cast<int>(gridDim.x);
  const int length = (vocabulary + slices - 1) / slices;
  const int first = min(static_cast<int>(blockIdx.x) * length, vocabulary);
  return {first, min(first + length, vocabulary)};
}

__device__ Word warp_max_word(Word value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Word other = __shfl_xor_sync(kAllLanes, value, offset);
    if (other > value) value = other;
  }
  return value;
}

// All threads of the block call these and get the result; `partial` has room for a word per warp.
__device__ Word block_max_word(Word value, Word* partial) {
  value = warp_max_word(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  Word largest = 0;
  for (int warp = 0; warp < kWarps; ++warp) largest = partial[warp] > largest ? partial[warp] : largest;
  return largest;
}

// The sum over the threads up to this one.
__device__ Word block_scan_word(Word value, Word* partial) {
  const unsigned lane = threadIdx.x % kWarp;
  for (unsigned offset = 1; offset < kWarp; offset *= 2) {
    const Word other = __shfl_up_sync(kAllLanes, value, offset);
    if (lane >= offset) value += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (unsigned warp = 0; warp < threadIdx.x / kWarp; ++warp) value += partial[warp];
  return value;
}

struct Weighed {
  int bin;
  Word mass;  // with kKept
};

// The distance is that of the host's exponent, to the bit; bins are intervals of it, or of the index.
__device__ Weighed weigh(const TokenChoice& options, float logit, double best, int token) {
  const double distance = (best - logit) / options.temperature;
  const double weight = exp(-distance);
  Weighed result;
  if (by_rank(options)) {
    result.bin = distance < kBins / kBinsPerUnit ? static_cast<int>(distance * kBinsPerUnit) : kBins - 1;
  } else {
    result.bin = static_cast<int>(static_cast<long long>(token) * kBins / options.vocabulary);
  }
  result.mass = static_cast<Word>(weight * kOne + 0.5);
  if (weight >= options.min_p) result.mass |= kKept;
  return result;
}

// The least whole number that is not below share * total, within 1 .. total.
__device__ Word reach(double share, Word total) {
  const Word target = static_cast<Word>(ceil(share * static_cast<double>(total)));
  return target < 1 ? 1 : target > total ? total : target;
}
// The least whole number above share * total, within 1 .. total.
__device__ Word pass(double share, Word total) {
  const Word target = static_cast<Word>(share * static_cast<double>(total)) + 1;
  return target > total ? total : target;
}

struct Place {
  int bin;
  Word before;  // what lies in the bins before it
};

// The first bin up to which the sum of numbers(bin) reaches `target`, for all threads; kBins if none.
template <class Numbers>
__device__ Place find_bin(const Numbers& numbers, Word target, Word* partial) {
  constexpr int kEach = kBins / kSamplingThreads;
  __shared__ Place found;
  const int first = static_cast<int>(threadIdx.x) * kEach;
  Word sum = 0;
  for (int i = 0; i < kEach; ++i) sum += numbers(first + i);
  const Word through = block_scan_word(sum, partial);
  if (threadIdx.x == 0) found = {kBins, 0};
  __syncthreads();
  Word before = through - sum;
  if (before < target && through >= target) {
    int bin = first;
    for (; before + numbers(bin) < target; ++bin) before += numbers(bin);
    found = {bin, before};
  }
  __syncthreads();
  const Place place = found;
  __syncthreads();
  return place;
}

// Decides from the bins which tokens are listed.
__device__ void choose_bins(const TokenChoice& options, RowState& state, Word* partial) {
  const auto mass = [&](int bin) { return __ldcg(&state.mass[bin]); };
  const auto count = [&](int bin) { return Word{__ldcg(&state.count[bin])}; };
  Word sum = 0;
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kSamplingThreads) sum += mass(bin);
  __shared__ Word total;
  const Word through = block_scan_word(sum, partial);
  if (threadIdx.x == kSamplingThreads - 1) total = through;
  __syncthreads();
  Place place = {};
  Word target = 0;
  if (options.top_k > 0 && options.top_k < options.vocabulary) {
    place = find_bin(count, static_cast<Word>(options.top_k), partial);
  } else {
    const bool ranked = by_rank(options);
    target = ranked ? reach(options.top_p, total) : pass(options.uniform, total);
    place = find_bin(mass, target, partial);
  }
  if (threadIdx.x != 0) return;
  state.last_bin = min(place.bin, kBins - 1);
  const bool from_first = by_rank(options);
  state.first_bin = from_first ? 0 : state.last_bin;
  state.target = from_first ? target : target - place.before;
}

struct Listed {
  const Word* keys;
  const Word* masses;
  unsigned count;
};

// Of the tokens whose key is at most `limit`, and which have kKept if `kept` says so.
struct Filter {
  Word limit;
  bool kept;

  __device__ bool takes(Word key, Word mass) const { return key <= limit && (!kept || (mass & kKept) != 0); }
};

__device__ Word mass_of(const Listed& list, const Filter& filter, Word* partial) {
  Word sum = 0;
  for (unsigned i = threadIdx.x; i < list.count; i += kSamplingThreads) {
    const Word mass = __ldcg(&list.masses[i]);
    if (filter.takes(__ldcg(&list.keys[i]), mass)) sum += mass & ~kKept;
  }
  const Word through = block_scan_word(sum, partial);
  __shared__ Word total;
  if (threadIdx.x == kSamplingThreads - 1) total = through;
  __syncthreads();
  const Word result = total;
  __syncthreads();
  return result;
}

// The one key that begins with `prefix` and passes the filter.
__device__ Word only_key(const Listed& list, const Filter& filter, Word prefix, int shift) {
  __shared__ Word found;
  for (unsigned i = threadIdx.x; i < list.count; i += kSamplingThreads) {
    const Word key = __ldcg(&list.keys[i]);
    if (key >> shift == prefix && filter.takes(key, __ldcg(&list.masses[i]))) found = key;
  }
  __syncthreads();
  const Word key = found;
  __syncthreads();
  return key;
}

// The key up to which, in rising order, the sum of number(mass) over the tokens that pass the filter reaches `target`,
// which is between 1 and that sum. Keys have `digits` digits of eight bits.
template <class Number>
__device__ Word find_key(const Listed& list, const Filter& filter, Word target, int digits, const Number& number,
                         Word* partial) {
  __shared__ Word sums[kDigits];
  __shared__ unsigned members[kDigits];
  __shared__ Word before_digit;
  __shared__ unsigned digit;
  Word prefix = 0;
  for (int left = digits - 1; left >= 0; --left) {
    const int shift = 8 * left;
    sums[threadIdx.x] = members[threadIdx.x] = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < list.count; i += kSamplingThreads) {
      const Word key = __ldcg(&list.keys[i]);
      const Word mass = __ldcg(&list.masses[i]);
      if (left < digits - 1 && key >> (shift + 8) != prefix) continue;
      if (!filter.takes(key, mass)) continue;
      atomicAdd(&sums[key >> shift & (kDigits - 1)], number(mass & ~kKept));
      atomicAdd(&members[key >> shift & (kDigits - 1)], 1U);
    }
    __syncthreads();
    const Word own = sums[threadIdx.x];
    const Word through = block_scan_word(own, partial);
    if (through - own < target && through >= target) {
      digit = threadIdx.x;
      before_digit = through - own;
    }
    __syncthreads();
    prefix = prefix << 8 | digit;
    target -= before_digit;
    const bool alone = members[digit] == 1;
    __syncthreads();
    if (alone) return only_key(list, filter, prefix, shift);
  }
  return prefix;
}

// top_k, top_p, min_p and the draw on what is listed. The token of a key is in its lower half.
__device__ TokenId draw(const TokenChoice& options, const RowState& state, const Listed& list, Word* partial) {
  const auto mass = [](Word value) { return value; };
  const auto one = [](Word) { return Word{1}; };
  const int digits = by_rank(options) ? 8 : 4;
  Filter filter = {~Word{0}, false};
  Word target = __ldcg(&state.target);
  if (by_rank(options)) {
    if (options.top_k > 0 && options.top_k < options.vocabulary) {
      filter.limit = find_key(list, filter, static_cast<Word>(options.top_k), digits, one, partial);
      target = reach(options.top_p, mass_of(list, filter, partial));
    }
    if (options.top_p < 1) filter.limit = find_key(list, filter, target, digits, mass, partial);
    filter.kept = true;
    target = pass(options.uniform, mass_of(list, filter, partial));
  }
  filter.kept = true;
  return static_cast<TokenId>(find_key(list, filter, target, digits, mass, partial) & 0xffffffffU);
}

}  // namespace

std::int64_t sampling_bytes(std::int64_t rows, std::int64_t columns) { return rows * row_bytes(columns); }

// The best token of every slice; clears what the next kernels count in.
__global__ void __launch_bounds__(kSamplingThreads) find_best(Sampling job) {
  __shared__ Word partial[kWarps];
  const TokenChoice options = job.options[blockIdx.y];
  RowState& state = state_of(job, blockIdx.y);
  const float* logits = job.logits + static_cast<std::int64_t>(blockIdx.y) * job.columns;
  const Slice slice = slice_of(options.vocabulary);
  Word best = 0;
  for (int token = slice.first + static_cast<int>(threadIdx.x); token < slice.last; token += kSamplingThreads) {
    const float logit = penalised(options, logits[token], token);
    const Word bits = ordered_bits(logit);
    const Word candidate = is_finite(logit) ? bits << 32 | ~static_cast<unsigned>(token) : kNotFinite;
    if (candidate > best) best = candidate;
  }
  best = block_max_word(best, partial);
  const unsigned step = gridDim.x * kSamplingThreads;
  for (unsigned bin = blockIdx.x * kSamplingThreads + threadIdx.x; bin < kBins; bin += step) {
    state.mass[bin] = 0;
    state.count[bin] = 0;
  }
  if (threadIdx.x == 0) state.best[blockIdx.x] = best;
  if (threadIdx.x == 0 && blockIdx.x == 0) {
    state.weighed = 0;
    state.drawn = 0;
    state.listed = 0;
  }
}

// Weights of all tokens, summed by bin; greedy rows end here.
__global__ void __launch_bounds__(kSamplingThreads) weigh_tokens(Sampling job) {
  __shared__ Word partial[kWarps];
  __shared__ Word mass[kBins];
  __shared__ unsigned count[kBins];
  const TokenChoice options = job.options[blockIdx.y];
  RowState& state = state_of(job, blockIdx.y);
  const Word best = block_max_word(threadIdx.x < gridDim.x ? state.best[threadIdx.x] : 0, partial);
  if (best == kNotFinite || options.temperature == 0) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      job.tokens[blockIdx.y] = best == kNotFinite ? kNoToken : static_cast<TokenId>(~static_cast<unsigned>(best));
    }
    return;
  }
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kSamplingThreads) mass[bin] = count[bin] = 0;
  __syncthreads();
  const double top = from_ordered_bits(static_cast<unsigned>(best >> 32));
  const float* logits = job.logits + static_cast<std::int64_t>(blockIdx.y) * job.columns;
  const bool ranked = by_rank(options);
  const Slice slice = slice_of(options.vocabulary);
  for (int token = slice.first + static_cast<int>(threadIdx.x); token < slice.last; token += kSamplingThreads) {
    const Weighed weighed = weigh(options, penalised(options, logits[token], token), top, token);
    if (ranked || (weighed.mass & kKept) != 0) atomicAdd(&mass[weighed.bin], weighed.mass & ~kKept);
    atomicAdd(&count[weighed.bin], 1U);
  }
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kSamplingThreads) {
    if (count[bin] == 0) continue;
    atomicAdd(&state.mass[bin], mass[bin]);
    atomicAdd(&state.count[bin], count[bin]);
  }
  if (arrives_last(&state.weighed, gridDim.x)) choose_bins(options, state, partial);
}

// Lists the tokens of the chosen bins; the last block of a row draws.
__global__ void __launch_bounds__(kSamplingThreads) draw_tokens(Sampling job) {
  __shared__ Word partial[kWarps];
  const TokenChoice options = job.options[blockIdx.y];
  RowState& state = state_of(job, blockIdx.y);
  const Word best = block_max_word(threadIdx.x < gridDim.x ? state.best[threadIdx.x] : 0, partial);
  if (best == kNotFinite || options.temperature == 0) return;
  Word* const keys = keys_of(job, blockIdx.y);
  Word* const masses = keys + job.columns;
  const double top = from_ordered_bits(static_cast<unsigned>(best >> 32));
  const float* logits = job.logits + static_cast<std::int64_t>(blockIdx.y) * job.columns;
  const bool ranked = by_rank(options);
  const Slice slice = slice_of(options.vocabulary);
  for (int base = slice.first; base < slice.last; base += kSamplingThreads) {
    const int token = base + static_cast<int>(threadIdx.x);
    const float logit = token < slice.last ? penalised(options, logits[token], token) : 0;
    const Weighed weighed = weigh(options, logit, top, token);
    const bool wanted = token < slice.last && weighed.bin >= state.first_bin && weighed.bin <= state.last_bin;
    const unsigned lanes = __ballot_sync(kAllLanes, wanted ? 1 : 0);
    const unsigned lane = threadIdx.x % kWarp;
    unsigned at = 0;
    if (lane == 0 && lanes != 0) at = atomicAdd(&state.listed, static_cast<unsigned>(__popc(lanes)));
    at = __shfl_sync(kAllLanes, at, 0) + static_cast<unsigned>(__popc(lanes & ((1U << lane) - 1)));
    if (!wanted) continue;
    const auto index = static_cast<unsigned>(token);
    keys[at] = ranked ? Word{~ordered_bits(logit)} << 32 | index : Word{index};
    masses[at] = weighed.mass;
  }
  if (!arrives_last(&state.drawn, gridDim.x)) return;
  const Listed list = {keys, masses, __ldcg(&state.listed)};
  const TokenId token = draw(options, state, list, partial);
  if (threadIdx.x == 0) job.tokens[blockIdx.y] = token;
}

__global__ void mark_settled(Sampling job) {
  // One thread: two tokens of the list may be the same, and bytes have no atomic.
  if (threadIdx.x != 0) return;
  for (std::int32_t row = 0; row < job.rows; ++row) {
    const TokenChoice& options = job.options[row];
    for (std::int32_t i = 0; options.seen != nullptr && i < options.settled; ++i) {
      std::uint8_t& seen = options.seen[options.tokens[i]];
      seen = static_cast<std::uint8_t>(seen | kGenerated);
    }
  }
}

}  // namespace lectern::engine::cuda
