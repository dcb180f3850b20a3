// RMSNorm, LayerNorm and residual add + RMSNorm, forward and backward, for any width.
//
// A team of threads has a row: some lanes of a warp, or whole warps. A persistent grid goes over the
// rows; while a team works on one, the next are copied into shared memory, each thread reading back
// what it copied itself. So inputs are read once, loads are always in flight, and registers are left
// for the gain and for the gradient of it, which each thread sums over all its rows. A block adds up
// its teams, a second kernel the blocks, both in a fixed order.
//
// Rows that are not made of aligned 16-byte packs, or too wide, take `*_any`: same teams, any width,
// inputs read twice, the gradient of the gain summed in device memory.
#include <map>
#include <optional>

#include "async_copy.cuh"
#include "norm_row.h"
#include "stable.cuh"

namespace trivium::norm {

constexpr int kThreads = 512;        // at most, of a block
constexpr int kWarps = kThreads / 32;
constexpr int kFewColumns = 256;     // up to here a thread has 8 columns,
constexpr int kSomeColumns = 8192;   // up to here 16,
constexpr int kManyColumns = 16384;  // up to here 32, of two bytes; wider rows take `*_any`

struct Layout {
  int64_t rows;
  int width;   // elements of a row
  int lanes;   // threads of a team: a power of two up to 32, or whole warps
  int teams;   // of a block
  int stages;  // rows a team has in shared memory: one at hand, the others on their way
};

// --- Device side --------------------------------------------------------------------------------

template <class T>
struct Rows {
  const T* data;
  int64_t stride;  // elements from row to row
};

// Gain or bias: nothing (zeros), packs of the inputs' dtype, or one of three dtypes.
enum class Kind { kNone, kPacked, kFloat, kBf16, kHalf };

struct Parameter {
  const void* data;
  Kind kind;
  float offset;  // added to each element: 1 for a zero-centred gain
};

template <class T, int P>
__device__ __forceinline__ void load_parameter(const Parameter& from, int column, float* values) {
  if (from.kind == Kind::kPacked) {
    const Pack<T, P> pack = load<T, P>(static_cast<const T*>(from.data) + column);
#pragma unroll
    for (int i = 0; i < P; ++i) values[i] = to_float(pack[i]) + from.offset;
    return;
  }
#pragma unroll
  for (int i = 0; i < P; ++i) {
    const int at = column + i;
    float value = 0.0f;
    if (from.kind == Kind::kFloat) {
      value = static_cast<const float*>(from.data)[at];
    } else if (from.kind == Kind::kBf16) {
      value = to_float(static_cast<const bf16*>(from.data)[at]);
    } else if (from.kind == Kind::kHalf) {
      value = to_float(static_cast<const fp16*>(from.data)[at]);
    }
    values[i] = value + from.offset;
  }
}

// The parameters of a thread's columns: kept in registers, or read again for every row.
template <class T, int E, bool kKept>
struct Columns {
  static constexpr int P = kPack<T>;
  Parameter from;
  float values[kKept ? E : 1];

  __device__ __forceinline__ Columns(const Parameter& parameter, const Layout& layout, int lane)
      : from(parameter) {
    if constexpr (kKept) {
#pragma unroll
      for (int v = 0; v < E / P; ++v) {
        const int column = (v * layout.lanes + lane) * P;
        if (column < layout.width) {
          load_parameter<T, P>(from, column, values + v * P);
        } else {
#pragma unroll
          for (int i = 0; i < P; ++i) values[v * P + i] = 0.0f;
        }
      }
    }
  }

  // The P values of pack v, which begins at `column`, inside the row.
  __device__ __forceinline__ void get(int v, int column, float (&out)[P]) const {
    if constexpr (kKept) {
#pragma unroll
      for (int i = 0; i < P; ++i) out[i] = values[v * P + i];
    } else {
      load_parameter<T, P>(from, column, out);
    }
  }
};

// The threads that have a row together. kSeveral: teams of more than a warp share a block, and each
// has its barrier; that takes all 16 of a block, which can limit how many blocks are resident.
template <bool kSeveral>
struct Team {
  int lanes, lane, index;
  float* scratch;  // 2 * kWarps * 2 floats of shared memory, the block's
  int turn = 0;

  __device__ __forceinline__ Team(const Layout& layout, float* shared)
      : lanes(layout.lanes), scratch(shared) {
    index = threadIdx.x / lanes;
    lane = threadIdx.x - index * lanes;
  }

