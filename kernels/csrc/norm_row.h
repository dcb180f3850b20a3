// The arithmetic of RMSNorm and LayerNorm on one element, given the sums over its row.
//
// Kernels (norm.cu) and a host test (tests/kernels/test_norm.py) run these same functions. x is the
// input, n = (x - mean) * rstd the normalised input, y = n * gain + bias; RMSNorm (arXiv 1910.07467)
// is the case without mean and bias. Sums are over the `width` elements of a row.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define TRIVIUM_ROW __host__ __device__ __forceinline__
#else
#define TRIVIUM_ROW inline
#endif

namespace trivium::norm {

// 1 / sqrt(variance + eps); for RMSNorm the "variance" is the mean square.
TRIVIUM_ROW float inverse_deviation(float sum_of_squares, int width, float eps) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(width) + eps);
}

template <bool kCentred>
TRIVIUM_ROW float normalised(float x, float mean, float rstd) {
  if constexpr (kCentred) return (x - mean) * rstd;
  return x * rstd;
}

// dL/dx from g = dL/dy and two means over the row: of g * gain, and of g * gain * n.
template <bool kCentred>
TRIVIUM_ROW float input_gradient(float g, float n, float gain, float rstd, float mean_of_g,
                                 float mean_of_gn) {
  if constexpr (kCentred) return rstd * (g * gain - mean_of_g - n * mean_of_gn);
  return rstd * (g * gain - n * mean_of_gn);
}

}  // namespace trivium::norm
