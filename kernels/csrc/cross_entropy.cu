// Cross-entropy over a sharded vocabulary: statistics of a row, scores, the gradient over the logits.
//
// Two ways. In general: `statistics` reads the logits once; ranks exchange them; `combine` gives the
// scores; `gradient` reads and overwrites the logits once. Where the whole vocabulary is here and
// the tokens' weights are known (sm_90 and later): `one_pass` keeps a row in the shared memory of a
// cluster of up to 8 blocks, so that the logits are read once and overwritten once in all.
//
// Rows may begin anywhere: a row is seen as 16-byte packs from the aligned address at or before its
// first element, and the elements of its first and last pack are masked and stored one by one.
#include <algorithm>
#include <optional>

#include "cross_entropy_row.h"
#include "stable.cuh"

namespace trivium {
namespace {

using cross_entropy::RowGradient;
using cross_entropy::Scores;
using cross_entropy::Statistics;

constexpr int kScores = 5;  // nll, logsumexp, entropy, high, total: as Scores

// --- A row as packs -----------------------------------------------------------------------------

// Element e of the row is element shift + e of `base`; packs [first, last) hold nothing but
// elements below `valid`.
template <class T>
struct Row {
  static constexpr int N = kPack<T>;
  T* base;
  int shift, valid, columns;
  int first, last;

  __device__ Row(T* row, int columns, int valid) : valid(valid), columns(columns) {
    shift = static_cast<int>((reinterpret_cast<uintptr_t>(row) & 15) / sizeof(T));
    base = row - shift;
    first = shift > 0;
    last = (shift + valid) / N;
  }
  __device__ int packs() const { return (shift + columns + N - 1) / N; }
  __device__ int valid_packs() const { return (shift + valid + N - 1) / N; }
  __device__ bool whole(int pack) const { return pack >= first && pack < last; }
  __device__ T* at(int pack) const { return base + static_cast<int64_t>(pack) * N; }
  __device__ int element(int pack, int i) const { return pack * N + i - shift; }
};

template <class T>
__device__ __forceinline__ void unpack(const Pack<T, kPack<T>>& pack, float (&x)[kPack<T>]) {
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) x[i] = to_float(pack[i]);
}

// The same, with -inf for what is no logit of this row.
template <class T>
__device__ __forceinline__ void unpack_masked(const Row<T>& row, int pack,
                                              const Pack<T, kPack<T>>& from, float (&x)[kPack<T>]) {
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    const int element = row.element(pack, i);
    x[i] = element >= 0 && element < row.valid ? to_float(from[i]) : -INFINITY;
  }
}

// Write the gradient of a pack of logits over it; `label` is the element of the row, or negative.
template <bool kEntropy, class T>
__device__ __forceinline__ void write_gradient(const Row<T>& row, const RowGradient& gradient,
                                               int label, int pack,
                                               const Pack<T, kPack<T>>& from) {
  constexpr int N = kPack<T>;
  float g[N];
  unpack(from, g);
#pragma unroll
  for (int i = 0; i < N; ++i) g[i] = cross_entropy::gradient_at<kEntropy>(gradient, g[i]);
  const int at = label < 0 ? -1 : label + row.shift - pack * N;
  if (at >= 0 && at < N) {
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] -= i == at ? gradient.at_label : 0.0f;
  }
  Pack<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = from_float<T>(g[i]);
  if (row.whole(pack)) {
    store<T, N>(row.at(pack), out);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int element = row.element(pack, i);
    if (element >= 0 && element < row.columns)
      row.at(pack)[i] = element < row.valid ? out[i] : from_float<T>(0.0f);
  }
}

// --- Statistics over threads --------------------------------------------------------------------

template <bool kEntropy>
__device__ __forceinline__ Statistics merge_warp(Statistics s) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    Statistics other;
    other.high = __shfl_down_sync(0xffffffffu, s.high, offset);
    other.total = __shfl_down_sync(0xffffffffu, s.total, offset);
    if constexpr (kEntropy) other.weighted = __shfl_down_sync(0xffffffffu, s.weighted, offset);
    s = cross_entropy::merged<kEntropy>(s, other);
  }
  return s;
}

