// The gate of SwiGLU and GeGLU (arXiv 2002.05202), its derivative, and one element of each pass; on
// the GPU and on the host, so that a CPU test runs the arithmetic of the kernel.
#pragma once

#include <cmath>

#ifndef TRIVIUM_HOST_DEVICE
#ifdef __CUDACC__
#define TRIVIUM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TRIVIUM_HOST_DEVICE inline
#endif
#endif

namespace trivium {

enum class Gate { silu = 0, gelu = 1 };

struct Gated {
  float value;  // act(x)
  float slope;  // act'(x)
};

TRIVIUM_HOST_DEVICE float gate_sigmoid(float x) {
#ifdef __CUDA_ARCH__
  return __fdividef(1.0f, 1.0f + __expf(-x));
#else
  return 1.0f / (1.0f + std::exp(-x));
#endif
}

// The integral of the standard normal density up to x.
TRIVIUM_HOST_DEVICE float normal_below(float x) { return 0.5f + 0.5f * erff(x * 0.70710678f); }

TRIVIUM_HOST_DEVICE float normal_density(float x) {
#ifdef __CUDA_ARCH__
  return 0.39894228f * __expf(-0.5f * x * x);
#else
  return 0.39894228f * std::exp(-0.5f * x * x);
#endif
}

template <Gate G>
TRIVIUM_HOST_DEVICE float gate_value(float x) {
  if constexpr (G == Gate::silu) return x * gate_sigmoid(x);
  return x * normal_below(x);
}

template <Gate G>
TRIVIUM_HOST_DEVICE Gated gate_with_slope(float x) {
  if constexpr (G == Gate::silu) {
    const float s = gate_sigmoid(x);
    return {x * s, s + s * x * (1.0f - s)};
  }
  const float below = normal_below(x);
  return {x * below, below + x * normal_density(x)};
}

// act(gate) * value * weight; the weight is the token's probability, or 1.
template <Gate G>
TRIVIUM_HOST_DEVICE float gated(float gate, float value, float weight) {
  return gate_value<G>(gate) * value * weight;
}

// Turns gate and value into their gradients, for the gradient `grad` of the output. What comes back
// is this element's part of the gradient of the weight.
template <Gate G>
TRIVIUM_HOST_DEVICE float gated_gradient(float grad, float& gate, float& value, float weight) {
  const Gated act = gate_with_slope<G>(gate);
  const float part = grad * act.value * value;
  const float weighted = grad * weight;
  gate = weighted * value * act.slope;
  value = weighted * act.value;
  return part;
}

}  // namespace trivium
