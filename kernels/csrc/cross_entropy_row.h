// The arithmetic of one row of logits, for the kernels and, compiled by g++, for a test of them.
//
// Statistics are taken online (Milakov and Gimelshein, arXiv 1805.02867) relative to the largest
// logit so far, so parts of a row can be taken in any cut and merged. Whole exponents are in base 2.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define TRIVIUM_BOTH __host__ __device__ __forceinline__
#else
#define TRIVIUM_BOTH inline
#endif

namespace trivium::cross_entropy {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
// Below every exponent that matters, and finite: 0 x kFloor is 0 where 0 x -inf is not. max(x,
// kFloor) is also kFloor for x = -inf - -inf, which is not a number.
constexpr float kFloor = -1e30f;

TRIVIUM_BOTH float exp2_of(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// high: the largest logit; total: sum of e^(x - high); weighted: sum of e^(x - high) t with
// t = (x - high) log2(e), kept only where the entropy is asked for.
struct Statistics {
  float high = -INFINITY, total = 0.0f, weighted = 0.0f;
};

// What to subtract from logits whose largest is `high`: that, or 0 where all are -inf.
TRIVIUM_BOTH float base_of(float high) { return high == -INFINITY ? 0.0f : high; }

// Multiply what was taken relative to `from` so that it is relative to `base`, at least `from`.
template <bool kEntropy>
TRIVIUM_BOTH Statistics rebased(Statistics s, float base) {
  const float shift = fmaxf((s.high - base) * kLog2E, kFloor), scale = exp2_of(shift);
  if constexpr (kEntropy) s.weighted = (s.weighted + shift * s.total) * scale;
  s.total *= scale;
  return s;
}

template <bool kEntropy>
TRIVIUM_BOTH Statistics merged(const Statistics& one, const Statistics& other) {
  const float high = fmaxf(one.high, other.high), base = base_of(high);
  const Statistics a = rebased<kEntropy>(one, base), b = rebased<kEntropy>(other, base);
  return {high, a.total + b.total, kEntropy ? a.weighted + b.weighted : 0.0f};
}

// Add N logits. A logit that is no number makes the total no number, and with it the loss.
template <bool kEntropy, int N>
TRIVIUM_BOTH void add(Statistics& s, const float (&x)[N]) {
  float high = s.high;
  for (int i = 0; i < N; ++i) high = fmaxf(high, x[i]);
  const float base = base_of(high);
  const Statistics before = rebased<kEntropy>(s, base);
  float total = 0.0f, weighted = 0.0f;
  for (int i = 0; i < N; ++i) {
    const float t = (x[i] - base) * kLog2E, e = exp2_of(t);
    total += e;
    if constexpr (kEntropy) weighted += e * fmaxf(t, kFloor);
  }
  s.high = high;
  s.total = before.total + total;
  if constexpr (kEntropy) s.weighted = before.weighted + weighted;
}

// nll = -log p(label), 0 for a negative label; logsumexp; entropy = -sum p log p, 0 if not asked for.
struct Scores {
  float nll, logsumexp, entropy, high, total;
};

template <bool kEntropy>
TRIVIUM_BOTH Scores scores_of(const Statistics& s, float target, bool ignored) {
  const float log_total = logf(s.total);
  return {ignored ? 0.0f : (s.high - target) + log_total, s.high + log_total,
          kEntropy ? log_total - s.weighted * kLn2 / s.total : 0.0f, s.high, s.total};
}

// The gradient of  by_nll nll + by_logsumexp logsumexp + by_entropy entropy  in the logits of a row:
//   p (by_nll + by_logsumexp - by_entropy (log p + entropy)) - by_nll [label]
struct RowGradient {
  float base, inverse, log_total, entropy, scale, by_entropy, at_label;
};

TRIVIUM_BOTH RowGradient gradient_of(const Scores& scores, float by_nll, float by_logsumexp,
                                     float by_entropy, bool ignored) {
  const float by_label = ignored ? 0.0f : by_nll;
  return {base_of(scores.high), 1.0f / scores.total, logf(scores.total), scores.entropy,
          by_label + by_logsumexp, by_entropy, by_label};
}

// Of one logit, the label's share aside.
template <bool kEntropy>
TRIVIUM_BOTH float gradient_at(const RowGradient& row, float x) {
  const float below = x - row.base, p = exp2_of(below * kLog2E) * row.inverse;
  if constexpr (!kEntropy) return p * row.scale;
  const float log_p = fmaxf(below - row.log_total, kFloor);
  return p * (row.scale - row.by_entropy * (log_p + row.entropy));
}

}  // namespace trivium::cross_entropy