// Of the whole block, on thread 0. `scratch`: one for each warp, at most 32.
template <bool kEntropy>
__device__ __forceinline__ Statistics merge_block(Statistics s, Statistics* scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  s = merge_warp<kEntropy>(s);
  if (lane == 0) scratch[warp] = s;
  __syncthreads();
  if (warp == 0) s = merge_warp<kEntropy>(lane < warps ? scratch[lane] : Statistics());
  return s;
}

// --- The general way ----------------------------------------------------------------------------

constexpr int kStatisticsThreads = 256;

// One block a row. out [4, rows]: high, total, target, weighted.
template <class T, bool kEntropy>
__global__ void __launch_bounds__(kStatisticsThreads)
    statistics_kernel(const T* logits, int64_t stride, const int64_t* labels, int64_t start,
                      int columns, int valid, int64_t rows, float* out) {
  constexpr int N = kPack<T>, kFlight = 4, kThreads = kStatisticsThreads;
  __shared__ Statistics scratch[32];
  const int64_t index = blockIdx.x;
  const Row<const T> row(logits + index * stride, columns, valid);

  Statistics s;
  float x[N];
  int pack = row.first + threadIdx.x;
  for (; pack + (kFlight - 1) * kThreads < row.last; pack += kFlight * kThreads) {
    Pack<T, N> flight[kFlight];
#pragma unroll
    for (int j = 0; j < kFlight; ++j) flight[j] = load<T, N>(row.at(pack + j * kThreads));
#pragma unroll
    for (int j = 0; j < kFlight; ++j) {
      unpack<T>(flight[j], x);
      cross_entropy::add<kEntropy, N>(s, x);
    }
  }
  for (; pack < row.last; pack += kThreads) {
    unpack<T>(load<T, N>(row.at(pack)), x);
    cross_entropy::add<kEntropy, N>(s, x);
  }
  // the first and the last pack, where they are not whole; they may be the same one
  if (threadIdx.x < 2) {
    const int edge = threadIdx.x == 0 ? 0 : row.valid_packs() - 1;
    const bool wanted = threadIdx.x == 0 ? row.valid_packs() > 0 : edge > 0;
    if (wanted && !row.whole(edge)) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const int element = row.element(edge, i);
        x[i] = element >= 0 && element < valid ? to_float(row.at(edge)[i]) : -INFINITY;
      }
      cross_entropy::add<kEntropy, N>(s, x);
    }
  }
  s = merge_block<kEntropy>(s, scratch);
  if (threadIdx.x == 0) {
    const int64_t label = labels[index] - start;
    const bool mine = label >= 0 && label < valid;
    out[index] = s.high;
    out[rows + index] = s.total;
    out[2 * rows + index] = mine ? to_float(logits[index * stride + label]) : 0.0f;
    out[3 * rows + index] = kEntropy ? s.weighted * cross_entropy::kLn2 : 0.0f;
  }
}

__device__ __forceinline__ void write_scores(const Scores& scores, int64_t row, int64_t rows,
                                             float* out) {
  out[row] = scores.nll;
  out[rows + row] = scores.logsumexp;
  out[2 * rows + row] = scores.entropy;
  out[3 * rows + row] = scores.high;
  out[4 * rows + row] = scores.total;
}

// One thread a row. statistics [shards, 4, rows] -> out [5, rows].
template <bool kEntropy>
__global__ void combine_kernel(const float* statistics, const int64_t* labels, int shards,
                               int64_t rows, float* out) {
  const int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (row >= rows) return;
  Statistics s;
  float target = 0.0f;
  for (int shard = 0; shard < shards; ++shard) {
    const float* from = statistics + 4 * rows * shard + row;
    const Statistics other{from[0], from[rows],
                           kEntropy ? from[3 * rows] * cross_entropy::kLog2E : 0.0f};
    s = cross_entropy::merged<kEntropy>(s, other);
    target += from[2 * rows];
  }
  write_scores(cross_entropy::scores_of<kEntropy>(s, target, labels[row] < 0), row, rows, out);
}

