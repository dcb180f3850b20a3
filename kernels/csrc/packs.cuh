// Packs of N elements as they lie in memory, and as floats: 16-bit elements stay two a register until
// they are used, and are converted two at a time.
#pragma once

#include "stable.cuh"

#include <type_traits>

namespace trivium {

template <class T, int N>
inline constexpr bool kInWords = sizeof(T) == 2 && N % 2 == 0;

// N elements of T: 32-bit words where two fit into one.
template <class T, int N>
using Bits = std::conditional_t<kInWords<T, N>, Pack<uint32_t, (N + 1) / 2>, Pack<T, N>>;

template <class T, int N>
__device__ __forceinline__ Bits<T, N> load_bits(const T* pointer) {
  return *reinterpret_cast<const Bits<T, N>*>(pointer);
}

template <class T, int N>
__device__ __forceinline__ void store_bits(T* pointer, const Bits<T, N>& bits) {
  *reinterpret_cast<Bits<T, N>*>(pointer) = bits;
}

template <class T, int N>
__device__ __forceinline__ void to_floats(const Bits<T, N>& bits, float (&x)[N]) {
  if constexpr (kInWords<T, N>) {
#pragma unroll
    for (int j = 0; j < N / 2; ++j) {
      const uint32_t word = bits[j];
      if constexpr (std::is_same_v<T, bf16>) {
        x[2 * j] = __uint_as_float(word << 16);
        x[2 * j + 1] = __uint_as_float(word & 0xffff0000u);
      } else {
        x[2 * j] = __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffffu)));
        x[2 * j + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = to_float(bits[j]);
  }
}

// Rounded to the nearest, ties to even.
template <class T, int N>
__device__ __forceinline__ Bits<T, N> from_floats(const float (&x)[N]) {
  Bits<T, N> bits;
  if constexpr (kInWords<T, N>) {
#pragma unroll
    for (int j = 0; j < N / 2; ++j) {
      if constexpr (std::is_same_v<T, bf16>) {
        const __nv_bfloat162 two = __floats2bfloat162_rn(x[2 * j], x[2 * j + 1]);
        bits[j] = uint32_t(__bfloat16_as_ushort(two.y)) << 16 | __bfloat16_as_ushort(two.x);
      } else {
        const __half2 two = __floats2half2_rn(x[2 * j], x[2 * j + 1]);
        bits[j] = uint32_t(__half_as_ushort(two.y)) << 16 | __half_as_ushort(two.x);
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) bits[j] = from_float<T>(x[j]);
  }
  return bits;
}

}  // namespace trivium