  // Each of N values becomes its sum over the team, in a fixed order, on all its threads. Every
  // thread of the block must come here equally often.
  template <int N>
  __device__ __forceinline__ void sum(float (&values)[N]) {
    static_assert(N <= 2);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      if (offset < lanes) {
#pragma unroll
        for (int n = 0; n < N; ++n)
          values[n] += __shfl_xor_sync(0xffffffffu, values[n], offset);
      }
    }
    if (lanes <= 32) return;
    // Two turns of scratch: a warp still reading this turn's has not come to the barrier of the
    // next, which all pass before anyone writes here again.
    float* area = scratch + turn * kWarps * 2;
    turn ^= 1;
    const int warps = lanes / 32, in_warp = threadIdx.x & 31;
    if (in_warp == 0) {
#pragma unroll
      for (int n = 0; n < N; ++n) area[(threadIdx.x >> 5) * 2 + n] = values[n];
    }
    if constexpr (kSeveral) {
      sync_some(index + 1, lanes);
    } else {
      __syncthreads();
    }
    const int other = in_warp % kWarps;  // both halves of a warp add up the same
#pragma unroll
    for (int n = 0; n < N; ++n) {
      values[n] = other < warps ? area[(index * warps + other) * 2 + n] : 0.0f;
#pragma unroll
      for (int offset = kWarps / 2; offset > 0; offset /= 2)
        values[n] += __shfl_xor_sync(0xffffffffu, values[n], offset);
    }
  }
};

// The rows of a team on their way through shared memory: a ring of stages of kTensors x V packs.
template <class T, int V, int kTensors>
struct Ring {
  static constexpr int P = kPack<T>;
  Pack<T, P>* slots;
  int stages, head = 0;  // head: the stage of the row at hand

  __device__ __forceinline__ Ring(void* shared, int count)
      : slots(static_cast<Pack<T, P>*>(shared) + threadIdx.x), stages(count) {}

  __device__ __forceinline__ Pack<T, P>& at(int stage, int tensor, int v) const {
    return slots[((stage * kTensors + tensor) * V + v) * static_cast<int>(blockDim.x)];
  }

  // Start the copy of the row that comes `ahead` rows after the one at hand (fewer than `stages`).
  __device__ __forceinline__ void fetch(const Rows<T> (&from)[kTensors], int64_t row, int ahead,
                                        const Layout& layout, int lane) const {
    int stage = head + ahead;
    if (stage >= stages) stage -= stages;
#pragma unroll
    for (int tensor = 0; tensor < kTensors; ++tensor) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int column = (v * layout.lanes + lane) * P;
        const bool there = from[tensor].data && row < layout.rows && column < layout.width;
        const T* source = from[tensor].data + (there ? row * from[tensor].stride + column : 0);
        copy_async(&at(stage, tensor, v), there ? source : from[0].data, there);
      }
    }
    commit_copies();
  }

  // Wait for the row at hand; `stages - 1` later ones may still be on their way.
  __device__ __forceinline__ void wait() const {
    if (stages == 1) {
      wait_copies<0>();
    } else if (stages == 2) {
      wait_copies<1>();
    } else {
      wait_copies<2>();
    }
  }

  __device__ __forceinline__ Pack<T, P> get(int tensor, int v) const { return at(head, tensor, v); }

  __device__ __forceinline__ void next() { head = head + 1 == stages ? 0 : head + 1; }
};

template <class T>
struct Forward {
  Layout layout;
  Rows<T> inputs[2];  // x, and the residual for kAdd
  Parameter gain, bias;
  float eps;
  T* y;
  T* sum;       // kAdd: x + residual, rounded; that is what is normalised
  float* mean;  // kCentred
  float* rstd;
};

