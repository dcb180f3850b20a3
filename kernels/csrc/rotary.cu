// Rotary position embedding of one or two tensors in one launch (arXiv 2104.09864).
//
// A block takes a few tokens: it computes their sines and cosines once, into shared memory, and turns
// all their heads. A thread stays with one token and one column (N pairs, two 16-byte packs, see
// rotary_row.h), whose angles it keeps in registers, and walks over heads, two in flight.
// The inverse rotation is the same kernel with the sine's sign changed. Angles are reduced in double
// precision: a few operations a token, and exact at far positions without sincosf's slow path, whose
// registers the packs in flight need.
#include "packs.cuh"

#include "rotary_row.h"

#include <algorithm>

namespace trivium {
namespace {

constexpr int kThreads = 128;
constexpr int kHeads = 2;  // heads that a thread has in flight
constexpr int kTrig = 16 << 10;  // bytes of shared memory for sines and cosines, at most

// A tensor [S, B, heads, D] to turn; strides in elements.
struct Part {
  const void* in;
  void* out;
  int64_t in_s, in_b, in_head;
  int64_t out_s, out_b, out_head;
  int heads;
};

struct Work {
  Part parts[2];
  int num_parts;
  int tokens, batch;       // token t is row t / batch of the sequence, entry t % batch of the batch
  int workers;             // threads of one token and column
  int half, dim, columns;  // columns: those that turn, then those that only pass
  const float* angles;     // [positions, half]
  int64_t angle_row, angle_column;
  int positions;
  float scale, sine;       // factors of cosine and of sine
  const int* cumulative;   // of documents, or null
  int documents, cp_size, cp_rank;
  bool cut_row;
};

// What a thread has in flight: one column of up to kHeads heads.
template <class T, int N>
struct Flight {
  Bits<T, N> a[kHeads], b[kHeads];
};

template <class T, int N>
__device__ __forceinline__ void fetch(Flight<T, N>& flight, const Part& part, const T* in, int head,
                                      int workers, PackPlace from) {
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int h = head + i * workers;
    if (h < part.heads) {
      const T* x = in + h * part.in_head;
      flight.a[i] = load_bits<T, N>(x + from.a);
      flight.b[i] = load_bits<T, N>(x + from.b);
    }
  }
}

template <class T, int N, Form F>
__device__ __forceinline__ void deliver(const Flight<T, N>& flight, const Part& part, T* out, int head,
                                        int workers, PackPlace to, const float (&cos)[N],
                                        const float (&sin)[N]) {
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int h = head + i * workers;
    if (h < part.heads) {
      float x[N], y[N];
      to_floats<T, N>(flight.a[i], x);
      to_floats<T, N>(flight.b[i], y);
      turn<N, F>(x, y, cos, sin);
      T* to_head = out + h * part.out_head;
      store_bits<T, N>(to_head + to.a, from_floats<T, N>(x));
      store_bits<T, N>(to_head + to.b, from_floats<T, N>(y));
    }
  }
}

// One pack a head that only passes.
template <class T, int N>
__device__ __forceinline__ void pass(const Part& part, const T* in, T* out, int first, int workers,
                                     int place) {
  for (int h = first; h < part.heads; h += workers)
    store_bits<T, N>(out + h * part.out_head + place, load_bits<T, N>(in + h * part.in_head + place));
}

template <class T, int N, Form F>
__global__ void __launch_bounds__(kThreads, 5) rotary_kernel(const __grid_constant__ Work work) {
  extern __shared__ float trig[];  // cosines [held][half], sines [held][half], positions [held]
  const int held = blockDim.y / work.workers;  // tokens of a block
  const int half = work.half;
  float* const cosines = trig;
  float* const sines = trig + held * half;
  int* const positions = reinterpret_cast<int*>(trig + 2 * held * half);
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int start = blockIdx.x * held;
  const int count = min(held, work.tokens - start);
  const int token = threadIdx.y / work.workers, worker = threadIdx.y - token * work.workers;
  const int s = (start + token) / work.batch, entry = (start + token) - s * work.batch;
  const int turning = half / N;

  // the first heads are under way while sines and cosines are made
  Flight<T, N> flight;
  if (token < count && threadIdx.x < turning) {
    const Part& part = work.parts[0];
    const T* in = static_cast<const T*>(part.in) + s * part.in_s + entry * part.in_b;
    fetch<T, N>(flight, part, in, worker, work.workers, pack_place<N, F, false>(threadIdx.x, half));
  }

  for (int i = thread; i < count; i += threads) {
    const int row = (start + i) / work.batch;
    int position = row;
    if (work.cumulative)
      position = document_position(work.cumulative, work.documents, row, work.tokens / work.batch,
                                   work.cp_size, work.cp_rank, work.cut_row);
    positions[i] = min(max(position, 0), work.positions - 1);
  }
  __syncthreads();
  for (int i = thread; i < count * half; i += threads) {
    const int token = i / half, pair = i - token * half;
    const double half_turns =
        0.31830988618379067154 *
        work.angles[positions[token] * work.angle_row + pair * work.angle_column];
    float sine, cosine;
    sincospif(static_cast<float>(half_turns - 2.0 * rint(0.5 * half_turns)), &sine, &cosine);
    cosines[i] = cosine * work.scale;
    sines[i] = sine * work.sine;
  }
  __syncthreads();

  if (token >= count) return;
  bool under_way = true;
  for (int column = threadIdx.x; column < work.columns; column += blockDim.x) {
    float cos[N], sin[N];
    if (column < turning) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const int pair = token * half + pair_of<N, F>(column, j, half);
        cos[j] = cosines[pair];
        sin[j] = sines[pair];
      }
    }
    const PackPlace from = pack_place<N, F, false>(column, half);
    const PackPlace to = pack_place<N, F, true>(column, half);
    for (int p = 0; p < work.num_parts; ++p) {
      const Part& part = work.parts[p];
      const T* in = static_cast<const T*>(part.in) + s * part.in_s + entry * part.in_b;
      T* out = static_cast<T*>(part.out) + s * part.out_s + entry * part.out_b;
      if (column >= turning) {
        pass<T, N>(part, in, out, worker, work.workers, 2 * half + N * (column - turning));
        continue;
      }
      for (int head = worker; head < part.heads; head += kHeads * work.workers) {
        if (!under_way) fetch<T, N>(flight, part, in, head, work.workers, from);
        under_way = false;
        deliver<T, N, F>(flight, part, out, head, work.workers, to, cos, sin);
      }
      under_way = false;
    }
  }
}

