#include "context.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>

#include "bilstm_engine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bilstm {

namespace {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kCacheLine = 64;

void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Flush-to-zero and denormals-are-zero while alive. Without it vanishing gradients make float32 ten times slower.
class FlushDenormals {
  public:
    explicit FlushDenormals(bool active) : active_(active) {
        if (!active_) return;
#if defined(__x86_64__)
        before_ = _mm_getcsr();
        _mm_setcsr(before_ | 0x8040);
#elif defined(__aarch64__)
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | (uint64_t(1) << 24)));
#endif
    }
    ~FlushDenormals() {
        if (!active_) return;
#if defined(__x86_64__)
        _mm_setcsr(before_);
#elif defined(__aarch64__)
        asm volatile("msr fpcr, %0" : : "r"(before_));
#endif
    }
    FlushDenormals(const FlushDenormals &) = delete;
    FlushDenormals &operator=(const FlushDenormals &) = delete;

  private:
    bool active_;
#if defined(__x86_64__)
    unsigned before_ = 0;
#else
    uint64_t before_ = 0;
#endif
};

}  // namespace

void *allocate_pages(size_t bytes) {
    void *data = nullptr;
    if (posix_memalign(&data, bytes >= kHugePage ? kHugePage : kCacheLine, bytes > 0 ? bytes : 1) != 0) {
        throw std::bad_alloc();
    }
#if defined(MADV_HUGEPAGE)
    // Advice only: a refusal changes nothing. Whole pages only: the rest of the last one would count as used memory.
    if (bytes >= kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    return data;
}

void free_pages(void *data) { std::free(data); }

Memory::~Memory() { free_pages(data_); }

Memory::Memory(Memory &&other) noexcept : data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
    other.bytes_ = 0;
}

void *Memory::reserve(size_t bytes) {
    if (bytes > bytes_ || data_ == nullptr) {
        free_pages(data_);
        data_ = nullptr;
        bytes_ = 0;
        data_ = allocate_pages(bytes);
        bytes_ = bytes;
    }
    return data_;
}

// Memory for `saved` buffers: a released buffer is given out again when it is large enough and not much too large.
// Its header lies one cache line before the data. Buffers hold the cache alive, so they may outlive their context.
class BufferCache {
  public:
    struct Header {
        std::shared_ptr<BufferCache> cache;
        size_t bytes;
    };
    static constexpr size_t kHeader = kCacheLine;
    static constexpr size_t kKept = 8;
    static_assert(sizeof(Header) <= kHeader);

    ~BufferCache() {
        for (Header *header : kept_) free_pages(header);
    }

    static void *acquire(const std::shared_ptr<BufferCache> &cache, size_t bytes) {
        Header *header = cache->take(bytes);
        if (header == nullptr) {
            header = static_cast<Header *>(allocate_pages(bytes + kHeader));
            new (header) Header{nullptr, bytes};
        }
        header->cache = cache;
        return reinterpret_cast<char *>(header) + kHeader;
    }

    static void release(void *data) {
        Header *header = reinterpret_cast<Header *>(static_cast<char *>(data) - kHeader);
        const std::shared_ptr<BufferCache> cache = std::move(header->cache);
        header->cache = nullptr;
        cache->keep(header);
    }

  private:
    Header *take(size_t bytes) {
        const std::unique_lock<std::mutex> guard(mutex_, std::try_to_lock);
        if (!guard.owns_lock()) return nullptr;  // never wait: after fork the lock may be held for ever
        for (size_t i = kept_.size(); i-- > 0;) {  // newest first: still in the caches
            if (kept_[i]->bytes < bytes || kept_[i]->bytes / 2 > bytes) continue;
            Header *header = kept_[i];
            kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(i));
            return header;
        }
        return nullptr;
    }

    void keep(Header *header) {
        Header *surplus = header;
        {
            const std::unique_lock<std::mutex> guard(mutex_, std::try_to_lock);
            if (guard.owns_lock()) {
                surplus = nullptr;
                if (kept_.size() == kKept) {
                    surplus = kept_.front();
                    kept_.erase(kept_.begin());
                }
                kept_.push_back(header);
            }
        }
        free_pages(surplus);
    }

    std::mutex mutex_;
    std::vector<Header *> kept_ = [] {
        std::vector<Header *> empty;
        empty.reserve(kKept);
        return empty;
    }();
};

// Threads that wait for work: a short spin (a barrier that spins longer collapses on a shared machine), then sleep.
class Pool {
  public:
    ~Pool() { stop(); }

    void run(int threads, int64_t count, Work work, void *argument, bool flush_denormals) {
        if (threads > count) threads = static_cast<int>(count);
        if (threads > 1) start(threads - 1);
        const int helpers = threads > 1 ? std::min<int>(threads - 1, static_cast<int>(threads_.size())) : 0;
        work_ = work;
        argument_ = argument;
        count_ = count;
        flush_denormals_ = flush_denormals;
        next_.store(0, std::memory_order_relaxed);
        if (helpers > 0) {
            running_.store(helpers, std::memory_order_relaxed);
            {
                const std::lock_guard<std::mutex> guard(sleep_);
                helpers_.store(helpers, std::memory_order_relaxed);
                generation_.fetch_add(1, std::memory_order_release);
            }
            wake_.notify_all();
        }
        do_items(0);
        if (helpers > 0) wait_for_helpers();
    }

