// CUDA kernels run by the host's compiler: a block's threads are fibers, switched where they wait
// for each other. For tests of indices and order; one block at a time, fp32 only.
//
//     launch(blocks, threads, [&] { kernel(arguments); });   // false if a thread trapped
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__

struct Index {
  unsigned x;
};
struct int2 {
  int x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }

inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

struct Trap {};

struct Meeting {  // of the threads of a block, or of a warp
  int members = 0, arrived = 0, round = 0;
};

struct Fiber {
  ucontext_t context;  // where it begins; from then on `resume`, which needs no system call
  jmp_buf resume;
  std::unique_ptr<char[]> stack;
  bool begun = false, done = false;
  unsigned exchanges = 0;
};

inline std::vector<Fiber> fibers;  // kept from block to block
inline jmp_buf scheduler;
inline unsigned running = 0;
inline Meeting block_meeting, warp_meetings[32];
inline uint32_t slots[2][32][32];  // in turn: who is a step ahead writes into the other
inline const std::function<void()>* body = nullptr;
inline bool trapped = false;

inline void yield() {
  if (_setjmp(fibers[running].resume) == 0) _longjmp(scheduler, 1);
}

inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler)) return;
  if (fiber.begun) _longjmp(fiber.resume, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}

inline void wait(Meeting& meeting) {
  const int round = meeting.round;
  if (++meeting.arrived == meeting.members) {
    meeting.arrived = 0;
    ++meeting.round;
    return;
  }
  while (meeting.round == round) yield();
}

inline void run_fiber() {
  try {
    (*body)();
  } catch (const Trap&) {
    trapped = true;
  }
  fibers[running].done = true;
  yield();
}

// Every lane's value, to every lane of the warp.
template <class T, class F>
T among(T value, F&& read) {
  static_assert(sizeof(T) == 4);
  uint32_t(&slot)[32] = slots[fibers[running].exchanges++ % 2][threadIdx.x / 32];
  Meeting& meeting = warp_meetings[threadIdx.x / 32];
  memcpy(&slot[threadIdx.x % 32], &value, 4);
  wait(meeting);
  T all[32];
  memcpy(all, slot, sizeof all);
  return read(all);
}

}  // namespace host

inline bool launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  using namespace host;
  body = &kernel;
  trapped = false;
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks && !trapped; ++blockIdx.x) {
    block_meeting = {int(threads), 0, 0};
    for (Meeting& meeting : warp_meetings) meeting = {32, 0, 0};
    if (fibers.size() < threads) fibers.resize(threads);
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = fibers[i];
      constexpr size_t kStack = 64 << 10;
      if (!fiber.stack) fiber.stack.reset(new char[kStack]);
      fiber.begun = fiber.done = false;
      fiber.exchanges = 0;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      makecontext(&fiber.context, run_fiber, 0);
    }
    for (unsigned left = threads; left > 0 && !trapped;) {  // a trap ends the others where they are
      for (running = 0; running < threads; ++running) {
        if (fibers[running].done) continue;
        threadIdx.x = running;
        resume(fibers[running]);
        left -= fibers[running].done;
      }
    }
  }
  return !trapped;
}

inline void __syncthreads() { host::wait(host::block_meeting); }
inline void __syncwarp() { host::wait(host::warp_meetings[threadIdx.x / 32]); }
inline void __trap() { throw host::Trap(); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }

inline int __shfl_up_sync(uint32_t, int value, int distance) {
  const int lane = threadIdx.x % 32;
  return host::among(value,
                     [&](const int* all) { return all[lane < distance ? lane : lane - distance]; });
}
template <class T>
T __shfl_xor_sync(uint32_t, T value, int mask) {
  const int lane = threadIdx.x % 32;
  return host::among(value, [&](const T* all) { return all[lane ^ mask]; });
}
inline uint32_t __ballot_sync(uint32_t, bool vote) {
  return host::among(uint32_t(vote), [](const uint32_t* all) {
    uint32_t votes = 0;
    for (int i = 0; i < 32; ++i) votes |= all[i] << i;
    return votes;
  });
}
template <class T, class F>
T reduce_lanes(T value, F&& op) {
  return host::among(value, [&](const T* all) {
    T result = all[0];
    for (int i = 1; i < 32; ++i) result = op(result, all[i]);
    return result;
  });
}
template <class T>
T __reduce_add_sync(uint32_t, T x) {
  return reduce_lanes(x, [](T a, T b) { return a + b; });
}
inline uint32_t __reduce_max_sync(uint32_t, uint32_t x) {
  return reduce_lanes(x, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
}
inline uint32_t __reduce_min_sync(uint32_t, uint32_t x) {
  return reduce_lanes(x, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
}
inline uint32_t __reduce_or_sync(uint32_t, uint32_t x) {
  return reduce_lanes(x, [](uint32_t a, uint32_t b) { return a | b; });
}

// --- What kernels have from stable.cuh --------------------------------------------------------------

namespace trivium {

inline float to_float(float x) { return x; }
template <class T>
T from_float(float x) {
  return x;
}

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
  T& operator[](int i) { return values[i]; }
  const T& operator[](int i) const { return values[i]; }
};

template <class T, int N>
Pack<T, N> load(const T* pointer) {
  return *reinterpret_cast<const Pack<T, N>*>(pointer);
}
template <class T, int N>
void store(T* pointer, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(pointer) = pack;
}

struct Sum {
  float operator()(float a, float b) const { return a + b; }
};
struct Max {
  float operator()(float a, float b) const { return fmaxf(a, b); }
};
template <class Op>
float warp_reduce(float value, Op op = Op()) {
  for (int offset = 16; offset > 0; offset /= 2)
    value = op(value, __shfl_xor_sync(~0u, value, offset));
  return value;
}

}  // namespace trivium
