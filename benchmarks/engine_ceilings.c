/* What this machine can do at most: fused multiply-adds, bfloat16 products (AMX tiles, or vectors of
 * AVX512-BF16), sigmoids, bytes beyond the second-level cache.
 *
 * Usage: engine_ceilings THREADS. Prints `name rate` lines, rates a second summed over the threads, best of REPEATS.
 * Compiled with -O3 -march=native by engine_ceilings.py and run in the same run as the peers.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__AVX512F__) || defined(__AMX_BF16__)
#include <immintrin.h>
#endif

enum { REPEATS = 12, MAX_THREADS = 256 };
static const size_t LARGE = 64u << 20; /* bytes, many times a second-level cache */
static volatile float sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

#if defined(__AVX512F__)
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));

/* Each work function returns how many units it did; `state` is 64 MB of the thread's own memory. */
static double fma_work(char *state) {
    (void)state;
    enum { CHAINS = 12 };
    const int rounds = 400000;
    vec a, b;
    for (int l = 0; l < LANES; ++l) a[l] = 0.999f, b[l] = 1e-3f;
    /* named variables, because gcc keeps an array of them in memory; the empty asm keeps the chains apart */
    vec c0 = b, c1 = b, c2 = b, c3 = b, c4 = b, c5 = b, c6 = b, c7 = b, c8 = b, c9 = b, c10 = b, c11 = b;
#define STEP(c) c = c * a + b; __asm__ volatile("" : "+v"(c))
    for (int r = 0; r < rounds; ++r) {
        STEP(c0); STEP(c1); STEP(c2); STEP(c3); STEP(c4); STEP(c5);
        STEP(c6); STEP(c7); STEP(c8); STEP(c9); STEP(c10); STEP(c11);
    }
#undef STEP
    c0 += c1 + c2 + c3 + c4 + c5 + c6 + c7 + c8 + c9 + c10 + c11;
    sink = c0[0];
    return 2.0 * LANES * CHAINS * rounds;
}

#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
static int amx_allowed(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
static double amx_work(char *state) {
    struct {
        uint8_t palette, start;
        uint8_t reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
    __asm__ volatile("" ::: "memory"); /* gcc 12 drops the stores above otherwise */
    _tile_loadconfig(&config);
    memset(state, 0, 4096);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_loadd(4, state, 64); _tile_loadd(5, state + 1024, 64);
    _tile_loadd(6, state + 2048, 64); _tile_loadd(7, state + 3072, 64);
    const int rounds = 60000;
    for (int r = 0; r < rounds; ++r) {
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, state, 64);
    _tile_release();
    return 4.0 * 2 * 16 * 16 * 32 * rounds;
}
#endif

#if defined(__AVX512BF16__)
static double pairs_work(char *state) {
    (void)state;
    enum { CHAINS = 12 };
    const int rounds = 400000;
    const __m512 zero = _mm512_setzero_ps();
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), zero), b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.1f), zero);
    __m512 c0 = zero, c1 = zero, c2 = zero, c3 = zero, c4 = zero, c5 = zero;
    __m512 c6 = zero, c7 = zero, c8 = zero, c9 = zero, c10 = zero, c11 = zero;
#define STEP(c) c = _mm512_dpbf16_ps(c, a, b); __asm__ volatile("" : "+v"(c))
    for (int r = 0; r < rounds; ++r) {
        STEP(c0); STEP(c1); STEP(c2); STEP(c3); STEP(c4); STEP(c5);
        STEP(c6); STEP(c7); STEP(c8); STEP(c9); STEP(c10); STEP(c11);
    }
#undef STEP
    c0 += c1 + c2 + c3 + c4 + c5 + c6 + c7 + c8 + c9 + c10 + c11;
    sink = c0[0];
    return 2.0 * 32 * CHAINS * rounds;
}
#endif

