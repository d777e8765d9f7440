// Document vectors under the sanitizers: every kernel against float64, threads, and calls that must be refused. Arrays
// are exactly as long as the interface says. Part of the program in test_engine.cpp.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "bilstm_document_vectors.h"
#include "layer_kernels.h"

namespace {

std::mt19937_64 generator(3);

int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }
size_t at(int64_t i) { return static_cast<size_t>(i); }

struct Texts {
    int64_t T, K, S, N, batch;
    std::vector<float> documents, ngrams, rates;
    std::vector<int64_t> rows, offsets{0};
    std::vector<int32_t> items, negatives;

    Texts() {
        T = pick(1, 12), K = pick(1, 60), S = 16 * pick(1, 12), N = pick(0, T), batch = pick(1, 8);
        std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(float(S)));
        documents.resize(at(T * S)), ngrams.resize(at(K * S)), rows.resize(at(T));
        for (float &number : documents) number = normal(generator);
        for (float &number : ngrams) number = normal(generator);
        std::iota(rows.begin(), rows.end(), 0);
        std::shuffle(rows.begin(), rows.end(), generator);
        rows.resize(at(N));
        for (int64_t d = 0; d < N; ++d) {
            const int64_t count = pick(0, 50);
            for (int64_t n = 0; n < count; ++n) {
                items.push_back(static_cast<int32_t>(pick(0, K - 1)));
                negatives.push_back(static_cast<int32_t>(pick(0, K - 1)));
            }
            offsets.push_back(static_cast<int64_t>(items.size()));
        }
        for (int64_t s = 0; s < (N + batch - 1) / batch; ++s) rates.push_back(0.01f * static_cast<float>(s % 4));
    }

    bilstm_document_vectors_call call(int kernel) {
        bilstm_document_vectors_call call{};
        call.struct_size = sizeof call;
        call.kernel = kernel;
        call.text_count = T, call.ngram_count = K, call.stride = S;
        call.documents = documents.data(), call.ngrams = ngrams.data();
        call.count = N, call.rows = rows.data(), call.offsets = offsets.data();
        call.item_count = static_cast<int64_t>(items.size());
        call.items = items.data(), call.negatives = negatives.data();
        call.batch = batch, call.rates = rates.data();
        call.sharpness = 6.0f, call.negative_weight = 5.0f;
        return call;
    }

    // The definition in bilstm_document_vectors.h, n-gram by n-gram in float64.
    void expect(std::vector<double> &x, std::vector<double> &w) const {
        x.assign(documents.begin(), documents.end());
        w.assign(ngrams.begin(), ngrams.end());
        struct Change {
            const int32_t ngram;
            double error, shrink;
            std::vector<double> direction;
        };
        const auto product = [&](const double *a, const double *b) { return std::inner_product(a, a + S, b, 0.0); };
        for (int64_t first = 0; first < N; first += batch) {
            std::vector<Change> changes;
            for (int64_t d = first; d < std::min(first + batch, N); ++d) {
                double *own = x.data() + rows[at(d)] * S;
                for (int64_t block = offsets[at(d)]; block < offsets[at(d + 1)]; block += 16) {
                    std::vector<double> direction(own, own + S);
                    const double length = std::sqrt(product(own, own) + 1e-12);
                    for (double &number : direction) number /= length;
                    for (const bool is_item : {true, false}) {
                        for (int64_t n = block; n < std::min(block + 16, offsets[at(d + 1)]); ++n) {
                            const int32_t ngram = (is_item ? items : negatives)[at(n)];
                            const double *row = w.data() + ngram * S, size = std::sqrt(product(row, row) + 1e-12);
                            const double cosine = product(direction.data(), row) / size;
                            const double chance = 1 / (1 + std::exp(-6 * cosine));
                            const double error = 6.0 * rates[at(first / batch)] * (is_item ? 1 - chance : -5 * chance);
                            for (int64_t c = 0; c < S; ++c) {
                                own[c] += error * (row[c] / size - cosine * direction[at(c)]);
                            }
                            changes.push_back({ngram, error, cosine / size, direction});
                        }
                    }
                }
            }
            for (const Change &change : changes) {
                double *row = w.data() + change.ngram * S;
                for (int64_t c = 0; c < S; ++c) {
                    row[c] += change.error * (change.direction[at(c)] - change.shrink * row[c]);
                }
            }
        }
    }
};

// Largest difference, in parts of the largest number (at least 1).
double distance(const std::vector<double> &right, const std::vector<float> &found) {
    double largest = 0, size = 1;
    for (size_t i = 0; i < right.size(); ++i) {
        largest = std::max(largest, std::abs(right[i] - double(found[i])));
        size = std::max(size, std::abs(right[i]));
    }
    return largest / size;
}