template <class T, int E, bool kAdd, bool kCentred>
__global__ void __launch_bounds__(kThreads, E <= (kCentred ? 8 : 16) ? 2 : 1)
    forward_rows(const Forward<T> a) {
  constexpr int P = kPack<T>, V = E / P, kTensors = kAdd ? 2 : 1;
  constexpr bool kKept = E <= 16 || (sizeof(T) == 2 && !kCentred);
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ float scratch[2 * kWarps * 2];
  const int width = a.layout.width;
  Team<false> team(a.layout, scratch);
  Ring<T, V, kTensors> ring(memory, a.layout.stages);
  Rows<T> inputs[kTensors];
#pragma unroll
  for (int t = 0; t < kTensors; ++t) inputs[t] = a.inputs[t];
  const int64_t step = static_cast<int64_t>(gridDim.x) * a.layout.teams;
  int64_t base = static_cast<int64_t>(blockIdx.x) * a.layout.teams;
  for (int ahead = 0; ahead + 1 < a.layout.stages; ++ahead)
    ring.fetch(inputs, base + team.index + ahead * step, ahead, a.layout, team.lane);
  const Columns<T, E, kKept> gain(a.gain, a.layout, team.lane);
  const Columns<T, E, kKept && kCentred> bias(a.bias, a.layout, team.lane);

  for (; base < a.layout.rows; base += step, ring.next()) {
    const int64_t row = base + team.index;
    const bool present = row < a.layout.rows;
    const int ahead = a.layout.stages - 1;
    ring.fetch(inputs, row + ahead * step, ahead, a.layout, team.lane);
    ring.wait();
    const int64_t begin = row * width;

    Pack<T, P> x[V];
    float total[1] = {0.0f};  // of the squares, or of the elements if kCentred
#pragma unroll
    for (int v = 0; v < V; ++v) {
      x[v] = ring.get(0, v);
      if constexpr (kAdd) {
        const Pack<T, P> residual = ring.get(1, v);
#pragma unroll
        for (int i = 0; i < P; ++i)
          x[v][i] = from_float<T>(to_float(x[v][i]) + to_float(residual[i]));
        const int column = (v * team.lanes + team.lane) * P;
        if (present && column < width) store(a.sum + begin + column, x[v]);
      }
#pragma unroll
      for (int i = 0; i < P; ++i) {
        const float value = to_float(x[v][i]);
        total[0] += kCentred ? value : value * value;
      }
    }
    team.sum(total);
    float mean = 0.0f;
    if constexpr (kCentred) {
      mean = total[0] / static_cast<float>(width);
      total[0] = 0.0f;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if ((v * team.lanes + team.lane) * P >= width) continue;
#pragma unroll
        for (int i = 0; i < P; ++i) {
          const float value = to_float(x[v][i]) - mean;
          total[0] += value * value;
        }
      }
      team.sum(total);
    }
    const float rstd = inverse_deviation(total[0], width, a.eps);
    if (present && team.lane == 0) {
      a.rstd[row] = rstd;
      if constexpr (kCentred) a.mean[row] = mean;
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * team.lanes + team.lane) * P;
      if (!present || column >= width) continue;
      float scale[P], shift[P];
      gain.get(v, column, scale);
      if constexpr (kCentred) bias.get(v, column, shift);
      Pack<T, P> out;
#pragma unroll
      for (int i = 0; i < P; ++i) {
        float value = normalised<kCentred>(to_float(x[v][i]), mean, rstd) * scale[i];
        if constexpr (kCentred) value += shift[i];
        out[i] = from_float<T>(value);
      }
      store(a.y + begin + column, out);
    }
  }
}

template <class T>
struct Backward {
  Layout layout;
  Rows<T> inputs[3];  // grad, x, and for kAdd the gradient that reaches x from elsewhere
  Parameter gain;
  const float* mean;  // kCentred
  const float* rstd;
  T* dx;
  float* partial;  // [blocks (or teams, for backward_any), 1 or 2, width]: gain's, then bias's
};

template <class T, int E, bool kAdd, bool kCentred>
__global__ void __launch_bounds__(kThreads, E == 8 && !kCentred ? 2 : 1)
    backward_rows(const Backward<T> a) {
  constexpr int P = kPack<T>, V = E / P, kTensors = kAdd ? 3 : 2, N = kCentred ? 2 : 1;
  constexpr bool kKept = E <= 16;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ float scratch[2 * kWarps * 2];
  const int width = a.layout.width;
  const float share = 1.0f / static_cast<float>(width);
  Team<(E > 8)> team(a.layout, scratch);
  Ring<T, V, kTensors> ring(memory, a.layout.stages);
  Rows<T> inputs[kTensors];
#pragma unroll
  for (int t = 0; t < kTensors; ++t) inputs[t] = a.inputs[t];
  const int64_t step = static_cast<int64_t>(gridDim.x) * a.layout.teams;
  int64_t base = static_cast<int64_t>(blockIdx.x) * a.layout.teams;
  for (int ahead = 0; ahead + 1 < a.layout.stages; ++ahead)
    ring.fetch(inputs, base + team.index + ahead * step, ahead, a.layout, team.lane);
  const Columns<T, E, kKept> gain(a.gain, a.layout, team.lane);

  float sums[N][E];  // over this team's rows, of each column: dL/dgain, dL/dbias
#pragma unroll
  for (int e = 0; e < E; ++e) {
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n][e] = 0.0f;
  }
  const auto statistic = [&](const float* of, int64_t row) {
    return row < a.layout.rows ? of[row] : 0.0f;
  };
  float rstd = statistic(a.rstd, base + team.index), mean = 0.0f;
  if constexpr (kCentred) mean = statistic(a.mean, base + team.index);

  for (; base < a.layout.rows; base += step, ring.next()) {
    const int64_t row = base + team.index;
    const bool present = row < a.layout.rows;
    const int ahead = a.layout.stages - 1;
    ring.fetch(inputs, row + ahead * step, ahead, a.layout, team.lane);
    const float next_rstd = statistic(a.rstd, row + step);
    float next_mean = 0.0f;
    if constexpr (kCentred) next_mean = statistic(a.mean, row + step);
    ring.wait();

    // Columns and rows that are not there have g = 0, so they add nothing below.
    float totals[N] = {};  // of g * gain * n, and of g * gain
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * team.lanes + team.lane) * P;
      const Pack<T, P> g = ring.get(0, v), x = ring.get(1, v);
      float scale[P];
      if (kKept || column < width) {
        gain.get(v, column, scale);
      } else {
#pragma unroll
        for (int i = 0; i < P; ++i) scale[i] = 0.0f;
      }
