// Copies from device to shared memory that run while the thread goes on (sm_80 and later), and a
// barrier for some warps of a block. A thread that reads back only what it copied itself needs no
// barrier: it waits for its own copies.
#pragma once

namespace trivium {

// Start copying 16 bytes, both sides aligned to 16; zeros are written if the source is not `there`
// (it is then not read, but must be a device pointer).
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool there) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global),
               "r"(there ? 16 : 0)
               : "memory");
}

// Copies started since the last call are one group.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Wait until at most the `kPending` latest groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Barrier number `id` (1 to 15) of `threads` threads, whole warps.
__device__ __forceinline__ void sync_some(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace trivium
