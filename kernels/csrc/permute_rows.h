// The kernels of permute.cu, apart from torch, so that a test can run them on the host.
//
// Include after what gives to_float, from_float, Pack, load, store and warp_reduce (stable.cuh).
// Blocks have at most kThreads threads, whole warps.
//
// A *pair* is a token and an expert it is routed to. Rows are in the order of experts, then tokens:
// pair -> row. A row map holds `pairs` {row, expert} in the order of tokens, then experts, and
// `offsets`, [tokens + 1], where each token's pairs begin. Rows past the last pair are zero.
#pragma once

namespace trivium::permute {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTile = 32;  // tokens whose routing to one expert is one word
constexpr int kMostExperts = 2048, kMostChunks = 2048;
constexpr int kAtOnce = 4;  // loads in flight per thread

struct Scan {
  int before, total;
};

// Sums of the threads before this one and of all; the block has kThreads threads. `scratch`: kWarps.
__device__ __forceinline__ Scan block_scan(int value, int* scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(~0u, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  int before = 0, total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const int part = scratch[w];
    before += w < warp ? part : 0;
    total += part;
  }
  __syncthreads();
  return {before + sum - value, total};
}

// --- Row map ------------------------------------------------------------------------------------

// A block for each tile. words[expert][tile]: bit i is token tile * 32 + i. ones[tile]: its pairs.
__global__ void __launch_bounds__(kThreads)
    pack_tiles(const uint8_t* __restrict__ map, int64_t tokens, int experts, int tiles,
               uint32_t* __restrict__ words, int* __restrict__ ones) {
  __shared__ int scratch[kWarps];
  const int tile = blockIdx.x;
  const int64_t first = int64_t(tile) * kTile;
  const int rows = tokens - first < kTile ? int(tokens - first) : kTile;
  int count = 0;
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    const uint8_t* column = map + first * experts + e;
    uint32_t word = 0;
    if (rows == kTile) {
#pragma unroll
      for (int i = 0; i < kTile; ++i)
        word |= uint32_t(column[int64_t(i) * experts] != 0) << i;
    } else {
      for (int i = 0; i < rows; ++i) word |= uint32_t(column[int64_t(i) * experts] != 0) << i;
    }
    words[int64_t(e) * tiles + tile] = word;
    count += __popc(word);
  }
  const Scan scan = block_scan(count, scratch);
  if (threadIdx.x == 0) ones[tile] = scan.total;
}

