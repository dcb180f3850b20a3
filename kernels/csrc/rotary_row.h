// Which elements of a head a thread of the rotary kernel holds, how it turns them, and which position
// a row of packed documents has; on the GPU and on the host, so that a CPU test runs the very
// arithmetic of the kernel.
//
// A head has `half` pairs in its first 2 half elements. Column c of a head is N pairs, kept in two
// packs of N elements: `a` and `b`. How pairs lie in memory is the form.
#pragma once

#include <cstdint>

#ifndef TRIVIUM_HOST_DEVICE
#ifdef __CUDACC__
#define TRIVIUM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TRIVIUM_HOST_DEVICE inline
#endif
#endif

namespace trivium {

enum class Form {
  half = 0,         // pairs (i, i + half), read and written
  interleaved = 1,  // pairs (2i, 2i + 1), read and written
  latent = 2,       // read interleaved, written as halves: multi-head latent attention
  unlatent = 3,     // read as halves, written interleaved: its backward
};

// Where the two packs of column c begin in a head.
struct PackPlace {
  int a, b;
};

// Pairs (2i, 2i + 1) lie inside a pack if it has two elements or more; then, where input and output
// are alike, the packs may lie apart as those of halves do, and neighbours read neighbours.
template <int N, Form F, bool kOutput>
TRIVIUM_HOST_DEVICE PackPlace pack_place(int column, int half) {
  constexpr bool halves = kOutput ? (F == Form::half || F == Form::latent)
                                  : (F == Form::half || F == Form::unlatent);
  if constexpr (halves || (F == Form::interleaved && N > 1))
    return {N * column, half + N * column};
  else
    return {2 * N * column, 2 * N * column + N};
}

// The pair that is j-th of column c, so the angle it turns by.
template <int N, Form F>
TRIVIUM_HOST_DEVICE int pair_of(int column, int j, int half) {
  if constexpr (F == Form::interleaved && N > 1)
    return j < N / 2 ? N / 2 * column + j : half / 2 + N / 2 * column + j - N / 2;
  else
    return N * column + j;
}

// Turn the N pairs of packs a and b by their angles (arXiv 2104.09864): as read, to as written.
template <int N, Form F>
TRIVIUM_HOST_DEVICE void turn(float (&a)[N], float (&b)[N], const float (&cos)[N],
                              const float (&sin)[N]) {
  constexpr bool in_pairs = N > 1 && (F == Form::interleaved || F == Form::latent);
  constexpr bool out_pairs = N > 1 && (F == Form::interleaved || F == Form::unlatent);
  float x[N], y[N];
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int j = 0; j < N; ++j) {
    if constexpr (in_pairs) {
      x[j] = j < N / 2 ? a[(2 * j) % N] : b[(2 * j) % N];
      y[j] = j < N / 2 ? a[(2 * j + 1) % N] : b[(2 * j + 1) % N];
    } else {
      x[j] = a[j];
      y[j] = b[j];
    }
  }
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int j = 0; j < N; ++j) {
    const float first = x[j] * cos[j] - y[j] * sin[j];
    const float second = y[j] * cos[j] + x[j] * sin[j];
    if constexpr (out_pairs) {
      (j < N / 2 ? a[(2 * j) % N] : b[(2 * j) % N]) = first;
      (j < N / 2 ? a[(2 * j + 1) % N] : b[(2 * j + 1) % N]) = second;
    } else {
      a[j] = first;
      b[j] = second;
    }
  }
}

// Context parallelism cuts a length in 2 cp_size equal chunks; rank r holds chunks r and
// 2 cp_size - 1 - r. The index in the whole of index `index` of the `held` that a rank holds.
TRIVIUM_HOST_DEVICE int whole_index(int index, int held, int cp_size, int cp_rank) {
  if (cp_size == 1) return index;
  const int chunk = held / 2;
  if (index < chunk) return cp_rank * chunk + index;
  return (2 * cp_size - 1 - cp_rank) * chunk + index - chunk;
}

// The position, in its document, of row `row` of the `rows` that this rank holds of documents laid
// end to end. cut_row: the whole row is cut for context parallelism; otherwise each document is.
// cumulative: where each of `documents` begins in the whole row, and the end. Rows after the last
// document go on counting.
TRIVIUM_HOST_DEVICE int document_position(const int* cumulative, int documents, int row, int rows,
                                          int cp_size, int cp_rank, bool cut_row) {
  const int place = cut_row ? whole_index(row, rows, cp_size, cp_rank) : row;
  const int parts = cut_row ? 1 : cp_size;
  int low = 0, high = documents - 1;  // the first document that ends after place, or the last
  while (low < high) {
    const int middle = (low + high) / 2;
    if (cumulative[middle + 1] / parts > place) high = middle;
    else low = middle + 1;
  }
  const int begin = cumulative[low] / parts;
  const int index = place - begin;
  return cut_row ? index
                 : whole_index(index, cumulative[low + 1] / parts - begin, cp_size, cp_rank);
}

}  // namespace trivium