#pragma unroll
      for (int i = 0; i < P; ++i) {
        const float grad = to_float(g[i]);
        const float product = grad * normalised<kCentred>(to_float(x[i]), mean, rstd);
        sums[0][v * P + i] += product;
        totals[0] += product * scale[i];
        if constexpr (kCentred) {
          sums[1][v * P + i] += grad;
          totals[1] += grad * scale[i];
        }
      }
    }
    team.sum(totals);
    const float mean_of_gn = totals[0] * share;
    const float mean_of_g = kCentred ? totals[N - 1] * share : 0.0f;
    T* const out_row = a.dx + row * width;
#pragma unroll(kKept ? V : 1)
    for (int v = 0; v < V; ++v) {
      const int column = (v * team.lanes + team.lane) * P;
      if (!present || column >= width) continue;
      const Pack<T, P> g = ring.get(0, v), x = ring.get(1, v);
      float scale[P];
      gain.get(v, column, scale);
      Pack<T, P> out, direct;
      if constexpr (kAdd) direct = ring.get(2, v);
#pragma unroll
      for (int i = 0; i < P; ++i) {
        const float n = normalised<kCentred>(to_float(x[i]), mean, rstd);
        float value = input_gradient<kCentred>(to_float(g[i]), n, scale[i], rstd, mean_of_g,
                                               mean_of_gn);
        if constexpr (kAdd) value += to_float(direct[i]);
        out[i] = from_float<T>(value);
      }
      store(out_row + column, out);
    }
    rstd = next_rstd;
    mean = next_mean;
  }

  float* const partial = a.partial + static_cast<int64_t>(blockIdx.x) * N * width;
  if (a.layout.teams == 1) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * team.lanes + team.lane) * P;
      if (column >= width) continue;
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < P; ++i) partial[n * width + column + i] = sums[n][v * P + i];
      }
    }
    return;
  }
  wait_copies<0>();  // zeros for rows past the end may be on their way into what is used now
  float* const area = reinterpret_cast<float*>(memory);  // [teams, lanes * E]
  const int padded = team.lanes * E;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    __syncthreads();
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (v * team.lanes + team.lane) * P;
#pragma unroll
      for (int i = 0; i < P; ++i) area[team.index * padded + column + i] = sums[n][v * P + i];
    }
    __syncthreads();
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
      float total = 0.0f;
      for (int index = 0; index < a.layout.teams; ++index) total += area[index * padded + column];
      partial[n * width + column] = total;
    }
  }
}

// T: the inputs' type, which packs are of.
template <class T>
__device__ __forceinline__ float load_one(const Parameter& from, int column) {
  float value[1];
  load_parameter<T, 1>(from, column, value);
  return value[0];
}

template <class T, bool kAdd, bool kCentred>
__global__ void __launch_bounds__(kThreads) forward_any(const Forward<T> a) {
  __shared__ float scratch[2 * kWarps * 2];
  const int width = a.layout.width;
  Team<false> team(a.layout, scratch);
  const int64_t step = static_cast<int64_t>(gridDim.x) * a.layout.teams;
  int64_t base = static_cast<int64_t>(blockIdx.x) * a.layout.teams;
  for (; base < a.layout.rows; base += step) {
    const int64_t row = base + team.index;
    const int end = row < a.layout.rows ? width : 0;
    const T* const x = a.inputs[0].data + row * a.inputs[0].stride;
    const T* const residual = kAdd ? a.inputs[1].data + row * a.inputs[1].stride : nullptr;
    const auto element = [&](int column) {
      const float value = to_float(x[column]);
      if constexpr (kAdd) return to_float(from_float<T>(value + to_float(residual[column])));
      return value;
    };
    float total[1] = {0.0f};
    for (int column = team.lane; column < end; column += team.lanes) {
      const float value = element(column);
      if constexpr (kAdd) a.sum[row * width + column] = from_float<T>(value);
      total[0] += kCentred ? value : value * value;
    }
    team.sum(total);
    float mean = 0.0f;
    if constexpr (kCentred) {
      mean = total[0] / static_cast<float>(width);
      total[0] = 0.0f;
      for (int column = team.lane; column < end; column += team.lanes) {
        const float value = element(column) - mean;
        total[0] += value * value;
      }
      team.sum(total);
    }
    const float rstd = inverse_deviation(total[0], width, a.eps);
    if (end && team.lane == 0) {
      a.rstd[row] = rstd;
      if constexpr (kCentred) a.mean[row] = mean;
    }
    for (int column = team.lane; column < end; column += team.lanes) {
      float value = normalised<kCentred>(element(column), mean, rstd) * load_one<T>(a.gain, column);
      if constexpr (kCentred) value += load_one<T>(a.bias, column);
      a.y[row * width + column] = from_float<T>(value);
    }
  }
}

