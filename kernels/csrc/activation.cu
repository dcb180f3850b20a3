// SwiGLU and GeGLU, forward and backward, each in one pass over memory (arXiv 2002.05202).
//
// x is [rows, 2F], gate then value; y is [rows, F]. A thread holds a few 16-byte packs of one column
// range and of consecutive rows, all loaded before the first is used. With probabilities the backward
// gives a row to one block, whose reduction is the probability's gradient, in a fixed order.
#include "packs.cuh"

#include "activation_row.h"

namespace trivium {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 2;  // rows that a thread has in flight

template <class T, int N, Gate G>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* __restrict__ x, int64_t x_stride, const float* __restrict__ probs,
                   T* __restrict__ y, int64_t rows, int64_t width) {
  const int64_t column = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (column >= width) return;
  const int64_t group = int64_t(blockDim.y) * kRows;
  for (int64_t first = blockIdx.y * group + threadIdx.y; first < rows; first += gridDim.y * group) {
    Bits<T, N> gate[kRows], value[kRows];
    float weight[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = first + int64_t(i) * blockDim.y;
      if (row < rows) {
        const T* from = x + row * x_stride + column;
        gate[i] = load_bits<T, N>(from);
        value[i] = load_bits<T, N>(from + width);
        weight[i] = probs ? probs[row] : 1.0f;
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = first + int64_t(i) * blockDim.y;
      if (row < rows) {
        float g[N], v[N];
        to_floats<T, N>(gate[i], g);
        to_floats<T, N>(value[i], v);
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] = gated<G>(g[j], v[j], weight[i]);
        store_bits<T, N>(y + row * width + column, from_floats<T, N>(g));
      }
    }
  }
}

// One pack of the backward: gate and value become their gradients; the part of the weight's.
template <class T, int N, Gate G>
__device__ __forceinline__ float turn_to_gradients(const Bits<T, N>& grad, Bits<T, N>& gate,
                                                   Bits<T, N>& value, float weight) {
  float g[N], v[N], out[N], total = 0.0f;
  to_floats<T, N>(gate, g);
  to_floats<T, N>(value, v);
  to_floats<T, N>(grad, out);
#pragma unroll
  for (int j = 0; j < N; ++j) total += gated_gradient<G>(out[j], g[j], v[j], weight);
  gate = from_floats<T, N>(g);
  value = from_floats<T, N>(v);
  return total;
}

template <class T, int N, Gate G>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* __restrict__ grad, int64_t grad_stride, const T* __restrict__ x,
                    int64_t x_stride, T* __restrict__ dx, int64_t rows, int64_t width) {
  const int64_t column = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (column >= width) return;
  const int64_t group = int64_t(blockDim.y) * kRows;
  for (int64_t first = blockIdx.y * group + threadIdx.y; first < rows; first += gridDim.y * group) {
    Bits<T, N> out[kRows], gate[kRows], value[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = first + int64_t(i) * blockDim.y;
      if (row < rows) {
        const T* from = x + row * x_stride + column;
        gate[i] = load_bits<T, N>(from);
        value[i] = load_bits<T, N>(from + width);
        out[i] = load_bits<T, N>(grad + row * grad_stride + column);
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = first + int64_t(i) * blockDim.y;
      if (row < rows) {
        turn_to_gradients<T, N, G>(out[i], gate[i], value[i], 1.0f);
        T* to = dx + row * 2 * width + column;
        store_bits<T, N>(to, gate[i]);
        store_bits<T, N>(to + width, value[i]);
      }
    }
  }
}

template <class T, int N, Gate G>
__global__ void __launch_bounds__(kThreads)
    weighted_backward_kernel(const T* __restrict__ grad, int64_t grad_stride,
                             const T* __restrict__ x, int64_t x_stride,
                             const float* __restrict__ probs, T* __restrict__ dx,
                             float* __restrict__ dprobs, int64_t rows, int64_t width) {
  __shared__ float scratch[32];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float weight = probs[row];
    float total = 0.0f;
    for (int64_t column = int64_t(threadIdx.x) * N; column < width;
         column += int64_t(blockDim.x) * N) {
      const T* from = x + row * x_stride + column;
      Bits<T, N> gate = load_bits<T, N>(from), value = load_bits<T, N>(from + width);
      const Bits<T, N> out = load_bits<T, N>(grad + row * grad_stride + column);
      total += turn_to_gradients<T, N, G>(out, gate, value, weight);
      T* to = dx + row * 2 * width + column;
      store_bits<T, N>(to, gate);
      store_bits<T, N>(to + width, value);
    }
    total = block_reduce<Sum>(total, scratch);
    if (threadIdx.x == 0) dprobs[row] = total;
  }
}

