// MoE routing: a warp per token, its experts in registers. See router_row.h and kernels/router.py.
#include "router_row.h"
#include "stable.cuh"

namespace trivium {
namespace {

using router::Rule;

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kMostExperts = 512, kMostGroups = 32;

struct Warp {
  static constexpr int count = 32;
  __device__ __forceinline__ int lane() const { return threadIdx.x & 31; }
  __device__ __forceinline__ uint32_t max(uint32_t x) const { return __reduce_max_sync(~0u, x); }
  __device__ __forceinline__ uint32_t min(uint32_t x) const { return __reduce_min_sync(~0u, x); }
  __device__ __forceinline__ uint32_t bits_or(uint32_t x) const { return __reduce_or_sync(~0u, x); }
  __device__ __forceinline__ float sum(float x) const { return warp_reduce<Sum>(x); }
  __device__ __forceinline__ float largest(float x) const { return warp_reduce<Max>(x); }
};

// The token of this warp, the same for all its lanes.
__device__ __forceinline__ int64_t own_token() {
  return int64_t(blockIdx.x) * kWarps + (threadIdx.x >> 5);
}

// Each lane's items of a row; `beyond` past its end.
template <class T, int ITEMS>
__device__ __forceinline__ void load_row(float (&x)[ITEMS], const T* row, int experts,
                                         float beyond) {
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int e = router::expert_of(Warp(), i);
    x[i] = e < experts ? to_float(row[e]) : beyond;
  }
}

template <int ITEMS>
__device__ __forceinline__ void load_row(bool (&x)[ITEMS], const uint8_t* row, int experts) {
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int e = router::expert_of(Warp(), i);
    x[i] = e < experts && row[e] != 0;
  }
}

template <class T, int ITEMS>
__device__ __forceinline__ void store_row(T* row, const float (&x)[ITEMS], int experts) {
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int e = router::expert_of(Warp(), i);
    if (e < experts) row[e] = from_float<T>(x[i]);
  }
}

template <int ITEMS>
__device__ __forceinline__ void store_row(uint8_t* row, const bool (&x)[ITEMS], int experts) {
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int e = router::expert_of(Warp(), i);
    if (e < experts) row[e] = x[i];
  }
}

template <class T, int ITEMS>
__global__ void __launch_bounds__(kThreads, 4)
    route_kernel(const T* logits, const float* bias, int64_t tokens, Rule rule, T* probs,
                 uint8_t* map) {
  const int64_t token = own_token();
  if (token >= tokens) return;
  const int64_t start = token * rule.experts;
  float x[ITEMS], added[ITEMS];
  bool chosen[ITEMS];
  load_row(x, logits + start, rule.experts, -INFINITY);
  load_row(added, bias, bias ? rule.experts : 0, 0.0f);
  router::route(Warp(), x, added, chosen, rule);
  store_row(probs + start, x, rule.experts);
  store_row(map + start, chosen, rule.experts);
}

template <class T, int ITEMS>
__global__ void __launch_bounds__(kThreads, 4)
    route_backward_kernel(const T* grad, int64_t grad_stride, const T* logits, const uint8_t* map,
                          int64_t tokens, Rule rule, T* grad_logits) {
  const int64_t token = own_token();
  if (token >= tokens) return;
  const int64_t start = token * rule.experts;
  float x[ITEMS], g[ITEMS];
  bool chosen[ITEMS];
  load_row(x, logits + start, rule.experts, -INFINITY);
  load_row(g, grad + token * grad_stride, rule.experts, 0.0f);
  load_row(chosen, map + start, rule.experts);
  router::route_backward(Warp(), x, g, chosen, rule);
  store_row(grad_logits + start, x, rule.experts);
}

template <class T, int ITEMS>
__global__ void __launch_bounds__(kThreads, 4)
    balance_kernel(const T* logits, int64_t tokens, Rule rule, float* scores, uint8_t* map) {
  const int64_t token = own_token();
  if (token >= tokens) return;
  const int64_t start = token * rule.experts;
  float x[ITEMS];
  bool chosen[ITEMS];
  load_row(x, logits + start, rule.experts, -INFINITY);
  router::balance_scores(Warp(), x, chosen, rule);
  store_row(scores + start, x, rule.experts);
  store_row(map + start, chosen, rule.experts);
}

template <class T, int ITEMS>
__global__ void __launch_bounds__(kThreads, 4)
    balance_backward_kernel(const float* grad, int64_t grad_stride, const T* logits,
                            int64_t tokens, Rule rule, T* grad_logits) {
  const int64_t token = own_token();
  if (token >= tokens) return;
  const int64_t start = token * rule.experts;
  float x[ITEMS], g[ITEMS];
  load_row(x, logits + start, rule.experts, -INFINITY);
  load_row(g, grad + token * grad_stride, rule.experts, 0.0f);
  router::balance_backward(Warp(), x, g, rule);
  store_row(grad_logits + start, x, rule.experts);
}

constexpr int kSumThreads = 256;