constexpr int kGradientThreads = 256, kGradientFlight = 4;

// One block for each tile of kGradientThreads x kGradientFlight packs of a row. Null: 0.
template <class T, bool kEntropy>
__global__ void __launch_bounds__(kGradientThreads)
    gradient_kernel(T* logits, int64_t stride, const int64_t* labels, const float* scores,
                    const float* by_nll, const float* by_logsumexp, const float* by_entropy,
                    float z_weight, int64_t start, int columns, int valid, int64_t rows,
                    int tiles) {
  constexpr int N = kPack<T>;
  const int64_t index = blockIdx.x / tiles;
  const int tile = blockIdx.x % tiles;
  const Row<T> row(logits + index * stride, columns, valid);
  const int begin = tile * kGradientThreads * kGradientFlight + threadIdx.x, end = row.packs();

  Pack<T, N> flight[kGradientFlight];
#pragma unroll
  for (int j = 0; j < kGradientFlight; ++j) {
    const int pack = begin + j * kGradientThreads;
    if (pack < end) flight[j] = load<T, N>(row.at(pack));
  }
  const int64_t label = labels[index], local = label - start;
  const Scores score{scores[index], scores[rows + index], scores[2 * rows + index],
                     scores[3 * rows + index], scores[4 * rows + index]};
  const float weight = by_nll ? by_nll[index] : 0.0f;
  const RowGradient gradient = cross_entropy::gradient_of(
      score, weight,
      (by_logsumexp ? by_logsumexp[index] : 0.0f) + 2.0f * z_weight * weight * score.logsumexp,
      kEntropy ? by_entropy[index] : 0.0f, label < 0);
  const int at = label >= 0 && local >= 0 && local < valid ? static_cast<int>(local) : -1;
#pragma unroll
  for (int j = 0; j < kGradientFlight; ++j) {
    const int pack = begin + j * kGradientThreads;
    if (pack < end) write_gradient<kEntropy>(row, gradient, at, pack, flight[j]);
  }
}

// --- One pass -----------------------------------------------------------------------------------

constexpr int kClusterThreads = 512, kBlocksAnSm = 3, kMostBlocks = 8;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int kStages = 4;  // groups of copies on their way

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
__device__ __forceinline__ void copy16_async(void* to_shared, const void* from_global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(
                   shared_address(to_shared)),
               "l"(from_global)
               : "memory");
}
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
// Store a float at the address in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ void store_remote(const float* address, int rank, float value) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(remote)
               : "r"(shared_address(address)), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(remote), "f"(value) : "memory");
}

// Process the slots of stage `kStage` once they have come, then the stages after it.
template <int kStage, class Process>
__device__ __forceinline__ void each_stage(int slots, int step, Process&& process) {
  if constexpr (kStage < kStages) {
    wait_copies<kStages - 1 - kStage>();
    const int end = min(slots, (kStage + 1) * step);
    for (int slot = kStage * step; slot < end; ++slot) process(slot);
    each_stage<kStage + 1>(slots, step, process);
  }
}
#endif

// Where packs of a row go that one thread of a cluster keeps.
template <class T>
struct Share {
  static constexpr int N = kPack<T>;
  Pack<T, N>* kept;
  int begin, end, slots, step;

  // Start copying slots of stage `stage` of a row: one group of copies.
  __device__ __forceinline__ void fetch(const Row<T>& row, int stage) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    const int stop = min(slots, (stage + 1) * step);
    for (int slot = stage * step; slot < stop; ++slot) {
      const int pack = begin + slot * kClusterThreads;
      if (pack < end) copy16_async(&kept[slot * kClusterThreads + threadIdx.x], row.at(pack));
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }
};