int compare(int64_t cases) {
    int failures = 0;
    for (int64_t k = 0; k < cases; ++k) {
        const Texts original;
        std::vector<double> x, w;
        original.expect(x, w);
        std::vector<float> first;  // what all kernels agree on, bit for bit
        for (int kernel = BILSTM_KERNEL_PORTABLE; kernel < BILSTM_KERNEL_COUNT; ++kernel) {
            for (const int threads : {1, 3}) {
                Texts texts = original;
                bilstm_document_vectors_call call = texts.call(kernel);
                bilstm_context *context = bilstm_context_create(threads);
                const int code = bilstm_document_vectors_run(context, &call);
                bilstm_context_destroy(context);
                if (is_for_layers_alone(kernel) || bilstm_kernel_missing(kernel) != nullptr) {
                    failures += code != BILSTM_ERROR_UNSUPPORTED;
                    continue;
                }
                const double off = std::max(distance(x, texts.documents), distance(w, texts.ngrams));
                const bool good = code == BILSTM_OK && off < 1e-5;  // some hundred roundings of 6e-8
                const char *name = bilstm_kernel_name(kernel);
                if (!good) std::printf("FAILED document vectors, kernel %s: off by %g, %s\n", name, off, call.error);
                failures += !good;
                texts.documents.insert(texts.documents.end(), texts.ngrams.begin(), texts.ngrams.end());
                if (first.empty()) first = texts.documents;
                failures += std::memcmp(first.data(), texts.documents.data(), first.size() * sizeof(float)) != 0;
            }
        }
    }
    return failures;
}

int refuse() {
    int failures = 0;
    Texts texts;
    while (texts.N < 2 || texts.batch < 2 || texts.items.empty()) texts = Texts();
    bilstm_context *context = bilstm_context_create(1);
    const Texts before = texts;
    const auto refused = [&](const char *what, auto change) {
        Texts wrong = before;
        bilstm_document_vectors_call call = wrong.call(BILSTM_KERNEL_AUTO);
        change(call, wrong);
        const int code = bilstm_document_vectors_run(context, &call);
        if (code != BILSTM_OK && wrong.documents == before.documents && wrong.ngrams == before.ngrams) return;
        std::printf("FAILED document vectors: %s was accepted\n", what);
        ++failures;
    };
    using Call = bilstm_document_vectors_call;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    refused("struct_size", [](Call &call, Texts &) { call.struct_size = 8; });
    refused("kernel", [](Call &call, Texts &) { call.kernel = 77; });
    refused("text_count", [](Call &call, Texts &) { call.text_count = 0; });
    refused("ngram_count", [](Call &call, Texts &) { call.ngram_count = 0; });
    refused("stride", [](Call &call, Texts &) { call.stride = 15; });
    refused("large stride", [](Call &call, Texts &) { call.stride = 65552; });
    refused("count", [](Call &call, Texts &) { call.count = -1; });
    refused("item_count", [](Call &call, Texts &) { call.item_count = -1; });
    refused("fewer items than offsets say", [](Call &call, Texts &) { --call.item_count; });
    refused("batch", [](Call &call, Texts &) { call.batch = 0; });
    refused("large batch", [](Call &call, Texts &) { call.batch = 4097; });
    refused("no documents", [](Call &call, Texts &) { call.documents = nullptr; });
    refused("no ngrams", [](Call &call, Texts &) { call.ngrams = nullptr; });
    refused("one table for both", [](Call &call, Texts &) { call.ngrams = call.documents; call.ngram_count = 1; });
    refused("no rows", [](Call &call, Texts &) { call.rows = nullptr; });
    refused("no offsets", [](Call &call, Texts &) { call.offsets = nullptr; });
    refused("no items", [](Call &call, Texts &) { call.items = nullptr; });
    refused("no negatives", [](Call &call, Texts &) { call.negatives = nullptr; });
    refused("no rates", [](Call &call, Texts &) { call.rates = nullptr; });
    refused("large row", [](Call &call, Texts &wrong) { wrong.rows.back() = call.text_count; });
    refused("negative row", [](Call &, Texts &wrong) { wrong.rows[0] = -1; });
    refused("row twice", [](Call &, Texts &wrong) { wrong.rows[1] = wrong.rows[0]; });
    refused("first offset", [](Call &, Texts &wrong) { wrong.offsets[0] = 1; });
    refused("falling offsets", [](Call &call, Texts &wrong) { wrong.offsets[1] = call.item_count + 1; });
    const auto beyond = [](const Call &call) { return static_cast<int32_t>(call.ngram_count); };
    refused("large item", [&](Call &call, Texts &wrong) { wrong.items.back() = beyond(call); });
    refused("item below 0", [](Call &, Texts &wrong) { wrong.items[0] = -1; });
    refused("large negative", [&](Call &call, Texts &wrong) { wrong.negatives[0] = beyond(call); });
    refused("negative below 0", [](Call &, Texts &wrong) { wrong.negatives.back() = -1; });
    refused("rate below 0", [](Call &, Texts &wrong) { wrong.rates[0] = -0.1f; });
    refused("rate that is no number", [&](Call &, Texts &wrong) { wrong.rates.back() = nan; });
    refused("sharpness 0", [](Call &call, Texts &) { call.sharpness = 0; });
    refused("sharpness that is no number", [&](Call &call, Texts &) { call.sharpness = nan; });
    refused("large sharpness", [](Call &call, Texts &) { call.sharpness = 41; });
    refused("negative_weight", [](Call &call, Texts &) { call.negative_weight = -1; });
    refused("negative_weight that is no number", [&](Call &call, Texts &) { call.negative_weight = nan; });
    failures += bilstm_document_vectors_run(nullptr, nullptr) == BILSTM_OK;
    failures += bilstm_document_vectors_call_size() != sizeof(Call);
    bilstm_context_destroy(context);
    return failures;
}

}  // namespace

int test_document_vectors(int64_t cases) { return compare(cases) + refuse(); }