// partial[block]: its share of the sum of scores * weights; weights are int64 or float.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    weigh_kernel(const T* scores, int64_t rows, int columns, const int64_t* counts,
                 const float* weights, float* partial) {
  __shared__ float scratch[32];
  constexpr int kRows = kSumThreads / 32;
  const int lane = threadIdx.x & 31;
  float sum = 0.0f;
  for (int64_t row = int64_t(blockIdx.x) * kRows + (threadIdx.x >> 5); row < rows;
       row += int64_t(gridDim.x) * kRows) {
    const T* from = scores + row * columns;
#pragma unroll 8
    for (int e = lane; e < columns; e += 32)
      sum += to_float(from[e]) * (counts ? float(counts[e]) : weights[e]);
  }
  sum = block_reduce<Sum>(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumThreads)
    finish_kernel(const float* partial, int count, float factor, float* loss) {
  __shared__ float scratch[32];
  float sum = 0.0f;
  for (int i = threadIdx.x; i < count; i += kSumThreads) sum += partial[i];
  sum = block_reduce<Sum>(sum, scratch);
  if (threadIdx.x == 0) *loss = sum * factor;
}

Rule rule_of(const Tensor& logits, int64_t top_k, int64_t groups, int64_t group_top_k,
             int64_t score, double scale) {
  require(logits.dim() == 2, "trivium::moe_route: logits must be [tokens, experts]");
  const int64_t experts = logits.size(1);
  require(1 <= experts && experts <= kMostExperts,
          "trivium::moe_route: " + std::to_string(experts) + " experts; the kernel takes 1 to " +
              std::to_string(kMostExperts) + ": switch it off (kernels.off)");
  require(1 <= groups && groups <= kMostGroups && experts % groups == 0,
          "trivium::moe_route: " + std::to_string(groups) + " groups of " +
              std::to_string(experts) + " experts; must divide them and be at most " +
              std::to_string(kMostGroups));
  require(1 <= top_k && top_k <= experts && 1 <= group_top_k && group_top_k <= groups,
          "trivium::moe_route: top_k or group_top_k out of range");
  return Rule{int(experts),
              int(top_k),
              int(groups),
              int(group_top_k),
              int(top_k / group_top_k),
              int(experts / groups),
              int(score),
              float(scale)};
}

// Call f.template operator()<ITEMS>() with ITEMS * 32 >= experts.
template <class F>
void dispatch_items(int experts, F&& f) {
  if (experts <= 32) return f.template operator()<1>();
  if (experts <= 128) return f.template operator()<4>();
  if (experts <= 256) return f.template operator()<8>();
  return f.template operator()<16>();
}

unsigned blocks_of(int64_t tokens) { return unsigned((tokens + kWarps - 1) / kWarps); }

// As it is if a row's elements are neighbours (rows may overlap), else a copy of it.
Tensor with_plain_rows(const Tensor& x) {
  return x.stride(1) == 1 ? x : torch::stable::contiguous(x);
}

template <class T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.data_ptr());
}

