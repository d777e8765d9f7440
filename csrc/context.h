// Contexts: a thread pool that spins briefly and then sleeps, and work memory that is used again from call to call.
#ifndef BILSTM_CONTEXT_H
#define BILSTM_CONTEXT_H

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace bilstm {

// One stretch of memory, aligned to a huge page when large, grown on demand and never shrunk until freed.
class Memory {
  public:
    Memory() = default;
    ~Memory();
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    Memory(Memory &&other) noexcept;
    // At least `bytes` bytes; contents are lost when it grows. Throws std::bad_alloc.
    void *reserve(size_t bytes);

  private:
    void *data_ = nullptr;
    size_t bytes_ = 0;
};

void *allocate_pages(size_t bytes);  // throws std::bad_alloc; zero only where the system gave fresh pages
void free_pages(void *data);

class Pool;         // threads
class BufferCache;  // memory of `saved` buffers

// Work of a parallel region: item 0 .. count - 1, each done once, by the thread numbered `worker` (0 is the caller).
using Work = void (*)(void *argument, int64_t item, int worker);

}  // namespace bilstm

struct bilstm_context {
    explicit bilstm_context(int threads);
    ~bilstm_context();

    // Call before anything else in every entry point: after fork the pool of the parent (its threads do not exist here,
    // its locks may be held for ever) is abandoned and a new one made.
    void notice_fork();

    // Run all items; returns when all are done. `flush_denormals` sets flush-to-zero and denormals-are-zero in every
    // thread meanwhile. Not re-entrant; the caller holds `lock()`.
    void run(int64_t count, bilstm::Work work, void *argument, bool flush_denormals);

    std::mutex &lock();
    bilstm::Memory &scratch(int slot);  // slots 0 .. 15, the kernels agree among themselves

    std::atomic<int> threads;
    std::shared_ptr<bilstm::BufferCache> buffers;

  private:
    bilstm::Pool *pool_;
    std::atomic<pid_t> pid_;
    bilstm::Memory scratch_[16];
};

#endif