template <class T, bool kAdd, bool kCentred>
__global__ void __launch_bounds__(kThreads) backward_any(const Backward<T> a) {
  constexpr int N = kCentred ? 2 : 1;
  __shared__ float scratch[2 * kWarps * 2];
  const int width = a.layout.width;
  const float share = 1.0f / static_cast<float>(width);
  Team<false> team(a.layout, scratch);
  const int64_t step = static_cast<int64_t>(gridDim.x) * a.layout.teams;
  int64_t base = static_cast<int64_t>(blockIdx.x) * a.layout.teams;
  float* const mine = a.partial + (base + team.index) * N * width;
  for (int column = team.lane; column < N * width; column += team.lanes) mine[column] = 0.0f;
  // Which thread has a column here and below differs if there are two sums.
  if (N > 1) __syncthreads();
  for (; base < a.layout.rows; base += step) {
    const int64_t row = base + team.index;
    const int end = row < a.layout.rows ? width : 0;
    const T* const grad = a.inputs[0].data + row * a.inputs[0].stride;
    const T* const x = a.inputs[1].data + row * a.inputs[1].stride;
    const bool direct = kAdd && a.inputs[2].data;
    const T* const other = direct ? a.inputs[2].data + row * a.inputs[2].stride : nullptr;
    const float rstd = end ? a.rstd[row] : 0.0f;
    float mean = 0.0f;
    if constexpr (kCentred) mean = end ? a.mean[row] : 0.0f;
    float totals[N] = {};
    for (int column = team.lane; column < end; column += team.lanes) {
      const float g = to_float(grad[column]);
      const float product = g * normalised<kCentred>(to_float(x[column]), mean, rstd);
      const float scale = load_one<T>(a.gain, column);
      mine[column] += product;
      totals[0] += product * scale;
      if constexpr (kCentred) {
        mine[width + column] += g;
        totals[1] += g * scale;
      }
    }
    team.sum(totals);
    const float mean_of_gn = totals[0] * share;
    const float mean_of_g = kCentred ? totals[N - 1] * share : 0.0f;
    for (int column = team.lane; column < end; column += team.lanes) {
      const float n = normalised<kCentred>(to_float(x[column]), mean, rstd);
      float value = input_gradient<kCentred>(to_float(grad[column]), n, load_one<T>(a.gain, column),
                                             rstd, mean_of_g, mean_of_gn);
      if (direct) value += to_float(other[column]);
      a.dx[row * width + column] = from_float<T>(value);
    }
  }
}

constexpr int kSumColumns = 32, kSumRows = 16;

// out[n][column] = the sum over `count` of partial[., n, column], in a fixed order; n = blockIdx.y.
template <class T>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    sum_partials(const float* partial, int count, int width, T* first, T* second) {
  __shared__ float parts[kSumRows][kSumColumns];
  const int across = threadIdx.x % kSumColumns, down = threadIdx.x / kSumColumns;
  const int column = blockIdx.x * kSumColumns + across;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * width;
  float total = 0.0f;
  if (column < width) {
    const float* const from = partial + static_cast<int64_t>(blockIdx.y) * width + column;
#pragma unroll 8
    for (int at = down; at < count; at += kSumRows) total += from[at * stride];
  }
  parts[down][across] = total;
  __syncthreads();
  if (down > 0 || column >= width) return;
  for (int i = 1; i < kSumRows; ++i) total += parts[i][across];
  (blockIdx.y ? second : first)[column] = from_float<T>(total);
}

// --- Host side ----------------------------------------------------------------------------------

// A tensor seen as rows of its last dim.
struct Matrix {
  Tensor held;  // the tensor, or a contiguous copy of one that is not evenly spaced rows
  int64_t rows = 1, stride = 0;
  int width = 0;

  explicit Matrix(const Tensor& tensor) : held(tensor) {
    require(tensor.dim() > 0 && tensor.size(-1) > 0, "trivium::norm: the last dim is empty");
    require(tensor.size(-1) < (int64_t{1} << 28), "trivium::norm: a row has over 2^28 elements");
    width = static_cast<int>(tensor.size(-1));
    rows = tensor.numel() / width;
    if (!even()) {
      held = torch::stable::contiguous(tensor);
      stride = width;
    }
  }

