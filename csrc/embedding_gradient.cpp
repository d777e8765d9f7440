// Gradient of an embedding table from the gradients of the gathered rows.
// Rows of one token are added in ascending order of steps: the sum has the same bits for any number of threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "layout.h"

namespace bilstm {
namespace {

// Steps sorted by token: steps[starts[u] .. starts[u + 1]] all have token unique[u], ascending.
struct Groups {
    std::vector<int64_t> steps, starts, unique;
};

Groups group_by_token(const bilstm_call &call) {
    const int64_t N = call.total_steps, V = call.vocabulary_size;
    Groups groups;
    groups.steps.resize(static_cast<size_t>(N));
    if (V <= 8 * N + 1024) {  // counting sort: a pass over the vocabulary is cheap beside the steps
        std::vector<int64_t> place(static_cast<size_t>(V) + 1, 0);
        for (int64_t n = 0; n < N; ++n) ++place[static_cast<size_t>(call.token_ids[n]) + 1];
        for (int64_t v = 0; v < V; ++v) {
            if (place[static_cast<size_t>(v) + 1] > 0) {
                groups.unique.push_back(v);
                groups.starts.push_back(place[static_cast<size_t>(v)]);
            }
            place[static_cast<size_t>(v) + 1] += place[static_cast<size_t>(v)];
        }
        for (int64_t n = 0; n < N; ++n) groups.steps[static_cast<size_t>(place[call.token_ids[n]]++)] = n;
    } else {
        for (int64_t n = 0; n < N; ++n) groups.steps[static_cast<size_t>(n)] = n;
        std::stable_sort(groups.steps.begin(), groups.steps.end(),
                         [&](int64_t a, int64_t b) { return call.token_ids[a] < call.token_ids[b]; });
        for (int64_t i = 0; i < N; ++i) {
            const int64_t token = call.token_ids[groups.steps[static_cast<size_t>(i)]];
            if (groups.unique.empty() || groups.unique.back() != token) {
                groups.unique.push_back(token);
                groups.starts.push_back(i);
            }
        }
    }
    groups.starts.push_back(N);
    return groups;
}

struct Summation {
    const bilstm_call *call;
    const void *d_rows;
    const Groups *groups;
    decltype(Instructions::sum_rounded) sum_rounded;  // null: rows are floats
};

constexpr int64_t kTokensPerItem = 256;

// Note the token of a sum, and copy the sum if it is wanted in both places.
template <class Real>
void give_unique(const bilstm_call &call, int64_t u, int64_t token, const Real *sum) {
    if (call.d_unique == nullptr) return;
    call.unique_ids[u] = token;
    if (call.d_embedding == nullptr) return;
    std::memcpy(static_cast<Real *>(call.d_embedding) + token * call.input_size, sum,
                static_cast<size_t>(call.input_size) * sizeof(Real));
}

template <class Real>
void sum_tokens(void *argument, int64_t item, int) {
    const Summation &sum = *static_cast<const Summation *>(argument);
    const bilstm_call &call = *sum.call;
    const Groups &groups = *sum.groups;
    const int64_t I = call.input_size, count = static_cast<int64_t>(groups.unique.size());
    const Real *rows = static_cast<const Real *>(sum.d_rows);
    for (int64_t u = item * kTokensPerItem; u < std::min(count, (item + 1) * kTokensPerItem); ++u) {
        const size_t at = static_cast<size_t>(u);
        Real *first = call.d_unique != nullptr ? static_cast<Real *>(call.d_unique) + u * I
                                               : static_cast<Real *>(call.d_embedding) + groups.unique[at] * I;
        if (sum.sum_rounded != nullptr) {
            const size_t begin = static_cast<size_t>(groups.starts[at]), end = static_cast<size_t>(groups.starts[at + 1]);
            sum.sum_rounded(sum.d_rows, &groups.steps[begin], static_cast<int64_t>(end - begin),
                            static_cast<int64_t>(groups.steps.size() - end), I, call.directions, call.total_steps,
                             reinterpret_cast<float *>(first));
            give_unique(call, u, groups.unique[at], first);
            continue;
        }
        std::memcpy(first, rows + groups.steps[static_cast<size_t>(groups.starts[at])] * I,
                    static_cast<size_t>(I) * sizeof(Real));
        for (int64_t k = groups.starts[at] + 1; k < groups.starts[at + 1]; ++k) {
            const Real *row = rows + groups.steps[static_cast<size_t>(k)] * I;
            for (int64_t i = 0; i < I; ++i) first[i] += row[i];
        }
        give_unique(call, u, groups.unique[at], first);
    }
}

}  // namespace

void embedding_gradient(bilstm_context &context, bilstm_call &call, const void *d_rows) {
    if (call.d_embedding != nullptr) {
        const size_t elements = static_cast<size_t>(call.vocabulary_size) * static_cast<size_t>(call.input_size);
        std::memset(call.d_embedding, 0, elements * static_cast<size_t>(real_size(call.precision)));
    }
    call.unique_count = 0;
    if (call.total_steps == 0) return;
    const Groups groups = group_by_token(call);
    const int64_t count = static_cast<int64_t>(groups.unique.size());
    Summation sum{&call, d_rows, &groups, sum_rounded_of(call)};
    const Work work = call.precision == BILSTM_FLOAT64 ? sum_tokens<double> : sum_tokens<float>;
    context.run((count + kTokensPerItem - 1) / kTokensPerItem, work, &sum, call.precision != BILSTM_FLOAT64);
    call.unique_count = count;
}

}  // namespace bilstm