// --- Host ---------------------------------------------------------------------------------------

// The angles as the operators are given them.
struct Turning {
  Tensor angles;
  std::optional<Tensor> cumulative;
  int64_t form;
  double scale;
  bool inverse;
  int64_t cp_size, cp_rank;
  bool cut_row;
};

bool divisible(const Part& part, int pack) {
  const int64_t all =
      part.in_s | part.in_b | part.in_head | part.out_s | part.out_b | part.out_head;
  return all % pack == 0 && aligned16(part.in) && aligned16(part.out);
}

// A whole tensor [S, B, heads, D] as a part, turned into another of its shape.
Part part_of(const Tensor& in, const Tensor& out) {
  Part part;
  part.in = in.data_ptr();
  part.out = out.data_ptr();
  const auto stride = [](const Tensor& x, int d) { return x.size(d) > 1 ? x.stride(d) : 0; };
  part.in_s = stride(in, 0), part.in_b = stride(in, 1), part.in_head = stride(in, 2);
  part.out_s = stride(out, 0), part.out_b = stride(out, 1), part.out_head = stride(out, 2);
  part.heads = static_cast<int>(in.size(2));
  return part;
}

template <class T, int N, Form F>
void launch(Work work, cudaStream_t stream) {
  int heads = 1;
  for (int p = 0; p < work.num_parts; ++p) heads = std::max(heads, work.parts[p].heads);
  work.columns = work.half / N + (work.dim - 2 * work.half) / N;
  const int across = std::min(work.columns, kThreads);
  int down = kThreads / across;
  // about four heads a thread, so that what a token costs once is shared
  work.workers = 1;
  while (2 * work.workers <= down && 8 * work.workers <= heads) work.workers *= 2;
  int held = down / work.workers;
  held = std::max(1, std::min(held, kTrig / (8 * work.half)));
  while (held > 1 && work.tokens / held < 4 * multiprocessors()) held /= 2;
  down = held * work.workers;
  const dim3 block(static_cast<unsigned>(across), static_cast<unsigned>(down));
  const unsigned grid = static_cast<unsigned>((work.tokens + held - 1) / held);
  const size_t shared = static_cast<size_t>(held) * (8 * work.half + 4);
  require(shared <= 48 << 10, "trivium::rotary: more than 6143 angles a position");
  rotary_kernel<T, N, F><<<grid, block, shared, stream>>>(work);
}

template <class T, int N>
void launch_form(const Work& work, Form form, cudaStream_t stream) {
  switch (form) {
    case Form::half: return launch<T, N, Form::half>(work, stream);
    case Form::interleaved: return launch<T, N, Form::interleaved>(work, stream);
    case Form::latent: return launch<T, N, Form::latent>(work, stream);
    case Form::unlatent: return launch<T, N, Form::unlatent>(work, stream);
  }
}