// Clusters of `size` consecutive blocks go over the rows; block `rank` of one keeps `share` packs of
// a row. Every thread reads back from shared memory only what it copied there itself, so copies need
// no barrier, and it fetches its packs of the next row as soon as it has written the gradient over
// those of this one: reading and writing go on side by side.
template <class T, bool kEntropy>
__global__ void __launch_bounds__(kClusterThreads, kBlocksAnSm)
    one_pass_kernel(T* logits, int64_t stride, const int64_t* labels, const float* weights,
                    float z_weight, int columns, int valid, int64_t rows, int size, int share,
                    float* out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int N = kPack<T>;
  extern __shared__ __align__(16) unsigned char kept_bytes[];
  __shared__ Statistics scratch[32];
  // by turns: a block may be at the next row's exchange while another still reads this one's
  __shared__ Statistics parts[2][kMostBlocks];
  cluster_arrive();  // this block runs: others may write to `parts` once all do

  const int rank = blockIdx.x % size;
  const int64_t clusters = gridDim.x / size;
  int64_t index = blockIdx.x / size;
  Row<T> row(logits + index * stride, columns, valid);
  Share<T> mine;
  mine.kept = reinterpret_cast<Pack<T, N>*>(kept_bytes);
  mine.begin = rank * share + threadIdx.x;
  mine.end = min(row.packs(), (rank + 1) * share);
  mine.slots = (share + kClusterThreads - 1) / kClusterThreads;
  mine.step = (mine.slots + kStages - 1) / kStages;
  for (int stage = 0; stage < kStages; ++stage) mine.fetch(row, stage);
  cluster_wait();

  for (int turn = 0; index < rows; index += clusters, turn ^= 1) {
    const int64_t label = labels[index];
    const float weight = weights[index];
    const int at = label >= 0 && label < valid ? static_cast<int>(label) : -1;
    // read by every block before any block of the cluster writes: the barrier below is in between
    const float target = at >= 0 ? to_float(row.base[row.shift + at]) : 0.0f;

    Statistics s;
    each_stage<0>(mine.slots, mine.step, [&](int slot) {
      const int pack = mine.begin + slot * kClusterThreads;
      if (pack >= mine.end) return;
      const Pack<T, N> from = mine.kept[slot * kClusterThreads + threadIdx.x];
      float x[N];
      if (row.whole(pack)) {
        unpack<T>(from, x);
      } else {
        unpack_masked<T>(row, pack, from, x);
      }
      cross_entropy::add<kEntropy, N>(s, x);
    });
    s = merge_block<kEntropy>(s, scratch);
    if (threadIdx.x == 0) {
      for (int other = 0; other < size; ++other) {
        store_remote(&parts[turn][rank].high, other, s.high);
        store_remote(&parts[turn][rank].total, other, s.total);
        store_remote(&parts[turn][rank].weighted, other, s.weighted);
      }
    }
    cluster_arrive();
    cluster_wait();
    s = parts[turn][0];
    for (int other = 1; other < size; ++other)
      s = cross_entropy::merged<kEntropy>(s, parts[turn][other]);
    const Scores score = cross_entropy::scores_of<kEntropy>(s, target, label < 0);
    if (rank == 0 && threadIdx.x == 0) write_scores(score, index, rows, out);
    const RowGradient gradient = cross_entropy::gradient_of(
        score, weight, 2.0f * z_weight * weight * score.logsumexp, 0.0f, label < 0);

    const bool more = index + clusters < rows;
    const Row<T> next(logits + (more ? index + clusters : index) * stride, columns, valid);
    const int next_end = min(next.packs(), (rank + 1) * share);
    for (int stage = 0; stage < kStages; ++stage) {
      const int stop = min(mine.slots, (stage + 1) * mine.step);
      for (int slot = stage * mine.step; slot < stop; ++slot) {
        const int pack = mine.begin + slot * kClusterThreads;
        Pack<T, N>* place = &mine.kept[slot * kClusterThreads + threadIdx.x];
        if (pack < mine.end) write_gradient<false>(row, gradient, at, pack, *place);
        if (more && pack < next_end) copy16_async(place, next.at(pack));
      }
      asm volatile("cp.async.commit_group;" ::: "memory");
    }
    row = next;
    mine.end = next_end;
  }
#endif
}

