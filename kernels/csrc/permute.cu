// Tokens to their experts' rows and back, and chunks of rows in another order. The kernels are in
// permute_rows.h; the operators in kernels/permute.py. Nothing here waits for the device.
#include <cstdio>

#include "stable.cuh"
//
#include "permute_rows.h"

namespace trivium {
namespace {

using namespace permute;

constexpr int kHelpers = 32;  // blocks that zero rows which no pair has; usually there are none

// A row map is one int32 tensor: `num_rows` pairs, then tokens + 1 offsets.
struct RowMap {
  const int2* pairs;
  const int* offsets;
};

RowMap row_map_of(const Tensor& map, int64_t tokens, int64_t num_rows, const char* name) {
  require(map.scalar_type() == ScalarType::Int && map.is_cuda() && map.is_contiguous() &&
              map.numel() == 2 * num_rows + tokens + 1,
          std::string("trivium::") + name + ": the row map is not of this many tokens and rows");
  const int* data = static_cast<const int*>(map.data_ptr());
  return {reinterpret_cast<const int2*>(data), data + 2 * num_rows};
}

// Call f.template operator()<V>(width) with the largest V that the rows can be moved by.
template <class F>
void dispatch_unit(int64_t row_bytes, const void* a, const void* b, F&& f) {
  const uintptr_t together =
      uintptr_t(row_bytes) | reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  if (together % 16 == 0) return f.template operator()<uint4>(row_bytes / 16);
  if (together % 8 == 0) return f.template operator()<uint2>(row_bytes / 8);
  if (together % 4 == 0) return f.template operator()<uint32_t>(row_bytes / 4);
  if (together % 2 == 0) return f.template operator()<uint16_t>(row_bytes / 2);
  return f.template operator()<uint8_t>(row_bytes);
}

// Call f.template operator()<P>() with an integer as wide as an element of `probs`.
template <class F>
void dispatch_probs(const std::optional<Tensor>& probs, F&& f) {
  switch (probs ? probs->element_size() : 4) {
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    case 8: return f.template operator()<uint64_t>();
    default: throw std::runtime_error("trivium: probs must have 2, 4 or 8 bytes an element");
  }
}

// Threads for a row of `width` units: whole warps.
unsigned threads_of(int64_t width) {
  return width >= kThreads ? kThreads : unsigned((width + 31) / 32 * 32);
}

std::optional<Tensor> contiguous_or_none(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
}

// A matrix, or a clear refusal.
Tensor matrix(const Tensor& x, const char* name) {
  require(x.dim() == 2, std::string("trivium::") + name + ": tokens and rows must have two dims");
  return torch::stable::contiguous(x);
}

// from [tokens, hidden] to the rows of each token's pairs
void scatter(const Tensor& from, const RowMap& map, int64_t num_rows, const Tensor& rows) {
  const int64_t tokens = from.size(0), bytes = from.size(1) * from.element_size();
  if (num_rows == 0 || bytes == 0) return;
  dispatch_unit(bytes, from.data_ptr(), rows.data_ptr(), [&]<class V>(int64_t width) {
    scatter_rows<V><<<unsigned(tokens + kHelpers), threads_of(width), 0, stream_of(from)>>>(
        static_cast<const V*>(from.data_ptr()), map.pairs, map.offsets, tokens, width,
        int(num_rows), static_cast<V*>(rows.data_ptr()));
  });
  check_launch("moe_permute");
}

// rows to the sums of each token's; weights may be null
void gather(const Tensor& rows, const float* weights, const RowMap& map, int64_t experts,
            const Tensor& to) {
  const int64_t tokens = to.size(0), hidden = to.size(1);
  if (tokens == 0 || hidden == 0) return;
  dispatch_float(rows.scalar_type(), "moe_unpermute", [&]<class T>() {
    const T* from = static_cast<const T*>(rows.data_ptr());
    T* out = static_cast<T*>(to.data_ptr());
    const bool wide = hidden % kPack<T> == 0 && aligned16(from) && aligned16(out);
    const unsigned threads = threads_of(wide ? hidden / kPack<T> : hidden);
    auto launch = [&]<int VEC>() {
      sum_rows<T, VEC><<<unsigned(tokens), threads, 0, stream_of(rows)>>>(
          from, weights, map.pairs, map.offsets, hidden, int(experts), out);
    };
    if (wide) {
      launch.template operator()<kPack<T>>();
    } else {
      launch.template operator()<1>();
    }
  });
  check_launch("moe_unpermute");
}

std::tuple<Tensor, Tensor, Tensor> moe_permute(const Tensor& tokens_,
                                               const std::optional<Tensor>& probs_,
                                               const Tensor& map_, int64_t num_rows) {
  const OnDeviceOf on(tokens_);
  const Tensor tokens = matrix(tokens_, "moe_permute"), map = torch::stable::contiguous(map_);
  const std::optional<Tensor> probs = contiguous_or_none(probs_);
  const int64_t count = tokens.size(0);
  require(map.dim() == 2 && map.size(0) == count && map.scalar_type() == ScalarType::Bool &&
              map.is_cuda(),
          "trivium::moe_permute: routing_map must be bool, [tokens, experts], on the same device");
  const int64_t experts = map.size(1);
  require(1 <= experts && experts <= kMostExperts,
          "trivium::moe_permute: " + std::to_string(experts) + " experts; must be 1 to " +
              std::to_string(kMostExperts));
  require(0 <= num_rows && num_rows < (int64_t(1) << 30) && count < (int64_t(1) << 30),
          "trivium::moe_permute: num_rows or tokens out of range");
  require(!probs || (probs->dim() == 2 && probs->size(0) == count && probs->size(1) == experts &&
                     probs->is_cuda()),
          "trivium::moe_permute: probs must have the shape of routing_map");

  Tensor rows = empty(tokens, {num_rows, tokens.size(1)}, tokens.scalar_type());
  Tensor row_probs = empty(tokens, {probs ? num_rows : 0},
                           probs ? probs->scalar_type() : tokens.scalar_type());
  Tensor row_map = empty(tokens, {2 * num_rows + count + 1}, ScalarType::Int);
  int* pairs = static_cast<int*>(row_map.data_ptr());
  const cudaStream_t stream = stream_of(tokens);
  if (count == 0) {
    check_cuda(cudaMemsetAsync(pairs, 0xff, 8 * num_rows, stream), "cudaMemsetAsync");
    check_cuda(cudaMemsetAsync(pairs + 2 * num_rows, 0, 4, stream), "cudaMemsetAsync");
    for (const Tensor& zeroed : {rows, row_probs})
      if (zeroed.numel() > 0)
        check_cuda(cudaMemsetAsync(zeroed.data_ptr(), 0, zeroed.numel() * zeroed.element_size(),
                                   stream),
                   "cudaMemsetAsync");
    return {rows, row_probs, row_map};
  }
  const int64_t tiles = (count + kTile - 1) / kTile;
  Tensor scratch = empty(tokens, {2 * experts * tiles + experts + tiles}, ScalarType::Int);
  int* before = static_cast<int*>(scratch.data_ptr());
  uint32_t* words = reinterpret_cast<uint32_t*>(before + experts * tiles);
  int* totals = before + 2 * experts * tiles;
  int* ones = totals + experts;
  pack_tiles<<<unsigned(tiles), kThreads, 0, stream>>>(static_cast<const uint8_t*>(map.data_ptr()),
                                                       count, int(experts), int(tiles), words,
                                                       ones);
  check_launch("moe_permute");
  scan_tiles<<<unsigned(experts), kThreads, 0, stream>>>(words, int(tiles), before, totals);
  check_launch("moe_permute");
  dispatch_probs(probs, [&]<class P>() {
    list_pairs<P><<<unsigned(tiles), kThreads, 0, stream>>>(
        words, before, totals, ones, count, int(experts), int(tiles), int(num_rows),
        reinterpret_cast<int2*>(pairs), pairs + 2 * num_rows,
        probs ? static_cast<const P*>(probs->data_ptr()) : nullptr,
        probs ? static_cast<P*>(row_probs.data_ptr()) : nullptr);
  });
  check_launch("moe_permute");
  scatter(tokens, row_map_of(row_map, count, num_rows, "moe_permute"), num_rows, rows);
  return {rows, row_probs, row_map};
}

std::tuple<Tensor, Tensor> moe_permute_backward(const Tensor& grad_rows_,
                                                const std::optional<Tensor>& grad_probs_,
                                                const Tensor& row_map, int64_t tokens,
                                                int64_t experts) {
  const OnDeviceOf on(grad_rows_);
  const Tensor grad_rows = matrix(grad_rows_, "moe_permute_backward");
  const std::optional<Tensor> grad_probs = contiguous_or_none(grad_probs_);
  const int64_t num_rows = grad_rows.size(0);
  const RowMap map = row_map_of(row_map, tokens, num_rows, "moe_permute_backward");
  require(!grad_probs || (grad_probs->numel() == num_rows && grad_probs->is_cuda()),
          "trivium::moe_permute_backward: one weight's gradient for each row");
  Tensor grad_tokens = empty(grad_rows, {tokens, grad_rows.size(1)}, grad_rows.scalar_type());
  gather(grad_rows, nullptr, map, experts, grad_tokens);
  if (!grad_probs) return {grad_tokens, empty(grad_rows, {0, 0}, grad_rows.scalar_type())};
  Tensor spread = empty(grad_rows, {tokens, experts}, grad_probs->scalar_type());
  if (tokens > 0) {
    dispatch_probs(grad_probs, [&]<class P>() {
      spread_probs<P><<<unsigned((tokens + kWarps - 1) / kWarps), kThreads, 0,
                        stream_of(grad_rows)>>>(static_cast<const P*>(grad_probs->data_ptr()),
                                                map.pairs, map.offsets, tokens, int(experts),
                                                static_cast<P*>(spread.data_ptr()));
    });
    check_launch("moe_permute_backward");
  }
  return {grad_tokens, spread};
}

// Contiguous float32 weights.
Tensor weights_of(const Tensor& probs, int64_t tokens) {
  require(probs.dim() == 2 && probs.size(0) == tokens && probs.is_cuda(),
          "trivium::moe_unpermute: probs must be [tokens, experts], on the same device");
  return torch::stable::contiguous(torch::stable::to(probs, ScalarType::Float));
}

Tensor moe_unpermute(const Tensor& rows_, const std::optional<Tensor>& probs,
                     const Tensor& row_map, int64_t tokens) {
  const OnDeviceOf on(rows_);
  const Tensor rows = matrix(rows_, "moe_unpermute");
  const RowMap map = row_map_of(row_map, tokens, rows.size(0), "moe_unpermute");
  std::optional<Tensor> weights;
  if (probs) weights = weights_of(*probs, tokens);
  Tensor out = empty(rows, {tokens, rows.size(1)}, rows.scalar_type());
  gather(rows, weights ? static_cast<const float*>(weights->data_ptr()) : nullptr, map,
         probs ? probs->size(1) : 0, out);
  return out;
}

std::tuple<Tensor, Tensor> moe_unpermute_backward(const Tensor& grad_,
                                                  const std::optional<Tensor>& rows_,
                                                  const std::optional<Tensor>& probs,
                                                  const Tensor& row_map, int64_t num_rows) {
  const OnDeviceOf on(grad_);
  const Tensor grad = matrix(grad_, "moe_unpermute_backward");
  const int64_t tokens = grad.size(0), hidden = grad.size(1);
  const RowMap map = row_map_of(row_map, tokens, num_rows, "moe_unpermute_backward");
  Tensor grad_rows = empty(grad, {num_rows, hidden}, grad.scalar_type());
  if (!probs) {
    scatter(grad, map, num_rows, grad_rows);
    return {grad_rows, empty(grad, {0, 0}, ScalarType::Float)};
  }
  require(rows_.has_value(), "trivium::moe_unpermute_backward: weights need the rows as well");
  const Tensor rows = matrix(*rows_, "moe_unpermute_backward");
  require(rows.size(0) == num_rows && rows.size(1) == hidden &&
              rows.scalar_type() == grad.scalar_type(),
          "trivium::moe_unpermute_backward: rows must be [num_rows, hidden], of grad's dtype");
  const Tensor weights = weights_of(*probs, tokens);
  const int64_t experts = weights.size(1);
  Tensor grad_weights = empty(grad, {tokens, experts}, ScalarType::Float);
  // a warp for each pair of a token, if they were spread evenly
  const int64_t each = tokens > 0 ? (num_rows + tokens - 1) / tokens : 1;
  const unsigned threads = 32 * unsigned(each < 1 ? 1 : each > kWarps ? kWarps : each);
  dispatch_float(grad.scalar_type(), "moe_unpermute_backward", [&]<class T>() {
    const T* g = static_cast<const T*>(grad.data_ptr());
    const T* from = static_cast<const T*>(rows.data_ptr());
    T* to = static_cast<T*>(grad_rows.data_ptr());
    auto launch = [&]<int VEC>() {
      sum_rows_backward<T, VEC>
          <<<unsigned(tokens + kHelpers), threads, 0, stream_of(grad)>>>(
              g, from, static_cast<const float*>(weights.data_ptr()), map.pairs, map.offsets,
              tokens, hidden, int(experts), int(num_rows), to,
              static_cast<float*>(grad_weights.data_ptr()));
    };
    if (hidden % kPack<T> == 0 && aligned16(g) && aligned16(from) && aligned16(to)) {
      launch.template operator()<kPack<T>>();
    } else {
      launch.template operator()<1>();
    }
  });
  check_launch("moe_unpermute_backward");
  return {grad_rows, torch::stable::to(grad_weights, probs->scalar_type())};
}

// A grid that covers `rows` by kThreads, and no more than fills the device.
unsigned covering(int64_t rows) {
  const int64_t needed = (rows + kThreads - 1) / kThreads, most = 8 * int64_t(multiprocessors());
  return unsigned(needed < most ? needed : most);
}

template <bool GATHER>
void move(const Tensor& from, const Tensor& source, const Tensor& to) {
  const int64_t bytes = from.size(1) * from.element_size();
  if (bytes == 0) return;
  dispatch_unit(bytes, from.data_ptr(), to.data_ptr(), [&]<class V>(int64_t width) {
    move_rows<V, GATHER><<<unsigned(from.size(0)), threads_of(width), 0, stream_of(from)>>>(
        static_cast<const V*>(from.data_ptr()), static_cast<const int*>(source.data_ptr()), width,
        static_cast<V*>(to.data_ptr()));
  });
  check_launch("moe_sort_chunks");
}

std::tuple<Tensor, Tensor, Tensor> moe_sort_chunks(const Tensor& rows_,
                                                   const std::optional<Tensor>& probs_,
                                                   const Tensor& sizes_, const Tensor& order_) {
  const OnDeviceOf on(rows_);
  const Tensor rows = matrix(rows_, "moe_sort_chunks");
  const std::optional<Tensor> probs = contiguous_or_none(probs_);
  const Tensor sizes = torch::stable::contiguous(sizes_), order = torch::stable::contiguous(order_);
  const int64_t chunks = sizes.numel(), count = rows.size(0);
  require(sizes.scalar_type() == ScalarType::Long && order.scalar_type() == ScalarType::Long &&
              sizes.is_cuda() && order.is_cuda() && order.numel() == chunks,
          "trivium::moe_sort_chunks: sizes and order must be int64, of one length, on the device");
  require(1 <= chunks && chunks <= kMostChunks,
          "trivium::moe_sort_chunks: " + std::to_string(chunks) + " chunks; must be 1 to " +
              std::to_string(kMostChunks));
  require(count < (int64_t(1) << 30), "trivium::moe_sort_chunks: too many rows");
  require(!probs || (probs->numel() == count && probs->dim() == 1 && probs->is_cuda()),
          "trivium::moe_sort_chunks: probs must be [rows]");
  Tensor sorted = empty(rows, {count, rows.size(1)}, rows.scalar_type());
  Tensor sorted_probs = empty(rows, {probs ? count : 0},
                              probs ? probs->scalar_type() : rows.scalar_type());
  Tensor source = empty(rows, {count}, ScalarType::Int);
  if (count == 0) return {sorted, sorted_probs, source};
  dispatch_probs(probs, [&]<class P>() {
    find_sources<P><<<covering(count), kThreads, 0, stream_of(rows)>>>(
        static_cast<const int64_t*>(sizes.data_ptr()),
        static_cast<const int64_t*>(order.data_ptr()), int(chunks), int(count),
        static_cast<int*>(source.data_ptr()),
        probs ? static_cast<const P*>(probs->data_ptr()) : nullptr,
        probs ? static_cast<P*>(sorted_probs.data_ptr()) : nullptr);
  });
  check_launch("moe_sort_chunks");
  move<true>(rows, source, sorted);
  return {sorted, sorted_probs, source};
}

std::tuple<Tensor, Tensor> moe_sort_chunks_backward(const Tensor& grad_rows_,
                                                    const std::optional<Tensor>& grad_probs_,
                                                    const Tensor& source) {
  const OnDeviceOf on(grad_rows_);
  const Tensor grad_rows = matrix(grad_rows_, "moe_sort_chunks_backward");
  const std::optional<Tensor> grad_probs = contiguous_or_none(grad_probs_);
  const int64_t count = grad_rows.size(0);
  require(source.scalar_type() == ScalarType::Int && source.numel() == count && source.is_cuda() &&
              source.is_contiguous() && (!grad_probs || grad_probs->numel() == count),
          "trivium::moe_sort_chunks_backward: source must be int32, [rows]");
  Tensor rows = empty(grad_rows, {count, grad_rows.size(1)}, grad_rows.scalar_type());
  Tensor probs = empty(grad_rows, {grad_probs ? count : 0},
                       grad_probs ? grad_probs->scalar_type() : grad_rows.scalar_type());
  if (count == 0) return {rows, probs};
  move<false>(grad_rows, source, rows);
  if (grad_probs) {
    dispatch_probs(grad_probs, [&]<class P>() {
      return_probs<P><<<covering(count), kThreads, 0, stream_of(grad_rows)>>>(
          static_cast<const P*>(grad_probs->data_ptr()),
          static_cast<const int*>(source.data_ptr()), int(count),
          static_cast<P*>(probs.data_ptr()));
    });
    check_launch("moe_sort_chunks_backward");
  }
  return {rows, probs};
}

STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) {
  m.impl("moe_permute", TORCH_BOX(&moe_permute));
  m.impl("moe_permute_backward", TORCH_BOX(&moe_permute_backward));
  m.impl("moe_unpermute", TORCH_BOX(&moe_unpermute));
  m.impl("moe_unpermute_backward", TORCH_BOX(&moe_unpermute_backward));
  m.impl("moe_sort_chunks", TORCH_BOX(&moe_sort_chunks));
  m.impl("moe_sort_chunks_backward", TORCH_BOX(&moe_sort_chunks_backward));
}

}  // namespace
}  // namespace trivium
