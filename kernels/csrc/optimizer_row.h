// One element of AdamW, on the GPU and on the host: a CPU test runs the arithmetic of the kernel.
#pragma once

#include <math.h>

#include <cstdint>

#ifdef __CUDACC__
#define TRIVIUM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TRIVIUM_HOST_DEVICE inline
#endif

namespace trivium {

// The constants of one update, made of the settings in double precision on the host.
struct AdamWStep {
  float decay;           // this much of the weight is taken off it: lr * weight_decay; 0 for Adam
  float coupled;         // this much of the weight is added to its gradient (Adam); 0 for AdamW
  float beta1, rest1;    // beta1, 1 - beta1
  float beta2, rest2;    // beta2, 1 - beta2
  float rate;            // lr / (1 - beta1^step)
  float inverse_root;    // 1 / sqrt(1 - beta2^step)
  float eps;
};

inline AdamWStep adamw_step(double lr, double beta1, double beta2, double eps, double weight_decay,
                            int64_t step, bool decoupled) {
  const double count = static_cast<double>(step);
  AdamWStep s;
  s.decay = static_cast<float>(decoupled ? lr * weight_decay : 0.0);
  s.coupled = static_cast<float>(decoupled ? 0.0 : weight_decay);
  s.beta1 = static_cast<float>(beta1);
  s.rest1 = static_cast<float>(1.0 - beta1);
  s.beta2 = static_cast<float>(beta2);
  s.rest2 = static_cast<float>(1.0 - beta2);
  s.rate = static_cast<float>(lr / (1.0 - pow(beta1, count)));
  s.inverse_root = static_cast<float>(1.0 / sqrt(1.0 - pow(beta2, count)));
  s.eps = static_cast<float>(eps);
  return s;
}

// Loshchilov and Hutter, arXiv 1711.05101, algorithm 2: moments first, then the weight, in place.
TRIVIUM_HOST_DEVICE void adamw_element(float& weight, float gradient, float& first, float& second,
                                       const AdamWStep& s) {
  gradient += s.coupled * weight;
  first = s.beta1 * first + s.rest1 * gradient;
  second = s.beta2 * second + s.rest2 * (gradient * gradient);
  const float denominator = sqrtf(second) * s.inverse_root + s.eps;
  weight -= s.decay * weight;  // not weight * (1 - decay): a decay of 1e-6 would be rounded by 3 %
  weight -= s.rate * first / denominator;
}

}  // namespace trivium