  // Can one stride lead from row to row? Sets it.
  bool even() {
    if (width > 1 && held.stride(-1) != 1) return false;
    stride = width;
    if (rows <= 1) return true;
    int64_t inner = 0;  // rows so far, from the innermost dim outwards
    for (int64_t d = held.dim() - 2; d >= 0; --d) {
      if (held.size(d) == 1) continue;
      if (inner == 0) {
        stride = held.stride(d);
        inner = held.size(d);
      } else {
        if (held.stride(d) != stride * inner) return false;
        inner *= held.size(d);
      }
    }
    return true;
  }

  // Is every row made of aligned packs of 16 bytes?
  bool packed(int64_t bytes) const {
    return aligned16(held.data_ptr()) && stride * bytes % 16 == 0 && width * bytes % 16 == 0;
  }

  template <class T>
  Rows<T> of() const {
    return {static_cast<const T*>(held.data_ptr()), stride};
  }
};

// Gain or bias: a vector of `width`, of any floating dtype; contiguous once it is here.
struct Vector {
  std::optional<Tensor> held;

  Vector(const std::optional<Tensor>& tensor, const Matrix& rows, const char* name) {
    if (!tensor) return;
    require(tensor->numel() == rows.width,
            std::string("trivium::norm: ") + name + " has " + std::to_string(tensor->numel()) +
                " elements, a row " + std::to_string(rows.width));
    held = torch::stable::contiguous(*tensor);
  }

  template <class T>
  Parameter of(ScalarType inputs, float offset = 0.0f) const {
    if (!held) return {nullptr, Kind::kNone, 0.0f};
    const ScalarType dtype = held->scalar_type();
    const void* const data = held->data_ptr();
    if (dtype == inputs && aligned16(data)) return {data, Kind::kPacked, offset};
    if (dtype == ScalarType::Float) return {data, Kind::kFloat, offset};
    if (dtype == ScalarType::BFloat16) return {data, Kind::kBf16, offset};
    require(dtype == ScalarType::Half, "trivium::norm: gain must be float32, bfloat16 or float16");
    return {data, Kind::kHalf, offset};
  }
};

// How rows are given to threads, for a kernel with E columns a thread (0: `*_any`) and blocks of
// some `threads`; `several` teams of more than a warp may share a block.
Layout layout_for(const Matrix& x, int elements, int threads, bool several) {
  int lanes;
  if (elements == 0) {
    lanes = x.width <= 1024 ? 32 : 256;
  } else {
    lanes = (x.width + elements - 1) / elements;
    if (lanes > 32) {
      lanes = (lanes + 31) / 32 * 32;
    } else {
      int power = 1;
      while (power < lanes) power *= 2;
      lanes = power;
    }
  }
  const bool alone = lanes >= threads || (lanes > 32 && !(several && elements > 8));
  return {x.rows, x.width, lanes, alone ? 1 : threads / lanes, 3};
}

int shared_limit() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return bytes - 1024;  // some is static
}

// Blocks of a kernel that run at once on one multiprocessor; tells CUDA of its shared memory.
int resident_blocks(const void* kernel, int threads, int shared) {
  struct Key {
    const void* kernel;
    int threads, shared, device;
    auto operator<=>(const Key&) const = default;
  };
  static thread_local std::map<Key, int> known;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  const Key key{kernel, threads, shared, device};
  if (const auto found = known.find(key); found != known.end()) return found->second;
  // as much as there is: one kernel runs with several sizes, and the attribute is the largest allowed
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  shared_limit()),
             "shared memory of a norm kernel");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "shared memory carve-out of a norm kernel");
  int blocks = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared),
             "occupancy of a norm kernel");
  require(blocks > 0, "trivium::norm: a block does not fit on a multiprocessor");
  return known[key] = blocks;
}

template <class Arguments>
void launch(void (*kernel)(Arguments), int blocks, int threads, int shared, cudaStream_t stream,
            const Arguments& arguments) {
  kernel<<<blocks, threads, shared, stream>>>(arguments);
  check_launch("norm");
}