// --- Host ---------------------------------------------------------------------------------------

// A tensor as rows of its last dim, `stride` elements apart.
struct Rows {
  Tensor tensor;  // keeps a copy alive
  int64_t count, stride;
};

Rows rows_of(const Tensor& x) {
  const int64_t last = x.dim() - 1, width = x.size(last);
  int64_t count = 1, stride = width, expected = -1;
  bool regular = width == 1 || x.stride(last) == 1;
  for (int64_t d = last - 1; d >= 0; --d) {
    count *= x.size(d);
    if (x.size(d) == 1) continue;
    if (expected < 0) stride = x.stride(d);
    else regular = regular && x.stride(d) == expected;
    expected = x.stride(d) * x.size(d);
  }
  if (regular) return {x, count, stride};
  return {torch::stable::contiguous(x), count, width};
}

bool vectors(const Rows& rows, int64_t width, int pack) {
  return width % pack == 0 && rows.stride % pack == 0 && aligned16(rows.tensor.data_ptr());
}

struct Shape {
  dim3 grid, block;
};

// Blocks of packs x rows that leave few threads without a column.
Shape shape_of(int64_t rows, int64_t width, int pack) {
  const int64_t packs = (width + pack - 1) / pack;
  int64_t across = packs;
  if (packs > kThreads) {
    int64_t least = -1;
    for (int64_t candidate = kThreads; candidate >= 128; candidate -= 32) {
      const int64_t covered = (packs + candidate - 1) / candidate * candidate;
      if (least < 0 || covered < least) least = covered, across = candidate;
    }
  }
  const int64_t down = kThreads / across;
  const int64_t groups = (rows + down * kRows - 1) / (down * kRows);
  const int64_t grid_y = groups < 65535 ? groups : 65535;
  return {dim3(static_cast<unsigned>((packs + across - 1) / across), static_cast<unsigned>(grid_y)),
          dim3(static_cast<unsigned>(across), static_cast<unsigned>(down))};
}

// Call f.template operator()<T, N, G>() for the dtype and the gate at hand; N is a whole pack if
// fits(elements of a pack), else 1.
template <class Fits, class F>
void dispatch(ScalarType dtype, const char* name, Fits&& fits, int64_t act, F&& f) {
  require(act == 0 || act == 1, std::string("trivium::") + name + ": act must be 0 or 1");
  dispatch_float(dtype, name, [&]<class T>() {
    const bool wide = fits(kPack<T>);
    if (act == 0) {
      if (wide) f.template operator()<T, kPack<T>, Gate::silu>();
      else f.template operator()<T, 1, Gate::silu>();
    } else {
      if (wide) f.template operator()<T, kPack<T>, Gate::gelu>();
      else f.template operator()<T, 1, Gate::gelu>();
    }
  });
}

const float* probs_of(const std::optional<Tensor>& probs, int64_t rows, const char* name) {
  if (!probs.has_value()) return nullptr;
  const std::string prefix = std::string("trivium::") + name + ": probs must be ";
  require(probs->scalar_type() == ScalarType::Float, prefix + "float32");
  require(probs->numel() == rows, prefix + "one a row");
  return static_cast<const float*>(probs->data_ptr());
}

std::vector<int64_t> shape_with(const Tensor& x, int64_t width) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = width;
  return shape;
}

