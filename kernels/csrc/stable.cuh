// What every kernel file needs of torch's stable ABI and of CUDA; no torch CUDA headers, no c10.
//
// The library is built once, against torch 2.11's stable ABI, and loads on every later torch: with
// CUDA to run, without it so that tests can look at it. Schemas are defined in Python (registry.py);
// here functions are registered for the CUDA key only:
//
//     STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) { m.impl("rms_norm", TORCH_BOX(&rms_norm)); }
#pragma once

#ifndef TORCH_TARGET_VERSION
#define TORCH_TARGET_VERSION 0x020b000000000000ull
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace trivium {

using torch::stable::Tensor;
using ScalarType = torch::headeronly::ScalarType;
using bf16 = __nv_bfloat16;
using fp16 = __half;

// --- Host side ----------------------------------------------------------------------------------

// Raise in Python with `message` unless `condition` holds.
inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::runtime_error(message);
}

// torch's current stream on the device of `tensor`. The function is in libtorch_cuda, which a CPU build
// of torch lacks and whose symbols Python does not make global: looked up by name in what is loaded.
inline cudaStream_t stream_of(const Tensor& tensor) {
  using Current = AOTITorchError (*)(int32_t device_index, void** stream);
  static const Current current = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Current>(dlsym(library, "aoti_torch_get_current_cuda_stream"))
                   : nullptr;
  }();
  require(current != nullptr, "trivium: libtorch_cuda.so is not loaded: this torch has no CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(current(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Selects the device of a tensor for the life of the object.
struct OnDeviceOf {
  torch::stable::accelerator::DeviceGuard guard;
  explicit OnDeviceOf(const Tensor& tensor) : guard(tensor.get_device_index()) {}
};

// Call after every launch: a bad launch is an exception, not a later surprise.
inline void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  require(error == cudaSuccess, std::string("trivium::") + name + ": " + cudaGetErrorString(error));
}

inline void check_cuda(cudaError_t error, const char* what) {
  require(error == cudaSuccess, std::string("trivium: ") + what + ": " + cudaGetErrorString(error));
}

// Number of multiprocessors of the current device.
inline int multiprocessors() {
  static thread_local int cached[64] = {0};
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  if (device < 64 && cached[device]) return cached[device];
  int count = 0;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  if (device < 64) cached[device] = count;
  return count;
}

inline Tensor empty(const Tensor& like, std::vector<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

inline bool aligned16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Call f.template operator()<T>() with T the CUDA type of a floating dtype (fp32, bf16, fp16).
template <class F>
auto dispatch_float(ScalarType dtype, const char* name, F&& f) {
  switch (dtype) {
    case ScalarType::Float: return f.template operator()<float>();
    case ScalarType::BFloat16: return f.template operator()<bf16>();
    case ScalarType::Half: return f.template operator()<fp16>();
    default:
      throw std::runtime_error(std::string("trivium::") + name +
                               ": dtype must be float32, bfloat16 or float16");
  }
}

// --- Device side --------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(fp16 x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) { return x; }
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
template <>
__device__ __forceinline__ fp16 from_float<fp16>(float x) { return __float2half_rn(x); }

// N elements that are loaded and stored at once: 16 bytes where N = 16 / sizeof(T).
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
  __device__ __forceinline__ T& operator[](int i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};

template <class T>
inline constexpr int kPack = 16 / sizeof(T);

template <class T, int N>
__device__ __forceinline__ Pack<T, N> load(const T* pointer) {
  return *reinterpret_cast<const Pack<T, N>*>(pointer);
}

template <class T, int N>
__device__ __forceinline__ void store(T* pointer, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(pointer) = pack;
}

struct Sum {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
  static constexpr float identity = 0.0f;
};

struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
  static constexpr float identity = -INFINITY;
};

// The reduction over the 32 lanes of a warp, on every lane; always in the same order.
template <class Op>
__device__ __forceinline__ float warp_reduce(float value, Op op = Op()) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

// The reduction over a block of whole warps (at most 1024 threads), on every thread; always in the
// same order. `scratch` is 32 floats of shared memory, free again after the call.
template <class Op>
__device__ __forceinline__ float block_reduce(float value, float* scratch, Op op = Op()) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  value = warp_reduce(value, op);
  if (warps == 1) return value;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = lane < warps ? scratch[lane] : Op::identity;
  value = warp_reduce(value, op);
  __syncthreads();
  return value;
}

}  // namespace trivium