static double sigmoid_work(char *state) {
    float *x = (float *)state;
    enum { COUNT = 1024 }; /* 4 KB, in the first-level cache */
    const int rounds = 3000;
    for (int i = 0; i < COUNT; ++i) x[i] = (float)i / COUNT - 0.5f;
    for (int r = 0; r < rounds; ++r) {
#if defined(__AVX512F__)
        for (int i = 0; i < COUNT; i += 16) {
            __m512 t = _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(-1.44269504f));
            __m512 f = _mm512_reduce_ps(t, 0); /* fraction in [-1/2, 1/2] */
            __m512 p = _mm512_set1_ps(0.00961813f);
            p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0555041f));
            p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240227f));
            p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147f));
            p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
            __m512 d = _mm512_add_ps(_mm512_scalef_ps(p, t), _mm512_set1_ps(1.0f));
            __m512 q = _mm512_rcp14_ps(d);
            q = _mm512_mul_ps(q, _mm512_fnmadd_ps(d, q, _mm512_set1_ps(2.0f)));
            _mm512_storeu_ps(x + i, q);
        }
#else
        for (int i = 0; i < COUNT; ++i) { /* the compiler turns this into vectors */
            float t = x[i] * -1.44269504f, whole = __builtin_rintf(t), f = t - whole;
            float p = 1.0f + f * (0.693147f + f * (0.240227f + f * (0.0555041f + f * 0.00961813f)));
            union {
                int32_t i;
                float f;
            } scale = {.i = ((int32_t)whole + 127) << 23};
            x[i] = 1.0f / (1.0f + p * scale.f);
        }
#endif
        __asm__ volatile("" ::: "memory");
    }
    return (double)COUNT * rounds;
}

static double read_work(char *state) {
    const vec *data = (const vec *)state;
    vec sums[8];
    memset(sums, 0, sizeof sums);
    for (size_t i = 0; i < LARGE / sizeof(vec); i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += data[i + j];
    for (int j = 1; j < 8; ++j) sums[0] += sums[j];
    sink = sums[0][0];
    return (double)LARGE;
}

static double write_work(char *state) {
    vec *data = (vec *)state, zero;
    memset(&zero, 0, sizeof zero);
    for (size_t i = 0; i < LARGE / sizeof(vec); ++i) {
        data[i] = zero;
        __asm__ volatile("" ::: "memory");
    }
    return (double)LARGE;
}

typedef struct {
    double (*work)(char *);
    pthread_barrier_t *barrier;
    char *state;
    double units[REPEATS], begin[REPEATS], end[REPEATS];
} job;

static void *run(void *argument) {
    job *j = argument;
    j->work(j->state); /* warm up; first touch of the memory by its own thread */
    for (int r = 0; r < REPEATS; ++r) {
        pthread_barrier_wait(j->barrier);
        j->begin[r] = now();
        j->units[r] = j->work(j->state);
        j->end[r] = now();
    }
    return NULL;
}

static void measure(const char *name, double (*work)(char *), int threads) {
    static job jobs[MAX_THREADS];
    pthread_t ids[MAX_THREADS];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, threads);
    for (int t = 0; t < threads; ++t) {
        jobs[t].work = work, jobs[t].barrier = &barrier;
        if (!jobs[t].state) jobs[t].state = aligned_alloc(4096, LARGE);
        memset(jobs[t].state, 0, LARGE);
        pthread_create(&ids[t], NULL, run, &jobs[t]);
    }
    for (int t = 0; t < threads; ++t) pthread_join(ids[t], NULL);
    double best = 0;
    for (int r = 0; r < REPEATS; ++r) {
        double units = 0, begin = 1e300, end = 0;
        for (int t = 0; t < threads; ++t) {
            units += jobs[t].units[r];
            if (jobs[t].begin[r] < begin) begin = jobs[t].begin[r];
            if (jobs[t].end[r] > end) end = jobs[t].end[r];
        }
        if (units / (end - begin) > best) best = units / (end - begin);
    }
    printf("%s %.6e\n", name, best);
}

int main(int count, char **arguments) {
    const int threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1 || threads > MAX_THREADS) return 2;
    measure("fp32_flops", fma_work, threads);
    int has_tiles = 0;
#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
    has_tiles = amx_allowed();
    if (has_tiles) measure("bf16_flops", amx_work, threads);
#endif
#if defined(__AVX512BF16__)
    measure(has_tiles ? "bf16_flops_of_vectors" : "bf16_flops", pairs_work, threads);
#endif
    measure("sigmoids", sigmoid_work, threads);
    measure("read_bytes", read_work, threads);
    measure("write_bytes", write_work, threads);
    return 0;
}
