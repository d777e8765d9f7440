// Skip-gram steps under the sanitizers: every kernel against float64, threads, and calls that must be refused. Arrays are
// exactly as long as the interface says. Part of the program in test_engine.cpp.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "bilstm_skipgram.h"
#include "layer_kernels.h"

namespace {

std::mt19937_64 generator(2);

int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

struct Words {
    int64_t V, S, N, M, batch;
    std::vector<float> inputs, outputs, rates;
    std::vector<int32_t> words, before, after, negatives;

    Words() {
        V = pick(1, 40), S = 16 * pick(1, 12), N = pick(0, 60), M = pick(1, 8), batch = pick(1, 20);
        std::normal_distribution<float> normal(0.0f, 0.3f);
        inputs.resize(static_cast<size_t>(V * S)), outputs.resize(inputs.size());
        for (float &number : inputs) number = normal(generator);
        for (float &number : outputs) number = normal(generator);
        for (int64_t i = 0; i < N; ++i) {
            words.push_back(static_cast<int32_t>(pick(0, V - 1)));
            before.push_back(static_cast<int32_t>(pick(0, std::min<int64_t>(i, 9))));
            after.push_back(static_cast<int32_t>(pick(0, std::min<int64_t>(N - 1 - i, 9))));
            for (int64_t m = 0; m < M; ++m) negatives.push_back(static_cast<int32_t>(pick(0, V - 1)));
        }
        for (int64_t s = 0; s < (N + batch - 1) / batch; ++s) rates.push_back(0.01f * static_cast<float>(s % 5));
    }

    bilstm_skipgram_call call(int kernel) {
        bilstm_skipgram_call call{};
        call.struct_size = sizeof call;
        call.kernel = kernel;
        call.vocabulary_size = V, call.stride = S, call.count = N, call.negatives = M, call.batch = batch;
        call.inputs = inputs.data(), call.outputs = outputs.data(), call.rates = rates.data();
        call.words = words.data(), call.before = before.data(), call.after = after.data();
        call.negative_words = negatives.data();
        return call;
    }

    // The definition in bilstm_skipgram.h, word by word in float64.
    void expect(std::vector<double> &x, std::vector<double> &y) const {
        x.assign(inputs.begin(), inputs.end());
        y.assign(outputs.begin(), outputs.end());
        for (int64_t first = 0; first < N; first += batch) {
            const std::vector<double> x_0 = x, y_0 = y;
            for (int64_t i = first; i < std::min(first + batch, N); ++i) {
                for (int64_t j = i - before[at(i)]; j <= i + after[at(i)]; ++j) {
                    for (int64_t m = 0; j != i && m <= M; ++m) {
                        const int64_t word = m == 0 ? words[at(i)] : negatives[at(i * M + m - 1)];
                        if (m > 0 && word == words[at(i)]) continue;
                        const int64_t row = words[at(j)] * S;
                        double product = 0;
                        for (int64_t c = 0; c < S; ++c) product += x_0[at(row + c)] * y_0[at(word * S + c)];
                        const double error = rates[at(first / batch)] * ((m == 0) - 1 / (1 + std::exp(-product)));
                        for (int64_t c = 0; c < S; ++c) {
                            x[at(row + c)] += error * y_0[at(word * S + c)];
                            y[at(word * S + c)] += error * x_0[at(row + c)];
                        }
                    }
                }
            }
        }
    }

    static size_t at(int64_t i) { return static_cast<size_t>(i); }
};

double distance(const std::vector<double> &right, const std::vector<float> &found) {
    double largest = 0;
    for (size_t i = 0; i < right.size(); ++i) largest = std::max(largest, std::abs(right[i] - double(found[i])));
    return largest;
}

int compare(int64_t cases) {
    int failures = 0;
    for (int64_t k = 0; k < cases; ++k) {
        const Words original;
        std::vector<double> x, y;
        original.expect(x, y);
        std::vector<float> fused;  // what the kernels with fused products agree on, bit for bit
        for (int kernel = BILSTM_KERNEL_PORTABLE; kernel < BILSTM_KERNEL_COUNT; ++kernel) {
            for (const int threads : {1, 3}) {
                Words words = original;
                bilstm_skipgram_call call = words.call(kernel);
                bilstm_context *context = bilstm_context_create(threads);
                const int code = bilstm_skipgram_run(context, &call);
                bilstm_context_destroy(context);
                if (is_for_layers_alone(kernel) || bilstm_kernel_missing(kernel) != nullptr) {
                    failures += code != BILSTM_ERROR_UNSUPPORTED;
                    continue;
                }
                const bool good = code == BILSTM_OK && distance(x, words.inputs) < 1e-5 && distance(y, words.outputs) < 1e-5;
                if (!good) std::printf("FAILED skip-gram, kernel %s: %s\n", bilstm_kernel_name(kernel), call.error);
                failures += !good;
                if (kernel == BILSTM_KERNEL_PORTABLE) continue;
                if (fused.empty()) fused = words.inputs;
                failures += std::memcmp(fused.data(), words.inputs.data(), fused.size() * sizeof(float)) != 0;
            }
        }
    }
    return failures;
}

int refuse() {
    int failures = 0;
    Words words;
    while (words.N < 2) words = Words();
    bilstm_context *context = bilstm_context_create(1);
    const std::vector<float> before = words.inputs;
    const auto refused = [&](const char *what, auto change) {
        Words wrong = words;
        bilstm_skipgram_call call = wrong.call(BILSTM_KERNEL_AUTO);
        change(call, wrong);
        if (bilstm_skipgram_run(context, &call) != BILSTM_OK && wrong.inputs == before) return;
        std::printf("FAILED skip-gram: %s was accepted\n", what);
        ++failures;
    };
    using Call = bilstm_skipgram_call;
    refused("struct_size", [](Call &call, Words &) { call.struct_size = 8; });
    refused("kernel", [](Call &call, Words &) { call.kernel = 77; });
    refused("stride", [](Call &call, Words &) { call.stride = 15; });
    refused("vocabulary_size", [](Call &call, Words &) { call.vocabulary_size = 0; });
    refused("count", [](Call &call, Words &) { call.count = -1; });
    refused("negatives", [](Call &call, Words &) { call.negatives = 0; });
    refused("batch", [](Call &call, Words &) { call.batch = 0; });
    refused("rates", [](Call &call, Words &) { call.rates = nullptr; });
    refused("large word", [](Call &call, Words &wrong) { wrong.words.back() = static_cast<int32_t>(call.vocabulary_size); });
    refused("negative word", [](Call &, Words &wrong) { wrong.negatives[0] = -1; });
    refused("before", [](Call &, Words &wrong) { wrong.before[0] = 1; });
    refused("after", [](Call &, Words &wrong) { wrong.after.back() = 1; });
    failures += bilstm_skipgram_run(nullptr, nullptr) == BILSTM_OK;
    bilstm_context_destroy(context);
    return failures;
}

}  // namespace

int test_skipgram(int64_t cases) { return compare(cases) + refuse(); }
