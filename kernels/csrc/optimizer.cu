// Passes over many tensors at once: AdamW, the sum of squares of a gradient, scaling.
//
// The tensors' addresses travel with the launch, as kernel parameters: nothing is copied to the
// device beforehand, and nothing is read back. Each tensor is cut into chunks, each chunk is a
// block's; so one launch fills the chip whether the tensors are few and large or many and small.
#include <array>

#include "optimizer_row.h"
#include "stable.cuh"

namespace trivium {
namespace {

constexpr int kThreads = 256;
constexpr int kLane = 4;  // elements of a thread at a time: 16 bytes of fp32, 8 of bf16

// Up to kTensors tensors of a launch, kPointers addresses each; less than 4 KB, what any launch takes.
template <int kPointers, int kTensors>
struct Table {
  void* pointers[kPointers][kTensors];
  int64_t sizes[kTensors];  // in elements
  int firsts[kTensors];     // each tensor's first chunk; rising
  int count;
};

// Where a block works: tensor `index`, elements [begin, begin + length).
struct Place {
  int index;
  int64_t begin;
  int length;
};

template <int kChunk, class T>
__device__ __forceinline__ Place place_of_block(const T& table) {
  const int chunk = static_cast<int>(blockIdx.x);
  int low = 0, high = table.count - 1;  // the last tensor that begins at or before the chunk
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.firsts[middle] <= chunk) low = middle;
    else high = middle - 1;
  }
  const int64_t begin = static_cast<int64_t>(chunk - table.firsts[low]) * kChunk;
  const int64_t left = table.sizes[low] - begin;
  return {low, begin, static_cast<int>(left < kChunk ? left : kChunk)};
}

template <class T>
__device__ __forceinline__ bool whole_packs(const T* pointer, int elements) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * elements) == 0;
}

// Call launch(table, chunks) for the tensors, as many at a time as a table holds; empty ones have no
// chunk. `rows` has kPointers addresses for each.
template <int kPointers, int kTensors, int kChunk, class Launch>
void for_tables(const std::vector<std::array<void*, kPointers>>& rows,
                const std::vector<int64_t>& sizes, Launch launch) {
  Table<kPointers, kTensors> table;
  static_assert(sizeof(table) <= 4096 - 128, "the parameters of a launch are at most 4 KB");
  table.count = 0;
  int64_t chunks = 0;
  auto flush = [&] {
    if (table.count) launch(table, static_cast<unsigned>(chunks));
    table.count = 0;
    chunks = 0;
  };
  for (size_t i = 0; i < rows.size(); ++i) {
    if (sizes[i] == 0) continue;
    const int64_t more = (sizes[i] + kChunk - 1) / kChunk;
    if (table.count == kTensors || chunks + more > INT32_MAX) flush();
    for (int p = 0; p < kPointers; ++p) table.pointers[p][table.count] = rows[i][p];
    table.sizes[table.count] = sizes[i];
    table.firsts[table.count] = static_cast<int>(chunks);
    table.count += 1;
    chunks += more;
  }
  flush();
}

// --- AdamW --------------------------------------------------------------------------------------

constexpr int kAdamWChunk = 8192;
constexpr int kAdamWUnroll = 2;
using AdamWTable = Table<5, 64>;  // weight, gradient, first moment, second moment, copy

enum class Copy { none, fp32, bf16, fp16 };

// Write N weights to the copy from element `index` on, in its dtype.
template <int N>
__device__ __forceinline__ void store_copy(void* copy, Copy kind, int64_t index,
                                           const Pack<float, N>& weight) {
  if (kind == Copy::bf16) {
    Pack<bf16, N> low;
#pragma unroll
    for (int i = 0; i < N; ++i) low[i] = from_float<bf16>(weight[i]);
    store(static_cast<bf16*>(copy) + index, low);
  } else if (kind == Copy::fp16) {
    Pack<fp16, N> low;
#pragma unroll
    for (int i = 0; i < N; ++i) low[i] = from_float<fp16>(weight[i]);
    store(static_cast<fp16*>(copy) + index, low);
  } else if (kind == Copy::fp32) {
    store(static_cast<float*>(copy) + index, weight);
  }
}

