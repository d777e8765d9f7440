// The engine's own test program: drives the C interface with random shapes and compares every kernel that runs here with
// the portable one in float64. Built with sanitizers by tests/test_engine_native.py and for ARM by tests/native/run_arm.sh.
// Arrays are exactly as long as the interface says, so that a read or write beyond them is seen.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bilstm_engine.h"
#include "layer_kernels.h"

int test_skipgram(int64_t cases);  // test_skipgram.cpp; returns how many checks failed
int test_document_vectors(int64_t cases);  // test_document_vectors.cpp, likewise

namespace {

int failures = 0;

void check(bool good, const char *what, const std::string &where) {
    if (good) return;
    std::printf("FAILED %s: %s\n", what, where.c_str());
    ++failures;
}

std::mt19937_64 generator(1);

int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

struct Case {
    int cell;
    int64_t I, H, B, D, V, N;
    bool tokens, states, mask, outputs, pools;
    std::vector<int64_t> offsets{0}, ids;
    std::vector<double> values, embedding, w_ih, w_hh, b_ih, b_hh, h_0, c_0, keep, d_outputs, d_h_n, d_c_n, d_mean;

    std::vector<double> draw(int64_t count, double scale) const {
        std::normal_distribution<double> normal(0.0, scale);
        std::vector<double> numbers(static_cast<size_t>(count));
        for (double &number : numbers) number = static_cast<float>(normal(generator));
        return numbers;
    }

    explicit Case(int64_t size) {
        cell = static_cast<int>(pick(0, 3));
        I = pick(1, size), H = pick(1, size), B = pick(0, 40), D = pick(1, 2), V = pick(1, 60);
        for (int64_t b = 0; b < B; ++b) offsets.push_back(offsets.back() + std::max<int64_t>(0, pick(-2, 14)));
        N = offsets.back();
        tokens = pick(0, 1), states = pick(0, 1), mask = pick(0, 2) == 0, outputs = pick(0, 1), pools = pick(0, 1);
        const int64_t G = cell == BILSTM_LSTM ? 4 : cell == BILSTM_GRU ? 3 : 1;
        const double scale = (cell == BILSTM_RNN_RELU ? 0.4 : 1.0) / std::sqrt(static_cast<double>(H));
        for (int64_t n = 0; n < N; ++n) ids.push_back(pick(0, V - 1));
        embedding = draw(V * I, 1), values = draw(N * I, 1);
        w_ih = draw(D * G * H * I, scale), w_hh = draw(D * G * H * H, scale);
        b_ih = draw(D * G * H, scale), b_hh = draw(D * G * H, scale);
        h_0 = draw(D * B * H, 1), c_0 = draw(D * B * H, 1), keep = draw(D * B * H, 1);
        d_outputs = draw(N * D * H, 1), d_h_n = draw(D * B * H, 1), d_c_n = draw(D * B * H, 1);
        d_mean = draw(B * D * H, 1);
    }

    std::string name() const {
        return "cell " + std::to_string(cell) + " I " + std::to_string(I) + " H " + std::to_string(H) + " B " +
               std::to_string(B) + " N " + std::to_string(N) + " D " + std::to_string(D) + " tokens " +
               std::to_string(tokens) + " mask " + std::to_string(mask);
    }
};

// Inputs and results of one run in the type that the precision wants.
template <class Real>
struct Run {
    std::vector<std::vector<Real>> kept;
    std::vector<std::pair<std::string, std::vector<Real> *>> results;
    std::vector<std::unique_ptr<std::vector<Real>>> owned;
    std::vector<int32_t> max_steps;
    std::vector<char> saved;
    std::vector<int64_t> unique_ids;
    bilstm_call call;

    const Real *give(const std::vector<double> &numbers) {
        kept.emplace_back(numbers.begin(), numbers.end());
        return kept.back().data();
    }

    Real *take(const char *name, int64_t count) {
        owned.push_back(std::make_unique<std::vector<Real>>(static_cast<size_t>(count), Real(777)));
        results.emplace_back(name, owned.back().get());
        return owned.back()->data();
    }