// Run `arguments` on the kernel for E columns a thread (`pick` gives it, for E or 0), with as many
// stages as fit; `prepare(blocks, teams)` is called before, once the grid is known. At most
// `most_blocks` on a multiprocessor go over all rows.
template <class T, int kTensors, bool kSeveral, class Arguments, class Pick, class Prepare>
void run(Arguments& arguments, const Matrix& x, bool packed, int threads, int most_blocks,
         cudaStream_t stream, Pick pick, Prepare prepare) {
  int elements = 0;
  if (packed && x.width <= (sizeof(T) == 2 ? kManyColumns : kSomeColumns))
    elements = x.width <= kFewColumns ? 8 : x.width <= kSomeColumns ? 16 : 32;
  Layout layout = layout_for(x, elements, threads, kSeveral);
  const auto shared = [&] {
    return layout.stages * kTensors * elements * layout.lanes * layout.teams *
           static_cast<int>(sizeof(T));
  };
  const int limit = shared_limit();
  while (layout.stages > 1 && shared() > limit) --layout.stages;
  if (shared() > limit) {
    elements = 0;
    layout = layout_for(x, elements, threads, kSeveral);
  }
  const auto kernel = pick(elements);
  const int block = layout.lanes * layout.teams;
  const int resident =
      resident_blocks(reinterpret_cast<const void*>(kernel), block, shared());
  const int64_t needed = (x.rows + layout.teams - 1) / layout.teams;
  const int64_t useful =
      static_cast<int64_t>(multiprocessors()) * std::min(resident, most_blocks);
  const int blocks = static_cast<int>(std::min(needed, useful));
  arguments.layout = layout;
  prepare(blocks, elements ? 1 : layout.teams);
  launch(kernel, blocks, block, shared(), stream, arguments);
}

void require_same(const Tensor& a, const Tensor& b, const char* names) {
  bool same = a.scalar_type() == b.scalar_type() && a.dim() == b.dim();
  for (int64_t d = 0; same && d < a.dim(); ++d) same = a.size(d) == b.size(d);
  require(same, std::string("trivium::norm: ") + names + " differ in shape or dtype");
}

std::vector<int64_t> shape_of(const Tensor& x, bool of_rows = false) {
  std::vector<int64_t> shape;
  for (int64_t d = 0; d + (of_rows ? 1 : 0) < x.dim(); ++d) shape.push_back(x.size(d));
  return shape;
}

struct Outputs {
  Tensor y, sum, mean, rstd;
};

template <bool kAdd, bool kCentred>
Outputs forward(const Tensor& x, const Tensor* residual, const Tensor& weight,
                const std::optional<Tensor>& bias, double eps, bool zero_centered) {
  const OnDeviceOf device(x);
  const ScalarType dtype = x.scalar_type();
  if (kAdd) require_same(x, *residual, "x and residual");
  const Matrix rows(x), others(kAdd ? *residual : x);
  const Vector gain(weight, rows, "weight"), shift(bias, rows, "bias");
  Outputs out{empty(x, shape_of(x), dtype)};
  if (kAdd) out.sum = empty(x, shape_of(x), dtype);
  if (kCentred) out.mean = empty(x, shape_of(x, true), ScalarType::Float);
  out.rstd = empty(x, shape_of(x, true), ScalarType::Float);
  if (rows.rows == 0) return out;
  dispatch_float(dtype, "norm", [&]<class T>() {
    Forward<T> a{};
    a.inputs[0] = rows.template of<T>();
    if (kAdd) a.inputs[1] = others.template of<T>();
    a.gain = gain.template of<T>(dtype, zero_centered ? 1.0f : 0.0f);
    a.bias = shift.template of<T>(dtype);
    a.eps = static_cast<float>(eps);
    a.y = static_cast<T*>(out.y.data_ptr());
    if (kAdd) a.sum = static_cast<T*>(out.sum.data_ptr());
    if (kCentred) a.mean = static_cast<float*>(out.mean.data_ptr());
    a.rstd = static_cast<float*>(out.rstd.data_ptr());
    const auto pick = [](int elements) {
      if constexpr (sizeof(T) == 2) {
        if (elements == 32) return forward_rows<T, 32, kAdd, kCentred>;
      }
      return elements == 8    ? forward_rows<T, 8, kAdd, kCentred>
             : elements == 16 ? forward_rows<T, 16, kAdd, kCentred>
                              : forward_any<T, kAdd, kCentred>;
    };
    run<T, kAdd ? 2 : 1, false>(a, rows, rows.packed(sizeof(T)) && others.packed(sizeof(T)), 256, 32,
                         stream_of(x), pick, [](int, int) {});
  });
  return out;
}

struct Gradients {
  Tensor x, weight, bias;
};