template <int N, class G, class M>
__device__ __forceinline__ void adamw_pack(Pack<float, N>& weight, const Pack<G, N>& gradient,
                                           Pack<M, N>& first, Pack<M, N>& second, float factor,
                                           const AdamWStep& step) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float one = to_float(first[i]), two = to_float(second[i]);
    adamw_element(weight[i], to_float(gradient[i]) * factor, one, two, step);
    first[i] = from_float<M>(one);
    second[i] = from_float<M>(two);
  }
}

// verdict: null, or [norm, factor on the gradient, not 0: write nothing].
template <class G, class M>
__global__ void __launch_bounds__(kThreads, 4)
    adamw_kernel(const __grid_constant__ AdamWTable table, const AdamWStep step,
                 const float* __restrict__ verdict, const Copy kind) {
  const Place place = place_of_block<kAdamWChunk>(table);
  float* weight = static_cast<float*>(table.pointers[0][place.index]) + place.begin;
  const G* gradient = static_cast<const G*>(table.pointers[1][place.index]) + place.begin;
  M* first = static_cast<M*>(table.pointers[2][place.index]) + place.begin;
  M* second = static_cast<M*>(table.pointers[3][place.index]) + place.begin;
  void* copy = table.pointers[4][place.index];
  float factor = 1.0f, skip = 0.0f;
  if (verdict != nullptr) {
    factor = verdict[1];
    skip = verdict[2];
  }
  // a chunk begins at a multiple of kLane elements, so a tensor's addresses decide for its chunks
  const bool packed =
      whole_packs(weight, kLane) && whole_packs(gradient, kLane) && whole_packs(first, kLane) &&
      whole_packs(second, kLane) &&
      reinterpret_cast<uintptr_t>(copy) % (kind == Copy::fp32 ? 4 * kLane : 2 * kLane) == 0;
  const int packs = packed ? place.length / kLane : 0;
  for (int base = threadIdx.x; base < packs; base += kThreads * kAdamWUnroll) {
    Pack<float, kLane> w[kAdamWUnroll];
    Pack<G, kLane> g[kAdamWUnroll];
    Pack<M, kLane> m[kAdamWUnroll], v[kAdamWUnroll];
#pragma unroll
    for (int u = 0; u < kAdamWUnroll; ++u) {
      const int at = (base + u * kThreads) * kLane;
      if (base + u * kThreads < packs) {
        w[u] = load<float, kLane>(weight + at);
        g[u] = load<G, kLane>(gradient + at);
        m[u] = load<M, kLane>(first + at);
        v[u] = load<M, kLane>(second + at);
      }
    }
    if (skip != 0.0f) return;  // only here: the loads need not wait for the verdict
#pragma unroll
    for (int u = 0; u < kAdamWUnroll; ++u) {
      const int at = (base + u * kThreads) * kLane;
      if (base + u * kThreads < packs) {
        adamw_pack<kLane>(w[u], g[u], m[u], v[u], factor, step);
        store(weight + at, w[u]);
        store(first + at, m[u]);
        store(second + at, v[u]);
        store_copy<kLane>(copy, kind, place.begin + at, w[u]);
      }
    }
  }
  if (skip != 0.0f) return;
  for (int at = packs * kLane + threadIdx.x; at < place.length; at += kThreads) {
    Pack<float, 1> w = load<float, 1>(weight + at);
    Pack<M, 1> m = load<M, 1>(first + at), v = load<M, 1>(second + at);
    adamw_pack<1>(w, load<G, 1>(gradient + at), m, v, factor, step);
    store(weight + at, w);
    store(first + at, m);
    store(second + at, v);
    store_copy<1>(copy, kind, place.begin + at, w);
  }
}

Copy kind_of(const std::vector<Tensor>& copies) {
  if (copies.empty()) return Copy::none;
  switch (copies[0].scalar_type()) {
    case ScalarType::Float: return Copy::fp32;
    case ScalarType::BFloat16: return Copy::bf16;
    case ScalarType::Half: return Copy::fp16;
    default: throw std::runtime_error("trivium::adamw_: copies must be fp32, bf16 or fp16");
  }
}