    Run(const Case &c, int kernel, int precision, bilstm_context *context, const bilstm_weights *packed) {
        kept.reserve(64);
        std::memset(&call, 0, sizeof call);
        const int64_t G = c.cell == BILSTM_LSTM ? 4 : c.cell == BILSTM_GRU ? 3 : 1;
        call.struct_size = sizeof call;
        call.cell = c.cell, call.kernel = kernel, call.precision = precision;
        call.directions = static_cast<int32_t>(c.D);
        call.input_size = c.I, call.hidden_size = c.H, call.batch = c.B, call.total_steps = c.N;
        call.vocabulary_size = c.V;
        call.offsets = c.offsets.data();
        if (c.tokens) {
            call.token_ids = c.ids.data(), call.embedding = give(c.embedding);
        } else {
            call.values = give(c.values);
        }
        const Real *w_ih = give(c.w_ih), *w_hh = give(c.w_hh), *b_ih = give(c.b_ih), *b_hh = give(c.b_hh);
        for (int64_t d = 0; d < c.D; ++d) {
            call.w_ih[d] = w_ih + d * G * c.H * c.I, call.w_hh[d] = w_hh + d * G * c.H * c.H;
            call.b_ih[d] = b_ih + d * G * c.H, call.b_hh[d] = b_hh + d * G * c.H;
        }
        const bool lstm = c.cell == BILSTM_LSTM;
        if (c.states) call.h_0 = give(c.h_0);
        if (c.states && lstm) call.c_0 = give(c.c_0);
        if (c.mask) call.recurrent_mask = give(c.keep);
        if (c.outputs) call.outputs = take("outputs", c.N * c.D * c.H);
        call.h_n = take("h_n", c.D * c.B * c.H);
        if (lstm) call.c_n = take("c_n", c.D * c.B * c.H);
        max_steps.assign(static_cast<size_t>(c.B * c.D * c.H), -9);
        if (c.pools) {
            call.max_values = take("max", c.B * c.D * c.H), call.max_steps = max_steps.data();
            call.mean_values = take("mean", c.B * c.D * c.H);
        }
        if (packed != nullptr) {
            call.packed = packed;
            check(bilstm_forward(context, &call) == BILSTM_OK, call.error, c.name());
            return;
        }
        call.saved_bytes = bilstm_saved_bytes(&call);
        saved.resize(static_cast<size_t>(call.saved_bytes));
        call.saved = saved.data();
        check(bilstm_forward(context, &call) == BILSTM_OK, call.error, c.name());
        if (c.outputs) call.d_outputs = give(c.d_outputs);
        call.d_h_n = give(c.d_h_n);
        if (lstm) call.d_c_n = give(c.d_c_n);
        if (c.pools) call.d_mean = give(c.d_mean);
        call.d_values = take("d_values", c.N * c.I);
        Real *d_w_ih = take("d_w_ih", c.D * G * c.H * c.I), *d_w_hh = take("d_w_hh", c.D * G * c.H * c.H);
        Real *d_b_ih = take("d_b_ih", c.D * G * c.H), *d_b_hh = take("d_b_hh", c.D * G * c.H);
        for (int64_t d = 0; d < c.D; ++d) {
            call.d_w_ih[d] = d_w_ih + d * G * c.H * c.I, call.d_w_hh[d] = d_w_hh + d * G * c.H * c.H;
            call.d_b_ih[d] = d_b_ih + d * G * c.H, call.d_b_hh[d] = d_b_hh + d * G * c.H;
        }
        call.d_h_0 = take("d_h_0", c.D * c.B * c.H);
        if (lstm) call.d_c_0 = take("d_c_0", c.D * c.B * c.H);
        if (c.tokens) {
            call.d_embedding = take("d_embedding", c.V * c.I);
            unique_ids.resize(static_cast<size_t>(std::min(c.N, c.V)));
            call.unique_ids = unique_ids.data();
            owned.push_back(std::make_unique<std::vector<Real>>(unique_ids.size() * static_cast<size_t>(c.I)));
            call.d_unique = owned.back()->data();
        }
        check(bilstm_backward(context, &call) == BILSTM_OK, call.error, c.name());
    }
};

void compare(const Case &c, const Run<double> &right, const Run<float> &found, double bound, const char *kernel) {
    for (size_t k = 0; k < found.results.size(); ++k) {
        const std::vector<double> &a = *right.results[k].second;
        const std::vector<float> &b = *found.results[k].second;
        double distance = 0, size = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            const double difference = std::abs(a[i] - static_cast<double>(b[i]));
            distance = difference >= distance || difference != difference ? difference : distance;
            size = std::max(size, std::abs(a[i]));
        }
        if (distance <= bound * std::max(1.0, size)) continue;
        check(false, (std::string(kernel) + " " + found.results[k].first).c_str(),
              c.name() + ": distance " + std::to_string(distance) + " of " + std::to_string(size));
    }
}