// A block for each expert. before[expert][tile]: its tokens in earlier tiles. totals[expert].
__global__ void __launch_bounds__(kThreads)
    scan_tiles(const uint32_t* __restrict__ words, int tiles, int* __restrict__ before,
               int* __restrict__ totals) {
  __shared__ int scratch[kWarps];
  const int64_t start = int64_t(blockIdx.x) * tiles;
  int carry = 0;
  for (int base = 0; base < tiles; base += kThreads) {
    const int tile = base + threadIdx.x;
    const Scan scan = block_scan(tile < tiles ? __popc(words[start + tile]) : 0, scratch);
    if (tile < tiles) before[start + tile] = carry + scan.before;
    carry += scan.total;
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}

// A block for each tile: its tokens' pairs and, unless `probs` is null, the weights of their rows.
template <class P>
__global__ void __launch_bounds__(kThreads)
    list_pairs(const uint32_t* __restrict__ words, const int* __restrict__ before,
               const int* __restrict__ totals, const int* __restrict__ ones, int64_t tokens,
               int experts, int tiles, int num_rows, int2* __restrict__ pairs,
               int* __restrict__ offsets, const P* __restrict__ probs, P* __restrict__ row_probs) {
  __shared__ int scratch[kWarps];
  __shared__ uint32_t word_of[kMostExperts];
  __shared__ int row_of[kMostExperts];  // of the expert's first token in this tile
  __shared__ int begin_of[kTile];       // in `pairs`
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, tile = blockIdx.x;

  int earlier = 0;
  for (int i = threadIdx.x; i < tile; i += kThreads) earlier += ones[i];
  earlier = block_scan(earlier, scratch).total;

  int total = 0;
  for (int base = 0; base < experts; base += kThreads) {
    const int e = base + threadIdx.x;
    const Scan scan = block_scan(e < experts ? totals[e] : 0, scratch);
    if (e < experts) {
      const int64_t at = int64_t(e) * tiles + tile;
      word_of[e] = words[at];
      row_of[e] = total + scan.before + before[at];
    }
    total += scan.total;
  }
  if (total > num_rows) {
    if (threadIdx.x == 0 && tile == 0)
      printf("trivium::moe_permute: %d pairs of token and expert, but num_rows is %d\n", total,
             num_rows);
    __trap();
  }
  __syncthreads();

  for (int i = warp; i < kTile; i += kWarps) {
    int count = 0;
    for (int e = lane; e < experts; e += 32) count += word_of[e] >> i & 1u;
    count = __reduce_add_sync(~0u, count);
    if (lane == 0) begin_of[i] = count;
  }
  __syncthreads();
  const int count = threadIdx.x < kTile ? begin_of[threadIdx.x] : 0;
  const int begin = earlier + block_scan(count, scratch).before;
  if (threadIdx.x < kTile) {
    const int64_t token = int64_t(tile) * kTile + threadIdx.x;
    begin_of[threadIdx.x] = begin;
    if (token < tokens) offsets[token] = begin;
    if (token == tokens - 1) offsets[tokens] = begin + count;
  }
  __syncthreads();

  for (int i = warp; i < kTile; i += kWarps) {
    const int64_t token = int64_t(tile) * kTile + i;
    if (token >= tokens) break;
    int at = begin_of[i];
    for (int base = 0; base < experts; base += 32) {
      const int e = base + lane;
      const uint32_t word = e < experts ? word_of[e] : 0u;
      const bool routed = word >> i & 1u;
      const uint32_t votes = __ballot_sync(~0u, routed);
      if (routed) {
        const int row = row_of[e] + __popc(word & ((1u << i) - 1u));
        pairs[at + __popc(votes & ((1u << lane) - 1u))] = make_int2(row, e);
        if (probs) row_probs[row] = probs[token * experts + e];
      }
      at += __popc(votes);
    }
  }
  if (tile == tiles - 1) {
    for (int row = total + threadIdx.x; row < num_rows; row += kThreads) {
      pairs[row] = make_int2(-1, -1);
      if (probs) row_probs[row] = P{};
    }
  }
}

// --- Tokens to rows and back --------------------------------------------------------------------

// Blocks past the last token zero the rows that no pair has.
template <class V>
__device__ __forceinline__ void zero_rest(const int* offsets, int64_t tokens, int num_rows,
                                          int64_t width, V* rows) {
  const int64_t helpers = gridDim.x - tokens;
  for (int64_t row = offsets[tokens] + (blockIdx.x - tokens); row < num_rows; row += helpers)
    for (int64_t c = threadIdx.x; c < width; c += blockDim.x) rows[row * width + c] = V{};
}

// A block for each token, and helpers: its row to all its pairs' rows. V: what is moved at once.
template <class V>
__global__ void __launch_bounds__(kThreads)
    scatter_rows(const V* __restrict__ from, const int2* __restrict__ pairs,
                 const int* __restrict__ offsets, int64_t tokens, int64_t width, int num_rows,
                 V* __restrict__ rows) {
  if (blockIdx.x >= tokens) return zero_rest(offsets, tokens, num_rows, width, rows);
  const int begin = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
  from += int64_t(blockIdx.x) * width;
  const int step = blockDim.x;
  for (int64_t c = threadIdx.x; c < width; c += kAtOnce * step) {
    V part[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (c + i * step < width) part[i] = from[c + i * step];
    for (int j = begin; j < end; ++j) {
      V* to = rows + int64_t(pairs[j].x) * width;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (c + i * step < width) to[c + i * step] = part[i];
    }
  }
}

// A block for each token: the sum of its pairs' rows in the order of experts, each times its weight
// [tokens, experts] unless `weights` is null.
template <class T, int VEC>
__global__ void __launch_bounds__(kThreads)
    sum_rows(const T* __restrict__ rows, const float* __restrict__ weights,
             const int2* __restrict__ pairs, const int* __restrict__ offsets, int64_t hidden,
             int experts, T* __restrict__ to) {
  const int64_t token = blockIdx.x;
  const int begin = offsets[token], end = offsets[token + 1];
  for (int64_t c = int64_t(threadIdx.x) * VEC; c < hidden; c += int64_t(blockDim.x) * VEC) {
    float sum[VEC];
#pragma unroll
    for (int v = 0; v < VEC; ++v) sum[v] = 0.0f;
    for (int j = begin; j < end; j += kAtOnce) {
      Pack<T, VEC> part[kAtOnce];
      float weight[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (j + i < end) {
          const int2 pair = pairs[j + i];
          part[i] = load<T, VEC>(rows + int64_t(pair.x) * hidden + c);
          weight[i] = weights ? weights[token * experts + pair.y] : 1.0f;
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (j + i < end) {
#pragma unroll
          for (int v = 0; v < VEC; ++v) sum[v] += weight[i] * to_float(part[i][v]);
        }
      }
    }
    Pack<T, VEC> out;
#pragma unroll
    for (int v = 0; v < VEC; ++v) out[v] = from_float<T>(sum[v]);
    store<T, VEC>(to + token * hidden + c, out);
  }
}

// A block for each token, and helpers: gradients of sum_rows with weights, a warp for each pair.
template <class T, int VEC>
__global__ void __launch_bounds__(kThreads)
    sum_rows_backward(const T* __restrict__ grad, const T* __restrict__ rows,
                      const float* __restrict__ weights, const int2* __restrict__ pairs,
                      const int* __restrict__ offsets, int64_t tokens, int64_t hidden, int experts,
                      int num_rows, T* __restrict__ grad_rows, float* __restrict__ grad_weights) {
  if (blockIdx.x >= tokens) return zero_rest(offsets, tokens, num_rows, hidden, grad_rows);
  const int64_t token = blockIdx.x;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const int end = offsets[token + 1];
  for (int e = threadIdx.x; e < experts; e += blockDim.x) grad_weights[token * experts + e] = 0.0f;
  __syncthreads();
  grad += token * hidden;
  for (int j = offsets[token] + warp; j < end; j += warps) {
    const int2 pair = pairs[j];
    const float weight = weights[token * experts + pair.y];
    const T* row = rows + int64_t(pair.x) * hidden;
    T* to = grad_rows + int64_t(pair.x) * hidden;
    float dot = 0.0f;
#pragma unroll 4
    for (int64_t c = lane * VEC; c < hidden; c += 32 * VEC) {
      const Pack<T, VEC> g = load<T, VEC>(grad + c), x = load<T, VEC>(row + c);
      Pack<T, VEC> out;
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        out[v] = from_float<T>(weight * to_float(g[v]));
        dot += to_float(g[v]) * to_float(x[v]);
      }
      store<T, VEC>(to + c, out);
    }
    dot = warp_reduce<Sum>(dot);
    if (lane == 0) grad_weights[token * experts + pair.y] = dot;
  }
}

// A warp for each token: [tokens, experts] from its rows' weights, 0 where it is not routed to.
template <class P>
__global__ void __launch_bounds__(kThreads)
    spread_probs(const P* __restrict__ row_probs, const int2* __restrict__ pairs,
                 const int* __restrict__ offsets, int64_t tokens, int experts,
                 P* __restrict__ probs) {
  const int lane = threadIdx.x & 31;
  const int64_t token = int64_t(blockIdx.x) * (blockDim.x >> 5) + (threadIdx.x >> 5);
  if (token >= tokens) return;
  P* to = probs + token * experts;
  for (int e = lane; e < experts; e += 32) to[e] = P{};
  __syncwarp();
  const int end = offsets[token + 1];
  for (int j = offsets[token] + lane; j < end; j += 32) to[pairs[j].y] = row_probs[pairs[j].x];
}

// --- Chunks in another order --------------------------------------------------------------------

// source[row]: where a row of the output comes from; its weight unless `probs` is null.
template <class P>
__global__ void __launch_bounds__(kThreads)
    find_sources(const int64_t* __restrict__ sizes, const int64_t* __restrict__ order, int chunks,
                 int rows, int* __restrict__ source, const P* __restrict__ probs,
                 P* __restrict__ sorted_probs) {
  __shared__ int scratch[kWarps];
  __shared__ int start_of[kMostChunks];                     // of an input chunk
  __shared__ int to_of[kMostChunks], from_of[kMostChunks];  // of an output chunk
  int inputs = 0, outputs = 0, bad = 0;
  for (int base = 0; base < chunks; base += kThreads) {
    const int c = base + threadIdx.x;
    const Scan scan = block_scan(c < chunks ? int(sizes[c]) : 0, scratch);
    if (c < chunks) start_of[c] = inputs + scan.before;
    inputs += scan.total;
  }
  __syncthreads();
  for (int base = 0; base < chunks; base += kThreads) {
    const int c = base + threadIdx.x;
    const int64_t chunk = c < chunks ? order[c] : 0;
    const bool known = 0 <= chunk && chunk < chunks;
    bad |= !known;
    const Scan scan = block_scan(c < chunks && known ? int(sizes[chunk]) : 0, scratch);
    if (c < chunks) {
      to_of[c] = outputs + scan.before;
      from_of[c] = known ? start_of[chunk] : 0;
    }
    outputs += scan.total;
  }
  if (bad || inputs != rows || outputs != rows) {
    if (threadIdx.x == 0 && blockIdx.x == 0)
      printf("trivium::moe_sort_chunks: chunks of %d rows, in order %d, but there are %d rows\n",
             inputs, outputs, rows);
    __trap();
  }
  __syncthreads();
  for (int row = blockIdx.x * kThreads + threadIdx.x; row < rows; row += gridDim.x * kThreads) {
    int low = 0, high = chunks - 1;  // the last chunk that begins at or before this row
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (to_of[middle] <= row) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    const int at = from_of[low] + row - to_of[low];
    source[row] = at;
    if (probs) sorted_probs[row] = probs[at];
  }
}

// A block for each row. Gather: to[row] = from[source[row]]; else to[source[row]] = from[row].
template <class V, bool GATHER>
__global__ void __launch_bounds__(kThreads)
    move_rows(const V* __restrict__ from, const int* __restrict__ source, int64_t width,
              V* __restrict__ to) {
  const int64_t there = source[blockIdx.x], here = blockIdx.x;
  from += (GATHER ? there : here) * width;
  to += (GATHER ? here : there) * width;
  const int step = blockDim.x;
  for (int64_t c = threadIdx.x; c < width; c += kAtOnce * step) {
    V part[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (c + i * step < width) part[i] = from[c + i * step];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (c + i * step < width) to[c + i * step] = part[i];
  }
}

// to[source[row]] = from[row]
template <class P>
__global__ void __launch_bounds__(kThreads)
    return_probs(const P* __restrict__ from, const int* __restrict__ source, int rows,
                 P* __restrict__ to) {
  for (int row = blockIdx.x * kThreads + threadIdx.x; row < rows; row += gridDim.x * kThreads)
    to[source[row]] = from[row];
}

}  // namespace trivium::permute