// x *= factor, and nothing is touched where factor is 1.
template <class T>
__global__ void scale_kernel(T* x, const float* factor, int64_t count) {
  constexpr int N = kPack<T>;
  const float by = *factor;
  if (by == 1.0f) return;
  const int64_t thread = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  const int64_t threads = gridDim.x * static_cast<int64_t>(blockDim.x);
  const int64_t head = min(count, static_cast<int64_t>(
                                      ((16 - (reinterpret_cast<uintptr_t>(x) & 15)) & 15) / sizeof(T)));
  const int64_t packs = (count - head) / N;
  for (int64_t i = thread; i < packs; i += threads) {
    Pack<T, N> pack = load<T, N>(x + head + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) pack[j] = from_float<T>(to_float(pack[j]) * by);
    store<T, N>(x + head + i * N, pack);
  }
  const int64_t tail = head + packs * N;
  for (int64_t i = thread; i < head + (count - tail); i += threads) {
    const int64_t at = i < head ? i : tail + (i - head);
    x[at] = from_float<T>(to_float(x[at]) * by);
  }
}

// --- Host ---------------------------------------------------------------------------------------

// Two-dimensional, rows of consecutive elements, as many labels as rows.
void check_logits(const Tensor& logits, const Tensor& labels, int64_t valid, const char* name) {
  const std::string of = std::string("trivium::") + name + ": ";
  require(logits.dim() == 2, of + "logits must be [rows, columns]");
  require(logits.size(1) < (int64_t(1) << 31) - 64, of + "2^31 columns and more are not supported");
  require(logits.stride(1) == 1 || logits.size(1) == 1, of + "columns must be consecutive in memory");
  require(valid >= 0 && valid <= logits.size(1), of + "valid columns must be within the logits");
  require(labels.scalar_type() == ScalarType::Long && labels.is_contiguous() &&
              labels.numel() == logits.size(0),
          of + "labels must be int64, contiguous, one for each row");
}

const float* floats(const Tensor& tensor, int64_t count, const char* name) {
  require(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() &&
              tensor.numel() == count,
          std::string("trivium::") + name + ": per-token values must be float32 and contiguous, " +
              "one for each row");
  return static_cast<const float*>(tensor.const_data_ptr());
}

const int64_t* labels_of(const Tensor& labels) {
  return static_cast<const int64_t*>(labels.const_data_ptr());
}

template <class F>
auto dispatch_bool(bool value, F&& f) {
  return value ? f.template operator()<true>() : f.template operator()<false>();
}

Tensor statistics(Tensor logits, Tensor labels, int64_t start, int64_t valid, bool entropy) {
  constexpr const char* name = "cross_entropy_statistics";
  check_logits(logits, labels, valid, name);
  const OnDeviceOf on(logits);
  const int64_t rows = logits.size(0);
  Tensor out = empty(logits, {4, rows}, ScalarType::Float);
  if (rows == 0) return out;
  require(rows < (int64_t(1) << 31), "trivium::cross_entropy_statistics: 2^31 rows and more");
  dispatch_float(logits.scalar_type(), name, [&]<class T>() {
    dispatch_bool(entropy, [&]<bool kEntropy>() {
      statistics_kernel<T, kEntropy>
          <<<static_cast<unsigned>(rows), kStatisticsThreads, 0, stream_of(logits)>>>(
              static_cast<const T*>(logits.const_data_ptr()), logits.stride(0), labels_of(labels),
              start, static_cast<int>(logits.size(1)), static_cast<int>(valid), rows,
              static_cast<float*>(out.mutable_data_ptr()));
    });
  });
  check_launch(name);
  return out;
}