Tensor gated_activation(Tensor x_, std::optional<Tensor> probs_, int64_t act) {
  const char* name = "gated_activation";
  require(x_.dim() >= 1 && x_.size(x_.dim() - 1) % 2 == 0,
          "trivium::gated_activation: the last dim of x must be even");
  const OnDeviceOf device(x_);
  const Rows x = rows_of(x_);
  const int64_t width = x_.size(x_.dim() - 1) / 2;
  std::optional<Tensor> probs = probs_;
  if (probs.has_value()) probs = torch::stable::contiguous(*probs);
  const float* weights = probs_of(probs, x.count, name);
  Tensor y = empty(x_, shape_with(x_, width), x_.scalar_type());
  if (y.numel() == 0) return y;
  const auto fits = [&](int pack) { return vectors(x, width, pack); };
  dispatch(x_.scalar_type(), name, fits, act, [&]<class T, int N, Gate G>() {
    const Shape shape = shape_of(x.count, width, N);
    forward_kernel<T, N, G><<<shape.grid, shape.block, 0, stream_of(x_)>>>(
        static_cast<const T*>(x.tensor.data_ptr()), x.stride, weights,
        static_cast<T*>(y.data_ptr()), x.count, width);
  });
  check_launch(name);
  return y;
}

std::tuple<Tensor, Tensor> gated_activation_backward(Tensor grad_, Tensor x_,
                                                     std::optional<Tensor> probs_, int64_t act) {
  const char* name = "gated_activation_backward";
  require(x_.dim() >= 1 && x_.size(x_.dim() - 1) % 2 == 0,
          "trivium::gated_activation_backward: the last dim of x must be even");
  require(grad_.scalar_type() == x_.scalar_type() && grad_.numel() * 2 == x_.numel() &&
              grad_.dim() == x_.dim(),
          "trivium::gated_activation_backward: grad must be [..., F] in the dtype of x [..., 2F]");
  const OnDeviceOf device(x_);
  const Rows x = rows_of(x_), grad = rows_of(grad_);
  const int64_t width = x_.size(x_.dim() - 1) / 2;
  std::optional<Tensor> probs = probs_;
  if (probs.has_value()) probs = torch::stable::contiguous(*probs);
  const float* weights = probs_of(probs, x.count, name);
  Tensor dx = empty(x_, shape_with(x_, 2 * width), x_.scalar_type());
  std::vector<int64_t> tokens{0};
  if (probs.has_value()) tokens.assign(x_.sizes().begin(), x_.sizes().end() - 1);
  Tensor dprobs = empty(x_, tokens, ScalarType::Float);
  if (x.count == 0) return {dx, dprobs};
  if (width == 0) {
    if (probs.has_value()) torch::stable::zero_(dprobs);
    return {dx, dprobs};
  }
  const auto fits = [&](int pack) {
    return vectors(x, width, pack) && vectors(grad, width, pack);
  };
  dispatch(x_.scalar_type(), name, fits, act, [&]<class T, int N, Gate G>() {
    const T* from = static_cast<const T*>(x.tensor.data_ptr());
    const T* grads = static_cast<const T*>(grad.tensor.data_ptr());
    T* to = static_cast<T*>(dx.data_ptr());
    if (!probs.has_value()) {
      const Shape shape = shape_of(x.count, width, N);
      backward_kernel<T, N, G><<<shape.grid, shape.block, 0, stream_of(x_)>>>(
          grads, grad.stride, from, x.stride, to, x.count, width);
    } else {
      const int64_t warps = (width + 32 * N - 1) / (32 * N);
      const unsigned threads = warps < 8 ? static_cast<unsigned>(warps) * 32 : kThreads;
      const unsigned blocks =
          static_cast<unsigned>(x.count < 0x7fffffff ? x.count : 0x7fffffff);
      weighted_backward_kernel<T, N, G><<<blocks, threads, 0, stream_of(x_)>>>(
          grads, grad.stride, from, x.stride, weights, to,
          static_cast<float*>(dprobs.data_ptr()), x.count, width);
    }
  });
  check_launch(name);
  return {dx, dprobs};
}

}  // namespace
}  // namespace trivium

STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) {
  m.impl("gated_activation", TORCH_BOX(&trivium::gated_activation));
  m.impl("gated_activation_backward", TORCH_BOX(&trivium::gated_activation_backward));
}