// The tensors of one argument: as many as there are weights, of their sizes, contiguous, one dtype.
void require_like(const std::vector<Tensor>& tensors, const std::vector<Tensor>& weights,
                  const char* what) {
  const std::string prefix = std::string("trivium::adamw_: ") + what;
  require(tensors.size() == weights.size(), prefix + ": not as many as params");
  for (size_t i = 0; i < tensors.size(); ++i) {
    require(tensors[i].numel() == weights[i].numel(), prefix + ": not of the size of its param");
    require(tensors[i].is_contiguous(), prefix + ": not contiguous");
    require(tensors[i].scalar_type() == tensors[0].scalar_type(), prefix + ": of several dtypes");
    require(tensors[i].get_device_index() == weights[0].get_device_index(),
            prefix + ": on another device");
  }
}

void adamw_(std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> firsts,
            std::vector<Tensor> seconds, std::vector<Tensor> copies, std::optional<Tensor> verdict,
            double lr, double beta1, double beta2, double eps, double weight_decay, int64_t step,
            bool decoupled) {
  if (params.empty()) return;
  require(params[0].scalar_type() == ScalarType::Float, "trivium::adamw_: params must be float32");
  require_like(params, params, "params");
  require_like(grads, params, "grads");
  require_like(firsts, params, "exp_avgs");
  require_like(seconds, params, "exp_avg_sqs");
  if (!copies.empty()) require_like(copies, params, "copies");
  require(firsts[0].scalar_type() == seconds[0].scalar_type(),
          "trivium::adamw_: exp_avgs and exp_avg_sqs must have one dtype");
  const float* judged = nullptr;
  if (verdict.has_value()) {
    require(verdict->scalar_type() == ScalarType::Float && verdict->numel() == 3 &&
                verdict->is_contiguous() &&
                verdict->get_device_index() == params[0].get_device_index(),
            "trivium::adamw_: verdict must be 3 float32 numbers on the device of params");
    judged = static_cast<const float*>(verdict->data_ptr());
  }
  std::vector<std::array<void*, 5>> rows(params.size());
  std::vector<int64_t> sizes(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    sizes[i] = params[i].numel();
    rows[i] = {params[i].data_ptr(), grads[i].data_ptr(), firsts[i].data_ptr(),
               seconds[i].data_ptr(), copies.empty() ? nullptr : copies[i].data_ptr()};
  }
  const AdamWStep constants = adamw_step(lr, beta1, beta2, eps, weight_decay, step, decoupled);
  const Copy kind = kind_of(copies);
  const OnDeviceOf device(params[0]);
  const cudaStream_t stream = stream_of(params[0]);
  auto run = [&]<class G, class M>() {
    for_tables<5, 64, kAdamWChunk>(rows, sizes, [&](const AdamWTable& table, unsigned chunks) {
      adamw_kernel<G, M><<<chunks, kThreads, 0, stream>>>(table, constants, judged, kind);
      check_launch("adamw_");
    });
  };
  dispatch_float(grads[0].scalar_type(), "adamw_", [&]<class G>() {
    switch (firsts[0].scalar_type()) {
      case ScalarType::Float: return run.template operator()<G, float>();
      case ScalarType::BFloat16: return run.template operator()<G, bf16>();
      default: throw std::runtime_error("trivium::adamw_: moments must be float32 or bfloat16");
    }
  });
}

// --- Sum of squares -----------------------------------------------------------------------------

constexpr int kSquaresChunk = 32768;
constexpr int kSquaresUnroll = 4;
using PlainTable = Table<1, 160>;