    std::mutex calls;  // one call at a time

  private:
    void do_items(int worker) {
        const FlushDenormals flush(flush_denormals_);
        for (;;) {
            const int64_t item = next_.fetch_add(1, std::memory_order_relaxed);
            if (item >= count_) return;
            work_(argument_, item, worker);
        }
    }

    void wait_for_helpers() {
        for (int spin = 0; spin < kSpins; ++spin) {
            if (running_.load(std::memory_order_acquire) == 0) return;
            pause_briefly();
        }
        std::unique_lock<std::mutex> guard(sleep_);
        done_.wait(guard, [this] { return running_.load(std::memory_order_acquire) == 0; });
    }

    // Start threads up to `wanted`; fewer if the system refuses (the work is done all the same, by those there are).
    void start(int wanted) {
        if (static_cast<int>(threads_.size()) >= wanted) return;
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);  // signals belong to the program's own threads
        try {
            while (static_cast<int>(threads_.size()) < wanted) {
                const int worker = static_cast<int>(threads_.size()) + 1;
                const uint64_t seen = generation_.load(std::memory_order_relaxed);
                threads_.emplace_back([this, worker, seen] { wait_for_work(worker, seen); });
            }
        } catch (const std::system_error &) {
            // no more threads to be had: run() counts those that exist
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void wait_for_work(int worker, uint64_t seen) {
        for (;;) {
            for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) {
                pause_briefly();
            }
            int helpers;
            {
                std::unique_lock<std::mutex> guard(sleep_);
                wake_.wait(guard, [&] { return generation_.load(std::memory_order_acquire) != seen; });
                seen = generation_.load(std::memory_order_acquire);
                helpers = helpers_.load(std::memory_order_relaxed);
                if (stopping_) return;
            }
            if (worker > helpers) continue;
            do_items(worker);
            if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                const std::lock_guard<std::mutex> guard(sleep_);
                done_.notify_one();
            }
        }
    }

    void stop() {
        {
            const std::lock_guard<std::mutex> guard(sleep_);
            stopping_ = true;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        for (std::thread &thread : threads_) thread.join();
    }

    static constexpr int kSpins = 2000;  // 20 to 100 microseconds

    std::vector<std::thread> threads_;
    std::mutex sleep_;
    std::condition_variable wake_, done_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<int> helpers_{0};
    std::atomic<int> running_{0};
    std::atomic<int64_t> next_{0};
    Work work_ = nullptr;
    void *argument_ = nullptr;
    int64_t count_ = 0;
    bool flush_denormals_ = false;
    bool stopping_ = false;
};

}  // namespace bilstm

bilstm_context::bilstm_context(int threads_wanted)
    : threads(threads_wanted),
      buffers(std::make_shared<bilstm::BufferCache>()),
      pool_(new bilstm::Pool),
      pid_(getpid()) {}

bilstm_context::~bilstm_context() {
    notice_fork();
    delete pool_;
}

void bilstm_context::notice_fork() {
    const pid_t now = getpid();
    if (pid_.load(std::memory_order_acquire) == now) return;
    // Only the thread that forked exists here, so nothing races. The old pool is leaked on purpose: joining threads
    // that do not exist, or destroying a lock that another thread held, has no defined meaning.
    pool_ = new bilstm::Pool;
    buffers = std::make_shared<bilstm::BufferCache>();
    pid_.store(now, std::memory_order_release);
}

void bilstm_context::run(int64_t count, bilstm::Work work, void *argument, bool flush_denormals) {
    if (count > 0) pool_->run(threads.load(), count, work, argument, flush_denormals);
}

std::mutex &bilstm_context::lock() { return pool_->calls; }

bilstm::Memory &bilstm_context::scratch(int slot) { return scratch_[slot]; }

extern "C" {

bilstm_context *bilstm_context_create(int threads) {
    if (threads < 1) return nullptr;
    try {
        return new bilstm_context(threads);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void bilstm_context_destroy(bilstm_context *context) { delete context; }

int bilstm_context_threads(const bilstm_context *context) { return context->threads.load(); }

int bilstm_context_set_threads(bilstm_context *context, int threads) {
    if (context == nullptr || threads < 1) return BILSTM_ERROR_ARGUMENT;
    context->threads.store(threads);
    return BILSTM_OK;
}

void *bilstm_buffer_acquire(bilstm_context *context, int64_t bytes) {
    if (context == nullptr || bytes < 0) return nullptr;
    try {
        context->notice_fork();
        return bilstm::BufferCache::acquire(context->buffers, static_cast<size_t>(bytes));
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void bilstm_buffer_release(void *buffer) {
    if (buffer != nullptr) bilstm::BufferCache::release(buffer);
}

}  // extern "C"