Tensor combine(Tensor statistics, Tensor labels, bool entropy) {
  constexpr const char* name = "cross_entropy_combine";
  const int64_t rows = labels.numel();
  require(statistics.dim() == 3 && statistics.size(1) == 4 && statistics.size(2) == rows,
          "trivium::cross_entropy_combine: statistics must be [shards, 4, rows]");
  require(labels.scalar_type() == ScalarType::Long && labels.is_contiguous(),
          "trivium::cross_entropy_combine: labels must be int64 and contiguous");
  const int64_t shards = statistics.size(0);
  const float* from = floats(statistics, shards * 4 * rows, name);
  const OnDeviceOf on(statistics);
  Tensor out = empty(statistics, {kScores, rows}, ScalarType::Float);
  if (rows == 0) return out;
  constexpr int kThreads = 128;
  const unsigned blocks = static_cast<unsigned>((rows + kThreads - 1) / kThreads);
  dispatch_bool(entropy, [&]<bool kEntropy>() {
    combine_kernel<kEntropy><<<blocks, kThreads, 0, stream_of(statistics)>>>(
        from, labels_of(labels), static_cast<int>(shards), rows,
        static_cast<float*>(out.mutable_data_ptr()));
  });
  check_launch(name);
  return out;
}

void launch_gradient(const Tensor& logits, const Tensor& labels, const Tensor& scores,
                     const float* by_nll, const float* by_logsumexp, const float* by_entropy,
                     float z_weight, int64_t start, int64_t valid, const char* name) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  dispatch_float(logits.scalar_type(), name, [&]<class T>() {
    constexpr int kTile = kGradientThreads * kGradientFlight;
    const int64_t packs = (columns + 2 * kPack<T> - 2) / kPack<T>;  // most: of a row off by N - 1
    const int64_t tiles = (packs + kTile - 1) / kTile, blocks = tiles * rows;
    require(blocks < (int64_t(1) << 31), std::string("trivium::") + name + ": too many rows");
    dispatch_bool(by_entropy != nullptr, [&]<bool kEntropy>() {
      gradient_kernel<T, kEntropy>
          <<<static_cast<unsigned>(blocks), kGradientThreads, 0, stream_of(logits)>>>(
              static_cast<T*>(logits.mutable_data_ptr()), logits.stride(0), labels_of(labels),
              floats(scores, kScores * rows, name), by_nll, by_logsumexp, by_entropy, z_weight,
              start, static_cast<int>(columns), static_cast<int>(valid), rows,
              static_cast<int>(tiles));
    });
  });
  check_launch(name);
}

void gradient(Tensor logits, Tensor labels, Tensor scores, std::optional<Tensor> by_nll,
              std::optional<Tensor> by_logsumexp, std::optional<Tensor> by_entropy, int64_t start,
              int64_t valid) {
  constexpr const char* name = "cross_entropy_gradient_";
  check_logits(logits, labels, valid, name);
  const OnDeviceOf on(logits);
  const int64_t rows = logits.size(0);
  if (rows == 0 || logits.size(1) == 0) return;
  const auto given = [&](const std::optional<Tensor>& by) {
    return by ? floats(*by, rows, name) : nullptr;
  };
  launch_gradient(logits, labels, scores, given(by_nll), given(by_logsumexp), given(by_entropy),
                  0.0f, start, valid, name);
}

// How many blocks keep a row of so many packs, and what each keeps; size 0: none can.
struct Cut {
  int size = 0, share = 0;
};

Cut cut_row(int64_t packs) {
  int device = 0, major = 0, most = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  if (major < 9) return {};
  // first so that three blocks share a multiprocessor, whose memory is `most` and the 1 KB that each
  // block pays on top; 512 bytes are for the block's static memory
  for (int blocks = kBlocksAnSm; blocks > 0; --blocks)
    for (int size = 1; size <= kMostBlocks; size *= 2) {
      const int64_t share = (packs + size - 1) / size;
      if (share * 16 <= (most + 1024) / blocks - 1536) return {size, static_cast<int>(share)};
    }
  return {};
}