// Random layers: every kernel against float64, packed weights and the table against plain weights.
void compare_kernels(int64_t cases, int64_t size, bilstm_context *context) {
    for (int64_t k = 0; k < cases; ++k) {
        const Case c(size);
        const Run<double> right(c, BILSTM_KERNEL_PORTABLE, BILSTM_FLOAT64, context, nullptr);
        for (int kernel = BILSTM_KERNEL_PORTABLE; kernel < BILSTM_KERNEL_COUNT; ++kernel) {
            for (int precision = BILSTM_FLOAT32; precision <= BILSTM_BFLOAT16; ++precision) {
                if (bilstm_choose_kernel(kernel, precision) < 0) continue;
                const Run<float> found(c, kernel, precision, context, nullptr);
                // A relu unit rounded across zero turns its gradient on or off: not comparable in bfloat16.
                const bool comparable = precision == BILSTM_FLOAT32 || c.cell != BILSTM_RNN_RELU;
                if (comparable) compare(c, right, found, precision == BILSTM_FLOAT32 ? 2e-5 : 0.15, bilstm_kernel_name(kernel));
                Run<float> plain(c, kernel, precision, context, nullptr);
                bilstm_weights *packed = bilstm_weights_pack(context, &plain.call);
                check(packed != nullptr && bilstm_weights_bytes(packed) > 0, "pack", c.name());
                const Run<float> again(c, kernel, precision, context, packed);
                // These kernels add the sums of the vocabulary table in another order, else every bit is the same.
                if (is_for_layers_alone(kernel) && c.tokens) {
                    if (comparable) compare(c, right, again, 0.15, "table");
                    bilstm_weights_free(packed);
                    continue;
                }
                for (size_t i = 0; i < again.results.size(); ++i) {
                    const std::vector<float> &one = *again.results[i].second, &other = *found.results[i].second;
                    const bool same = one.empty() || std::memcmp(one.data(), other.data(), one.size() * 4) == 0;
                    check(same, "packed weights", c.name() + " " + bilstm_kernel_name(kernel) + " " + again.results[i].first);
                }
                bilstm_weights_free(packed);
            }
        }
    }
}

// Several threads, each with its own context, and two that share one.
void run_concurrently() {
    bilstm_context *shared = bilstm_context_create(2);
    const Case c(20);
    const Run<float> right(c, BILSTM_KERNEL_AUTO, BILSTM_FLOAT32, shared, nullptr);
    const auto work = [&](bilstm_context *context) {
        for (int k = 0; k < 10; ++k) {
            const Run<float> found(c, BILSTM_KERNEL_AUTO, BILSTM_FLOAT32, context, nullptr);
            for (size_t i = 0; i < found.results.size(); ++i) {
                check(*found.results[i].second == *right.results[i].second, "concurrent run", c.name());
            }
            bilstm_buffer_release(bilstm_buffer_acquire(context, 100000 + k));
        }
    };
    bilstm_context *own = bilstm_context_create(3);
    std::vector<std::thread> threads;
    for (bilstm_context *context : {shared, shared, own}) threads.emplace_back(work, context);
    for (std::thread &thread : threads) thread.join();
    bilstm_context_destroy(shared);
    bilstm_context_destroy(own);
}

void refuse_bad_calls(bilstm_context *context) {
    const Case c(8);
    Run<float> run(c, BILSTM_KERNEL_PORTABLE, BILSTM_FLOAT32, context, nullptr);
    const bilstm_call good = run.call;
    const auto refused = [&](const char *what, auto change) {
        bilstm_call bad = good;
        change(bad);
        check(bilstm_forward(context, &bad) != BILSTM_OK, what, "was accepted");
    };
    refused("cell", [](bilstm_call &call) { call.cell = 4; });
    refused("batch", [](bilstm_call &call) { call.batch = -1; });
    refused("hidden_size", [](bilstm_call &call) { call.hidden_size = int64_t(1) << 62; });
    refused("total_steps", [](bilstm_call &call) { ++call.total_steps; });
    refused("saved_bytes", [](bilstm_call &call) { call.saved_bytes = call.total_steps > 0 ? 0 : -1; });
    refused("w_hh", [](bilstm_call &call) { call.w_hh[0] = nullptr; });
    refused("struct_size", [](bilstm_call &call) { call.struct_size = 4; });
    check(bilstm_forward(nullptr, &run.call) != BILSTM_OK, "null context", "was accepted");
    check(bilstm_forward(context, nullptr) != BILSTM_OK, "null call", "was accepted");
    check(bilstm_context_create(0) == nullptr, "0 threads", "was accepted");
}

}  // namespace

int main(int count, char **arguments) {
    const int64_t cases = count > 1 ? std::atoll(arguments[1]) : 30;
    bilstm_context *context = bilstm_context_create(3);
    std::printf("%s:", bilstm_build());
    for (int kernel = 1; kernel < BILSTM_KERNEL_COUNT; ++kernel) {
        if (bilstm_kernel_missing(kernel) == nullptr) std::printf(" %s", bilstm_kernel_name(kernel));
    }
    std::printf("\n");
    compare_kernels(cases, 70, context);
    compare_kernels(cases, 20, context);
    refuse_bad_calls(context);
    bilstm_context_destroy(context);
    run_concurrently();
    failures += test_skipgram(cases);
    failures += test_document_vectors(cases);
    std::printf(failures == 0 ? "all good\n" : "%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