// partials[chunk]: the sum of the chunk's squares, in fp32 over 128 elements a thread.
template <class T>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const __grid_constant__ PlainTable table, float* __restrict__ partials) {
  constexpr int N = kPack<T>;
  __shared__ float scratch[32];
  const Place place = place_of_block<kSquaresChunk>(table);
  const T* values = static_cast<const T*>(table.pointers[0][place.index]) + place.begin;
  const int packs = whole_packs(values, N) ? place.length / N : 0;
  float sum = 0.0f;
  for (int base = threadIdx.x; base < packs; base += kThreads * kSquaresUnroll) {
    Pack<T, N> x[kSquaresUnroll];
#pragma unroll
    for (int u = 0; u < kSquaresUnroll; ++u)
      if (base + u * kThreads < packs) x[u] = load<T, N>(values + (base + u * kThreads) * N);
#pragma unroll
    for (int u = 0; u < kSquaresUnroll; ++u)
      if (base + u * kThreads < packs) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum += to_float(x[u][i]) * to_float(x[u][i]);
      }
  }
  for (int at = packs * N + threadIdx.x; at < place.length; at += kThreads)
    sum += to_float(values[at]) * to_float(values[at]);
  sum = block_reduce<Sum>(sum, scratch);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

constexpr int kFinishThreads = 1024;

// total[0]: the sum of `count` partials, in fp64 and in one order whatever ran first.
__global__ void __launch_bounds__(kFinishThreads)
    finish_squares_kernel(const float* __restrict__ partials, int64_t count, double* total) {
  __shared__ double sums[kFinishThreads];
  double sum = 0.0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < count; i += kFinishThreads) sum += partials[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kFinishThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) total[0] = sums[0];
}

// The addresses and sizes of those of `tensors` that are of `dtype`.
struct Selected {
  std::vector<std::array<void*, 1>> rows;
  std::vector<int64_t> sizes;
};

Selected select(const std::vector<Tensor>& tensors, ScalarType dtype) {
  Selected selected;
  for (const Tensor& tensor : tensors) {
    if (tensor.scalar_type() != dtype) continue;
    selected.rows.push_back({tensor.data_ptr()});
    selected.sizes.push_back(tensor.numel());
  }
  return selected;
}

constexpr ScalarType kDtypes[] = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};

void require_plain(const std::vector<Tensor>& tensors, const char* name) {
  const std::string prefix = std::string("trivium::") + name + ": tensors ";
  require(!tensors.empty(), prefix + "must be given");
  for (const Tensor& tensor : tensors) {
    const ScalarType dtype = tensor.scalar_type();
    require(dtype == kDtypes[0] || dtype == kDtypes[1] || dtype == kDtypes[2],
            prefix + "must be float32, bfloat16 or float16");
    require(tensor.is_contiguous(), prefix + "must be contiguous");
    require(tensor.get_device_index() == tensors[0].get_device_index(),
            prefix + "must be on one device");
  }
}

Tensor squared_sum(std::vector<Tensor> tensors) {
  require_plain(tensors, "squared_sum");
  int64_t chunks = 0;
  for (const Tensor& tensor : tensors)
    chunks += (tensor.numel() + kSquaresChunk - 1) / kSquaresChunk;
  const OnDeviceOf device(tensors[0]);
  const cudaStream_t stream = stream_of(tensors[0]);
  const Tensor partials = empty(tensors[0], {chunks > 0 ? chunks : 1}, ScalarType::Float);
  const Tensor total = empty(tensors[0], {}, ScalarType::Double);
  float* next = static_cast<float*>(partials.data_ptr());
  for (const ScalarType dtype : kDtypes) {
    const Selected selected = select(tensors, dtype);
    dispatch_float(dtype, "squared_sum", [&]<class T>() {
      for_tables<1, 160, kSquaresChunk>(
          selected.rows, selected.sizes, [&](const PlainTable& table, unsigned count) {
            squares_kernel<T><<<count, kThreads, 0, stream>>>(table, next);
            check_launch("squared_sum");
            next += count;
          });
    });
  }
  finish_squares_kernel<<<1, kFinishThreads, 0, stream>>>(
      static_cast<const float*>(partials.data_ptr()), chunks,
      static_cast<double*>(total.data_ptr()));
  check_launch("squared_sum");
  return total;
}

// --- Verdict ------------------------------------------------------------------------------------