// Turn the parts; `like` gives dtype, device and, as [S, B, .., D], the sizes.
void run(const char* name, std::vector<Part> parts, const Tensor& like, int64_t dim,
         const Turning& turning) {
  const std::string prefix = std::string("trivium::") + name + ": ";
  const Tensor& angles = turning.angles;
  const int64_t S = like.size(0), B = like.size(1), positions = angles.size(0);
  require(angles.scalar_type() == ScalarType::Float && angles.dim() == 2 && angles.is_cuda(),
          prefix + "angles must be float32 [positions, R / 2] on the device of x");
  require(angles.size(1) >= 1 && 2 * angles.size(1) <= dim,
          prefix + "2 angles.size(1) must be from 2 to the head dim");
  require(turning.form >= 0 && turning.form <= 2, prefix + "form must be 0, 1 or 2");
  require(S * B < (int64_t(1) << 31) - kThreads, prefix + "too many tokens");
  require(dim < (int64_t(1) << 30), prefix + "head dim too large");
  require(turning.cumulative.has_value() || S <= positions, prefix + "fewer angles than positions");

  Work work{};
  work.num_parts = static_cast<int>(parts.size());
  bool empty_work = S * B == 0 || dim == 0, any_head = false;
  for (int p = 0; p < work.num_parts; ++p) {
    work.parts[p] = parts[p];
    any_head = any_head || parts[p].heads > 0;
  }
  if (empty_work || !any_head) return;
  require(positions > 0, prefix + "no angles");
  work.tokens = static_cast<int>(S * B);
  work.batch = static_cast<int>(B);
  work.half = static_cast<int>(angles.size(1));
  work.dim = static_cast<int>(dim);
  work.angles = static_cast<const float*>(angles.data_ptr());
  work.angle_row = angles.stride(0);
  work.angle_column = angles.stride(1);
  work.positions = static_cast<int>(positions);
  work.scale = static_cast<float>(turning.scale);
  work.sine = turning.inverse ? -work.scale : work.scale;
  work.cp_size = static_cast<int>(turning.cp_size);
  work.cp_rank = static_cast<int>(turning.cp_rank);
  work.cut_row = turning.cut_row;
  if (turning.cumulative.has_value()) {
    const Tensor& cumulative = *turning.cumulative;
    require(cumulative.scalar_type() == ScalarType::Int && cumulative.dim() == 1 &&
                cumulative.numel() >= 2 && cumulative.is_contiguous() && cumulative.is_cuda(),
            prefix + "cumulative must be int32 [documents + 1], contiguous, on the device of x");
    require(work.cp_size >= 1 && work.cp_rank >= 0 && work.cp_rank < work.cp_size,
            prefix + "cp_rank must be from 0 to cp_size - 1");
    work.cumulative = static_cast<const int*>(cumulative.data_ptr());
    work.documents = static_cast<int>(cumulative.numel() - 1);
  }
  Form form = static_cast<Form>(turning.form);
  if (form == Form::latent && turning.inverse) form = Form::unlatent;

  const cudaStream_t stream = stream_of(like);
  dispatch_float(like.scalar_type(), name, [&]<class T>() {
    constexpr int N = kPack<T>;
    bool wide = work.half % N == 0 && work.dim % N == 0;
    for (int p = 0; p < work.num_parts; ++p) wide = wide && divisible(work.parts[p], N);
    if (wide) launch_form<T, N>(work, form, stream);
    else launch_form<T, 1>(work, form, stream);
  });
  check_launch(name);
}

// Elements of a head side by side, as the kernel needs them.
Tensor regular(const Tensor& x, const char* name) {
  require(x.dim() == 4, std::string("trivium::") + name + ": x must be [S, B, heads, D]");
  return x.size(3) <= 1 || x.stride(3) == 1 ? x : torch::stable::contiguous(x);
}

Tensor empty_of(const Tensor& x) {
  return empty(x, std::vector<int64_t>(x.sizes().begin(), x.sizes().end()), x.scalar_type());
}

Tensor rotary(Tensor x_, Tensor angles, std::optional<Tensor> cumulative, int64_t form,
              double scale, bool inverse, int64_t cp_size, int64_t cp_rank, bool cut_row) {
  const OnDeviceOf device(x_);
  const Tensor x = regular(x_, "rotary");
  Tensor out = empty_of(x);
  const Turning turning{angles, cumulative, form, scale, inverse, cp_size, cp_rank, cut_row};
  run("rotary", {part_of(x, out)}, x, x.size(3), turning);
  return out;
}

std::tuple<Tensor, Tensor> rotary_pair(Tensor q_, Tensor k_, Tensor angles,
                                       std::optional<Tensor> cumulative, int64_t form, double scale,
                                       bool inverse, int64_t cp_size, int64_t cp_rank,
                                       bool cut_row) {
  const OnDeviceOf device(q_);
  const Tensor q = regular(q_, "rotary_pair"), k = regular(k_, "rotary_pair");
  require(q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3) &&
              q.scalar_type() == k.scalar_type(),
          "trivium::rotary_pair: q and k must have one dtype and differ in heads only");
  Tensor q_out = empty_of(q), k_out = empty_of(k);
  const Turning turning{angles, cumulative, form, scale, inverse, cp_size, cp_rank, cut_row};
  run("rotary_pair", {part_of(q, q_out), part_of(k, k_out)}, q, q.size(3), turning);
  return {q_out, k_out};
}

}  // namespace
}  // namespace trivium

STABLE_TORCH_LIBRARY_IMPL(trivium, CUDA, m) {
  m.impl("rotary", TORCH_BOX(&trivium::rotary));
  m.impl("rotary_pair", TORCH_BOX(&trivium::rotary_pair));
}