Tensor one_pass(Tensor logits, Tensor labels, Tensor weights, double z_weight, int64_t valid,
                bool entropy) {
  constexpr const char* name = "cross_entropy_one_pass_";
  check_logits(logits, labels, valid, name);
  const OnDeviceOf on(logits);
  const int64_t rows = logits.size(0), columns = logits.size(1);
  const float* by_nll = floats(weights, rows, name);
  const float z = static_cast<float>(z_weight);
  const bool packed = aligned16(logits.const_data_ptr()) &&
                      logits.stride(0) * static_cast<int64_t>(logits.element_size()) % 16 == 0;
  const int64_t n = 16 / static_cast<int64_t>(logits.element_size());
  const Cut cut = cut_row(packed ? (columns + n - 1) / n : (columns + 2 * n - 2) / n);
  if (rows == 0 || columns == 0 || cut.size == 0 || rows >= (int64_t(1) << 31) / cut.size) {
    const Tensor parts = statistics(logits, labels, 0, valid, entropy);
    const Tensor one = torch::stable::view(parts, {1, 4, rows});
    Tensor scores = combine(one, labels, entropy);
    if (rows && columns)
      launch_gradient(logits, labels, scores, by_nll, nullptr, nullptr, z, 0, valid, name);
    return scores;
  }
  Tensor out = empty(logits, {kScores, rows}, ScalarType::Float);
  dispatch_float(logits.scalar_type(), name, [&]<class T>() {
    dispatch_bool(entropy, [&]<bool kEntropy>() {
      auto* kernel = one_pass_kernel<T, kEntropy>;
      const int bytes = cut.share * 16;
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                 "shared memory of cross_entropy_one_pass_");
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared),
                 "shared memory of cross_entropy_one_pass_");
      cudaLaunchAttribute cluster{};
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = static_cast<unsigned>(cut.size);
      cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(cut.size));
      config.blockDim = dim3(kClusterThreads);
      config.dynamicSmemBytes = static_cast<size_t>(bytes);
      config.stream = stream_of(logits);
      config.attrs = &cluster;
      config.numAttrs = 1;
      int resident = 0;
      check_cuda(cudaOccupancyMaxActiveClusters(&resident, kernel, &config), name);
      const int64_t clusters = std::min<int64_t>(rows, std::max(1, resident));
      config.gridDim = dim3(static_cast<unsigned>(clusters * cut.size));
      check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<T*>(logits.mutable_data_ptr()),
                                    logits.stride(0), labels_of(labels), by_nll, z,
                                    static_cast<int>(columns), static_cast<int>(valid), rows,
                                    cut.size, cut.share,
                                    static_cast<float*>(out.mutable_data_ptr())),
                 name);
    });
  });
  check_launch(name);
  return out;
}

void scale(Tensor x, Tensor factor) {
  constexpr const char* name = "cross_entropy_scale_";
  require(x.is_contiguous(), "trivium::cross_entropy_scale_: x must be contiguous");
  const OnDeviceOf on(x);
  const int64_t count = x.numel();
  if (count == 0) return;
  const float* by = floats(factor, 1, name);
  dispatch_float(x.scalar_type(), name, [&]<class T>() {
    const int64_t wanted = (count / kPack<T> + 255) / 256 + 1;
    const int64_t blocks = std::min<int64_t>(wanted, 8 * multiprocessors());
    scale_kernel<T><<<static_cast<unsigned>(blocks), 256, 0, stream_of(x)>>>(
        static_cast<T*>(x.mutable_data_ptr()), by, count);
  });
  check_launch(name);
}

}  // namespace
}  // namespace trivium

STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) {
  m.impl("cross_entropy_statistics", TORCH_BOX(&trivium::statistics));
  m.impl("cross_entropy_combine", TORCH_BOX(&trivium::combine));
  m.impl("cross_entropy_gradient_", TORCH_BOX(&trivium::gradient));
  m.impl("cross_entropy_one_pass_", TORCH_BOX(&trivium::one_pass));
  m.impl("cross_entropy_scale_", TORCH_BOX(&trivium::scale));
}