template <bool kAdd, bool kCentred>
Gradients backward(const Tensor& grad, const Tensor& x, const Tensor* direct, const Tensor& weight,
                   const Tensor* mean, const Tensor& rstd, bool zero_centered) {
  constexpr int N = kCentred ? 2 : 1;
  const OnDeviceOf device(x);
  const ScalarType dtype = x.scalar_type();
  require_same(x, grad, "x and its gradient");
  if (kAdd) require_same(x, *direct, "the sum and its gradient");
  const Matrix rows(x), grads(grad), others(kAdd ? *direct : x);
  const Vector gain(weight, rows, "weight");
  const auto statistics = [&](const Tensor& of) {
    require(of.scalar_type() == ScalarType::Float && of.numel() == rows.rows,
            "trivium::norm: mean and rstd must be float32, one for each row");
    return torch::stable::contiguous(of);
  };
  const Tensor scales = statistics(rstd), means = kCentred ? statistics(*mean) : scales;
  const ScalarType gain_dtype = weight.scalar_type();
  Gradients out{empty(x, shape_of(x), dtype), empty(x, shape_of(weight), gain_dtype)};
  if (kCentred) out.bias = empty(x, shape_of(weight), gain_dtype);
  const cudaStream_t stream = stream_of(x);
  int count = 0;  // of partial sums
  Tensor partial = scales;
  if (rows.rows > 0) {
    dispatch_float(dtype, "norm", [&]<class T>() {
      Backward<T> a{};
      a.inputs[0] = grads.template of<T>();
      a.inputs[1] = rows.template of<T>();
      if (kAdd) a.inputs[2] = others.template of<T>();
      a.gain = gain.template of<T>(dtype, zero_centered ? 1.0f : 0.0f);
      a.rstd = static_cast<const float*>(scales.data_ptr());
      if (kCentred) a.mean = static_cast<const float*>(means.data_ptr());
      a.dx = static_cast<T*>(out.x.data_ptr());
      const auto pick = [](int elements) {
        if constexpr (sizeof(T) == 2) {
          if (elements == 32) return backward_rows<T, 32, kAdd, kCentred>;
        }
        return elements == 8    ? backward_rows<T, 8, kAdd, kCentred>
               : elements == 16 ? backward_rows<T, 16, kAdd, kCentred>
                                : backward_any<T, kAdd, kCentred>;
      };
      const bool packed = rows.packed(sizeof(T)) && grads.packed(sizeof(T)) &&
                          (!kAdd || others.packed(sizeof(T)));
      const auto prepare = [&](int blocks, int sums_of_block) {
        count = blocks * sums_of_block;
        partial = empty(x, {count, N, rows.width}, ScalarType::Float);
        a.partial = static_cast<float*>(partial.data_ptr());
      };
      // few blocks, so that their sums, written and read again, stay small beside the rows
      run<T, kAdd ? 3 : 2, true>(a, rows, packed, kThreads, 2, stream, pick, prepare);
    });
  }
  dispatch_float(gain_dtype, "norm", [&]<class W>() {
    const dim3 blocks((rows.width + kSumColumns - 1) / kSumColumns, N);
    sum_partials<W><<<blocks, kSumColumns * kSumRows, 0, stream>>>(
        static_cast<const float*>(partial.data_ptr()), count, rows.width,
        static_cast<W*>(out.weight.data_ptr()),
        kCentred ? static_cast<W*>(out.bias.data_ptr()) : nullptr);
    check_launch("norm");
  });
  return out;
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& weight, double eps,
                                    bool zero_centered) {
  const Outputs out = forward<false, false>(x, nullptr, weight, {}, eps, zero_centered);
  return {out.y, out.rstd};
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& x,
                                             const Tensor& weight, const Tensor& rstd,
                                             bool zero_centered) {
  const Gradients out =
      backward<false, false>(grad, x, nullptr, weight, nullptr, rstd, zero_centered);
  return {out.x, out.weight};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm(const Tensor& x, const Tensor& weight,
                                              std::optional<Tensor> bias, double eps,
                                              bool zero_centered) {
  const Outputs out = forward<false, true>(x, nullptr, weight, bias, eps, zero_centered);
  return {out.y, out.mean, out.rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(const Tensor& grad, const Tensor& x,
                                                       const Tensor& weight, const Tensor& mean,
                                                       const Tensor& rstd, bool zero_centered) {
  const Gradients out = backward<false, true>(grad, x, nullptr, weight, &mean, rstd, zero_centered);
  return {out.x, out.weight, out.bias};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual,
                                                const Tensor& weight, double eps,
                                                bool zero_centered) {
  const Outputs out = forward<true, false>(x, &residual, weight, {}, eps, zero_centered);
  return {out.y, out.sum, out.rstd};
}

std::tuple<Tensor, Tensor> add_rms_norm_backward(const Tensor& grad, const Tensor& grad_sum,
                                                 const Tensor& sum, const Tensor& weight,
                                                 const Tensor& rstd, bool zero_centered) {
  const Gradients out =
      backward<true, false>(grad, sum, &grad_sum, weight, nullptr, rstd, zero_centered);
  return {out.x, out.weight};
}

}  // namespace trivium::norm

STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) {
  using namespace trivium::norm;
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward));
  m.impl("layer_norm", TORCH_BOX(&layer_norm));
  m.impl("layer_norm_backward", TORCH_BOX(&layer_norm_backward));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("add_rms_norm_backward", TORCH_BOX(&add_rms_norm_backward));
}