template <class T>
T* out(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

std::tuple<Tensor, Tensor> moe_route(const Tensor& logits_, const std::optional<Tensor>& bias_,
                                     int64_t top_k, int64_t groups, int64_t group_top_k,
                                     int64_t score, double scale) {
  const OnDeviceOf on(logits_);
  const Rule rule = rule_of(logits_, top_k, groups, group_top_k, score, scale);
  const Tensor logits = torch::stable::contiguous(logits_);
  std::optional<Tensor> bias;
  if (bias_) {
    require(bias_->scalar_type() == ScalarType::Float && bias_->numel() == rule.experts &&
                bias_->is_cuda(),
            "trivium::moe_route: bias must be float32, one for each expert, on the same device");
    bias = torch::stable::contiguous(*bias_);
  }
  const int64_t tokens = logits.size(0);
  Tensor probs = empty(logits, {tokens, rule.experts}, logits.scalar_type());
  Tensor map = empty(logits, {tokens, rule.experts}, ScalarType::Bool);
  if (tokens == 0) return {probs, map};
  dispatch_float(logits.scalar_type(), "moe_route", [&]<class T>() {
    dispatch_items(rule.experts, [&]<int ITEMS>() {
      route_kernel<T, ITEMS><<<blocks_of(tokens), kThreads, 0, stream_of(logits)>>>(
          data<T>(logits), bias ? data<float>(*bias) : nullptr, tokens, rule, out<T>(probs),
          out<uint8_t>(map));
    });
  });
  check_launch("moe_route");
  return {probs, map};
}

Tensor moe_route_backward(const Tensor& grad_, const Tensor& logits_, const Tensor& map_,
                          int64_t top_k, int64_t score, double scale) {
  const OnDeviceOf on(logits_);
  const Rule rule = rule_of(logits_, top_k, 1, 1, score, scale);
  const Tensor grad = with_plain_rows(grad_), logits = torch::stable::contiguous(logits_);
  const Tensor map = torch::stable::contiguous(map_);
  require(grad.scalar_type() == logits.scalar_type() && map.scalar_type() == ScalarType::Bool,
          "trivium::moe_route_backward: grad must have the dtype of logits, chosen must be bool");
  const int64_t tokens = logits.size(0);
  Tensor grad_logits = empty(logits, {tokens, rule.experts}, logits.scalar_type());
  if (tokens == 0) return grad_logits;
  dispatch_float(logits.scalar_type(), "moe_route_backward", [&]<class T>() {
    dispatch_items(rule.experts, [&]<int ITEMS>() {
      route_backward_kernel<T, ITEMS><<<blocks_of(tokens), kThreads, 0, stream_of(logits)>>>(
          data<T>(grad), grad.stride(0), data<T>(logits), data<uint8_t>(map), tokens, rule,
          out<T>(grad_logits));
    });
  });
  check_launch("moe_route_backward");
  return grad_logits;
}

std::tuple<Tensor, Tensor> moe_balance_scores(const Tensor& logits_, int64_t top_k,
                                              int64_t score) {
  const OnDeviceOf on(logits_);
  const Rule rule = rule_of(logits_, top_k, 1, 1, score, 1.0);
  const Tensor logits = torch::stable::contiguous(logits_);
  const int64_t tokens = logits.size(0);
  Tensor scores = empty(logits, {tokens, rule.experts}, ScalarType::Float);
  Tensor map = empty(logits, {tokens, rule.experts}, ScalarType::Bool);
  if (tokens == 0) return {scores, map};
  dispatch_float(logits.scalar_type(), "moe_balance_scores", [&]<class T>() {
    dispatch_items(rule.experts, [&]<int ITEMS>() {
      balance_kernel<T, ITEMS><<<blocks_of(tokens), kThreads, 0, stream_of(logits)>>>(
          data<T>(logits), tokens, rule, out<float>(scores), out<uint8_t>(map));
    });
  });
  check_launch("moe_balance_scores");
  return {scores, map};
}

Tensor moe_balance_scores_backward(const Tensor& grad_, const Tensor& logits_, int64_t score) {
  const OnDeviceOf on(logits_);
  const Rule rule = rule_of(logits_, 1, 1, 1, score, 1.0);
  const Tensor grad = with_plain_rows(grad_), logits = torch::stable::contiguous(logits_);
  require(grad.scalar_type() == ScalarType::Float,
          "trivium::moe_balance_scores_backward: grad must be float32");
  const int64_t tokens = logits.size(0);
  Tensor grad_logits = empty(logits, {tokens, rule.experts}, logits.scalar_type());
  if (tokens == 0) return grad_logits;
  dispatch_float(logits.scalar_type(), "moe_balance_scores_backward", [&]<class T>() {
    dispatch_items(rule.experts, [&]<int ITEMS>() {
      balance_backward_kernel<T, ITEMS><<<blocks_of(tokens), kThreads, 0, stream_of(logits)>>>(
          data<float>(grad), grad.stride(0), data<T>(logits), tokens, rule,
          out<T>(grad_logits));
    });
  });
  check_launch("moe_balance_scores_backward");
  return grad_logits;
}

Tensor moe_balance_loss(const Tensor& scores_, const Tensor& tokens_per_expert_, double factor) {
  const OnDeviceOf on(scores_);
  const Tensor scores = torch::stable::contiguous(scores_);
  const int64_t rows = scores.size(0), columns = scores.size(1);
  require(tokens_per_expert_.numel() == columns && tokens_per_expert_.is_cuda(),
          "trivium::moe_balance_loss: tokens_per_expert must have one number for each column of "
          "scores, on the same device");
  Tensor weights = torch::stable::contiguous(tokens_per_expert_);
  const bool counts = weights.scalar_type() == ScalarType::Long;
  if (!counts && weights.scalar_type() != ScalarType::Float)
    weights = torch::stable::to(weights, ScalarType::Float);
  const int64_t most = 4 * int64_t(multiprocessors());
  const int64_t needed = (rows + kSumThreads / 32 - 1) / (kSumThreads / 32);
  const int blocks = int(needed < most ? needed : most);
  Tensor partial = empty(scores, {blocks}, ScalarType::Float);
  Tensor loss = empty(scores, {}, ScalarType::Float);
  const cudaStream_t stream = stream_of(scores);
  if (blocks > 0) {
    dispatch_float(scores.scalar_type(), "moe_balance_loss", [&]<class T>() {
      weigh_kernel<T><<<blocks, kSumThreads, 0, stream>>>(
          data<T>(scores), rows, int(columns), counts ? data<int64_t>(weights) : nullptr,
          counts ? nullptr : data<float>(weights), out<float>(partial));
    });
    check_launch("moe_balance_loss");
  }
  finish_kernel<<<1, kSumThreads, 0, stream>>>(data<float>(partial), blocks, float(factor),
                                               out<float>(loss));
  check_launch("moe_balance_loss");
  return loss;
}

STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) {
  m.impl("moe_route", TORCH_BOX(&moe_route));
  m.impl("moe_route_backward", TORCH_BOX(&moe_route_backward));
  m.impl("moe_balance_scores", TORCH_BOX(&moe_balance_scores));
  m.impl("moe_balance_scores_backward", TORCH_BOX(&moe_balance_scores_backward));
  m.impl("moe_balance_loss", TORCH_BOX(&moe_balance_loss));
}

}  // namespace
}  // namespace trivium