__global__ void judge_kernel(const double* squares, const double* loss, double max_norm,
                             float* verdict) {
  const float norm = static_cast<float>(sqrt(*squares));
  const bool fine = isfinite(norm) && (loss == nullptr || isfinite(*loss));
  const float factor = static_cast<float>(max_norm / (static_cast<double>(norm) + 1e-6));
  verdict[0] = norm;
  verdict[1] = fine && max_norm > 0.0 && factor < 1.0f ? factor : 1.0f;
  verdict[2] = fine ? 0.0f : 1.0f;
}

Tensor judge(Tensor squares, std::optional<Tensor> loss, double max_norm) {
  require(squares.scalar_type() == ScalarType::Double && squares.numel() == 1,
          "trivium::judge: squares must be one float64 number");
  const double* checked = nullptr;
  if (loss.has_value()) {
    require(loss->scalar_type() == ScalarType::Double && loss->numel() == 1 &&
                loss->get_device_index() == squares.get_device_index(),
            "trivium::judge: loss must be one float64 number on the device of squares");
    checked = static_cast<const double*>(loss->data_ptr());
  }
  const OnDeviceOf device(squares);
  const Tensor verdict = empty(squares, {3}, ScalarType::Float);
  judge_kernel<<<1, 1, 0, stream_of(squares)>>>(static_cast<const double*>(squares.data_ptr()),
                                                checked, max_norm,
                                                static_cast<float*>(verdict.data_ptr()));
  check_launch("judge");
  return verdict;
}

// --- Scale --------------------------------------------------------------------------------------

constexpr int kScaleChunk = 16384;
constexpr int kScaleUnroll = 4;

template <class T>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(const __grid_constant__ PlainTable table, const float* __restrict__ factor) {
  constexpr int N = kPack<T>;
  const float by = *factor;
  if (by == 1.0f) return;
  const Place place = place_of_block<kScaleChunk>(table);
  T* values = static_cast<T*>(table.pointers[0][place.index]) + place.begin;
  const int packs = whole_packs(values, N) ? place.length / N : 0;
  for (int base = threadIdx.x; base < packs; base += kThreads * kScaleUnroll) {
    Pack<T, N> x[kScaleUnroll];
#pragma unroll
    for (int u = 0; u < kScaleUnroll; ++u)
      if (base + u * kThreads < packs) x[u] = load<T, N>(values + (base + u * kThreads) * N);
#pragma unroll
    for (int u = 0; u < kScaleUnroll; ++u)
      if (base + u * kThreads < packs) {
#pragma unroll
        for (int i = 0; i < N; ++i) x[u][i] = from_float<T>(to_float(x[u][i]) * by);
        store(values + (base + u * kThreads) * N, x[u]);
      }
  }
  for (int at = packs * N + threadIdx.x; at < place.length; at += kThreads)
    values[at] = from_float<T>(to_float(values[at]) * by);
}

void scale_(std::vector<Tensor> tensors, Tensor factor) {
  require_plain(tensors, "scale_");
  require(factor.scalar_type() == ScalarType::Float && factor.numel() == 1 &&
              factor.get_device_index() == tensors[0].get_device_index(),
          "trivium::scale_: factor must be one float32 number on the device of the tensors");
  const OnDeviceOf device(tensors[0]);
  const cudaStream_t stream = stream_of(tensors[0]);
  for (const ScalarType dtype : kDtypes) {
    const Selected selected = select(tensors, dtype);
    dispatch_float(dtype, "scale_", [&]<class T>() {
      for_tables<1, 160, kScaleChunk>(
          selected.rows, selected.sizes, [&](const PlainTable& table, unsigned count) {
            scale_kernel<T><<<count, kThreads, 0, stream>>>(
                table, static_cast<const float*>(factor.data_ptr()));
            check_launch("scale_");
          });
    });
  }
}

}  // namespace
}  // namespace trivium

STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) {
  m.impl("adamw_", TORCH_BOX(&trivium::adamw_));
  m.impl("squared_sum", TORCH_BOX(&trivium::squared_sum));
  m.impl("judge", TORCH_BOX(&trivium::judge));
  m.impl("scale_", TORCH_BOX(&trivium::scale_));
}
