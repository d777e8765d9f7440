// Texts to word ids and n-gram margins; bilstm_words.h says what, `bilstm/data/tokenizers.py` is the reference.
#include "bilstm_words.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

#if defined(__GNUC__) || defined(__clang__)
#define BILSTM_PREFETCH(address) __builtin_prefetch(address)
#else
#define BILSTM_PREFETCH(address) static_cast<void>(address)
#endif

// Four units at a time: most words are one or two multiplications. Reads up to three units behind the word, which the
// caller has room for; they do not count.
uint64_t hash_units(const uint16_t *units, int64_t length) {
    uint64_t hash = static_cast<uint64_t>(length) * 0x9E3779B97F4A7C15ull;
    for (; length > 0; units += 4, length -= 4) {
        uint64_t four = 0;
        for (int64_t i = 0; i < 4; ++i) {  // one load, in either order of bytes
            four |= static_cast<uint64_t>(units[i]) << (16 * i);
        }
        if (length < 4) four &= (1ull << (16 * length)) - 1;
        hash = (hash ^ four) * 0xD6E8FEB86659FD93ull;
        hash ^= hash >> 32;
    }
    return hash;
}

uint64_t hash_key(int64_t key) {
    uint64_t hash = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull;
    return hash ^ (hash >> 32);
}

int64_t slots_for(int64_t count) {
    int64_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    return slots;
}

}  // namespace

// Both ids of a word stand in one slot. The units of all words follow each other, each word behind its length.
struct bilstm_vocabulary {
    struct Slot {
        uint32_t tag, begin;  // begin 0: empty (the length of the first word stands there)
        int32_t ids[2];
    };
    std::vector<uint16_t> units;
    std::vector<Slot> slots;
    int32_t missing[2];

    bool is_word(const Slot &slot, const uint16_t *word, int64_t length) const {
        const uint16_t *own = units.data() + slot.begin;
        return (static_cast<int64_t>(own[-1]) << 16 | own[-2]) == length &&
               std::memcmp(own, word, length * sizeof(uint16_t)) == 0;
    }

    const int32_t *find(const uint16_t *word, int64_t length, uint64_t hash) const {
        const uint64_t mask = slots.size() - 1;
        for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
            const Slot &slot = slots[at];
            if (slot.begin == 0) return missing;
            if (slot.tag == static_cast<uint32_t>(hash >> 32) && is_word(slot, word, length)) return slot.ids;
        }
    }
};

namespace {

constexpr uint16_t kNotHandled = 0xFFFF;

bool is_ascii_letter(uint16_t unit) { return (unit | 32) >= 'a' && (unit | 32) <= 'z'; }

// Units that are copied at once where none of them needs a look at its neighbours.
constexpr int64_t kRun = 16;

// Whether `kRun` units are ASCII without '&', '<' and apostrophes; written so that compilers vectorise it.
bool is_plain(const uint16_t *text) {
    uint16_t odd = 0;
    for (int64_t i = 0; i < kRun; ++i) {
        const uint16_t unit = text[i];
        odd |= static_cast<uint16_t>((unit >= 128) | (unit == '&') | (unit == '<') | (unit == '\''));
    }
    return odd == 0;
}

// Lower a text into `out`, with line breaks and `n't` treated, and return how many units it has; -1 if it holds
// something for the reference. Zeros stand behind the end, so that looking ahead needs no bounds: zero is in no token.
int64_t prepare(const uint16_t *lower, const uint16_t *text, int64_t length, std::vector<uint16_t> &room) {
    static const char kBreak[] = "<br />";
    const size_t most = static_cast<size_t>(length + length / 3 + kRun + 8);  // "n't" grows by one unit
    if (room.size() < most) room.resize(most);
    uint16_t *const out = room.data();
    int64_t size = 0;
    for (int64_t i = 0; i < length; ++i) {
        // a 't' behind an apostrophe is looked at below
        while (i + kRun <= length && (size == 0 || out[size - 1] != '\'') && is_plain(text + i)) {
            for (int64_t j = 0; j < kRun; ++j) {
                const uint16_t unit = text[i + j];
                const bool is_capital = static_cast<uint16_t>(unit - 'A') < 26;
                out[size + j] = static_cast<uint16_t>(unit + (is_capital ? 32 : 0));
            }
            i += kRun;
            size += kRun;
        }
        if (i >= length) break;
        const uint16_t unit = text[i];
        if (unit == '&' && i + 1 < length && (text[i + 1] == '#' || is_ascii_letter(text[i + 1]))) {
            // an entity needs a semicolon at most 34 units on
            const int64_t last = std::min(length, i + 36);
            for (int64_t j = i + 1; j < last; ++j) {
                if (text[j] == ';') return -1;
            }
        }
        if (unit == '<') {
            int64_t same = 0;
            while (same < 6 && i + same < length && text[i + same] == static_cast<uint16_t>(kBreak[same])) ++same;
            if (same == 6) {
                out[size++] = ' ';
                i += 5;
                continue;
            }
            const int64_t next = i + 1 < length && text[i + 1] == '/' ? i + 2 : i + 1;
            // a break right behind "<" or "</" would join what stands around it, but puts a blank there: no tag
            if (next < length && is_ascii_letter(text[next])) return -1;
        }
        const uint16_t small = lower[unit];
        if (small == kNotHandled) return -1;
        if (small == 't' && size >= 2 && out[size - 1] == '\'' && out[size - 2] == 'n') {
            out[size - 2] = ' ';
            out[size - 1] = 'n';
            out[size++] = '\'';
        }
        out[size++] = small;
    }
    std::fill_n(out + size, 4, static_cast<uint16_t>(0));
    return size;
}

bool is_digit(uint16_t unit) { return unit >= '0' && unit <= '9'; }

// The token that starts at p, in the order of the alternatives of the reference's expression; 0 if none does.
struct Matcher {
    const uint8_t *letters;

    bool letter(uint16_t unit) const { return letters[unit] != 0; }

    int64_t number(const uint16_t *p) const {
        int64_t end = 0, best = 0;
        while (is_digit(p[end])) ++end;
        while (p[end] == '.' || p[end] == ',' || p[end] == '/') {
            int64_t next = end + 1;
            while (is_digit(p[next])) ++next;
            if (next == end + 1) break;
            end = next;
            if (!letter(p[end])) best = end;
        }
        return best;
    }

    int64_t clitic(const uint16_t *p) const {
        const uint16_t a = p[1], b = a == 0 ? 0 : p[2];
        if ((a == 's' || a == 'd' || a == 'm') && !letter(b)) return 2;
        if (((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) && !letter(p[3])) return 3;
        return 0;
    }

    int64_t mouth(const uint16_t *p) const {
        const uint16_t unit = p[0];
        if (unit == ')' || unit == '(') {
            int64_t end = 1;
            while (p[end] == unit) ++end;
            return end;
        }
        if (unit == ']' || unit == '[' || unit == '|' || unit == '\\' || unit == '*') return 1;
        if (unit == '/') return p[1] == '/' ? 0 : 1;
        if (unit == 'd' || unit == 'p' || unit == 'o') return letter(p[1]) ? 0 : 1;
        return 0;
    }

    int64_t emoticon(const uint16_t *p) const {
        const uint16_t nose = p[1];
        if (nose == '-' || nose == '^' || nose == 'o' || nose == '\'') {
            if (const int64_t end = mouth(p + 2)) return end + 2;
        }
        const int64_t end = nose == 0 ? 0 : mouth(p + 1);
        return end ? end + 1 : 0;
    }

    int64_t line(const uint16_t *p, uint16_t edge) const {  // ^_^ and -_-
        int64_t end = 1;
        while (p[end] == '_') ++end;
        return end > 1 && p[end] == edge ? end + 1 : 0;
    }

    int64_t match(const uint16_t *p) const {
        const uint16_t unit = p[0];
        if (unit == 'n' && p[1] == '\'' && p[2] == 't' && !letter(p[3])) return 3;
        if (is_digit(unit)) {
            if (const int64_t end = number(p)) return end;
        }
        if (letter(unit)) {
            int64_t end = 1;
            while (letter(p[end])) ++end;
            return end;
        }
        switch (unit) {
            case '\'': return clitic(p);
            case '!':
            case '?': return 1;
            case ':':
            case ';':
            case '=': return emoticon(p);
            case '<': {
                const int64_t at = p[1] == '/' ? 2 : 1;
                return p[at] == '3' && !is_digit(p[at + 1]) ? at + 1 : 0;
            }
            case '^':
            case '-': return line(p, unit);
            default: return 0;
        }
    }
};

}  // namespace

int bilstm_words_version(void) { return BILSTM_WORDS_VERSION; }

bilstm_vocabulary *bilstm_vocabulary_create(const uint16_t *units, const int64_t *offsets, const int32_t *ids,
                                            int64_t count, const int32_t *missing) {
    try {
        auto made = std::make_unique<bilstm_vocabulary>();
        std::copy_n(missing, 2, made->missing);
        made->units.reserve(offsets[count] + 2 * count + 4);
        made->slots.assign(slots_for(count), {0, 0, {0, 0}});
        const uint64_t mask = made->slots.size() - 1;
        std::vector<uint32_t> begins;
        for (int64_t word = 0; word < count; ++word) {
            const int64_t length = offsets[word + 1] - offsets[word];
            made->units.push_back(static_cast<uint16_t>(length & 0xFFFF));
            made->units.push_back(static_cast<uint16_t>(length >> 16));
            begins.push_back(static_cast<uint32_t>(made->units.size()));
            made->units.insert(made->units.end(), units + offsets[word], units + offsets[word + 1]);
        }
        made->units.insert(made->units.end(), 4, 0);
        for (int64_t word = 0; word < count; ++word) {
            const int64_t length = offsets[word + 1] - offsets[word];
            if (length == 0) continue;  // is no token
            const uint64_t hash = hash_units(made->units.data() + begins[word], length);
            uint64_t at = hash & mask;
            while (made->slots[at].begin != 0) at = (at + 1) & mask;
            made->slots[at] = {static_cast<uint32_t>(hash >> 32), begins[word], {ids[2 * word], ids[2 * word + 1]}};
        }
        return made.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void bilstm_vocabulary_free(bilstm_vocabulary *vocabulary) { delete vocabulary; }

namespace {

struct Token {
    const uint16_t *begin;
    int64_t length;
    uint64_t hash;
};

}  // namespace

int bilstm_words_encode(const uint16_t *lower, const uint8_t *letters, const bilstm_vocabulary *vocabulary,
                        const uint16_t *units, const int64_t *offsets, int64_t n, int64_t *const *ids, int64_t *ends,
                        uint8_t *handled) {
    try {
        const Matcher matcher{letters};
        const uint64_t mask = vocabulary->slots.size() - 1;
        std::vector<uint16_t> prepared;
        std::vector<Token> tokens;
        int64_t count = 0;
        for (int64_t text = 0; text < n; ++text) {
            const int64_t size = prepare(lower, units + offsets[text], offsets[text + 1] - offsets[text], prepared);
            handled[text] = size >= 0;
            const uint16_t *p = prepared.data(), *end = p + std::max<int64_t>(size, 0);
            tokens.clear();
            while (p < end) {
                const int64_t length = matcher.match(p);
                if (length == 0) {
                    ++p;
                    continue;
                }
                const uint64_t hash = hash_units(p, length);
                BILSTM_PREFETCH(&vocabulary->slots[hash & mask]);
                tokens.push_back({p, length, hash});
                p += length;
            }
            // The tables are larger than the caches: what a word needs is asked for before it is read.
            for (const Token &token : tokens) {
                const bilstm_vocabulary::Slot &slot = vocabulary->slots[token.hash & mask];
                BILSTM_PREFETCH(vocabulary->units.data() + slot.begin);
            }
            for (const Token &token : tokens) {
                const int32_t *found = vocabulary->find(token.begin, token.length, token.hash);
                ids[0][count] = found[0];
                if (ids[1] != nullptr) ids[1][count] = found[1];
                ++count;
            }
            ends[text] = count;
        }
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        return BILSTM_ERROR_MEMORY;
    }
}

// ---- n-grams ---------------------------------------------------------------------------------------------------------

// A slot names a key by its number; the rest of the hash tells most others apart without a look at the keys.
struct bilstm_ngrams {
    struct Slot {
        uint32_t tag, number;  // number: place among the keys + 1; 0: empty
    };
    struct Order {
        std::vector<Slot> slots;
        std::vector<int64_t> keys;
        uint32_t start;  // its first feature
    };
    struct Model {
        int64_t outputs, features;
        const float *weights;
        const double *intercepts, *inverse_frequency;
    };
    int64_t words = 0;
    std::vector<Order> orders;  // from pairs on
    std::vector<Model> models;

    static int64_t find(const Order &order, int64_t key, uint64_t hash) {
        const uint64_t mask = order.slots.size() - 1;
        for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
            const Slot &slot = order.slots[at];
            if (slot.number == 0) return -1;
            if (slot.tag == static_cast<uint32_t>(hash >> 32) && order.keys[slot.number - 1] == key) {
                return slot.number - 1;
            }
        }
    }
};

bilstm_ngrams *bilstm_ngrams_create(int64_t words, int orders, const int64_t *const *keys, const int64_t *sizes) {
    try {
        auto made = std::make_unique<bilstm_ngrams>();
        made->words = words;
        int64_t start = words;
        for (int order = 0; order < orders; ++order) {
            bilstm_ngrams::Order one;
            one.slots.assign(slots_for(sizes[order]), {0, 0});
            one.keys.assign(keys[order], keys[order] + sizes[order]);
            one.start = static_cast<uint32_t>(start);
            const uint64_t mask = one.slots.size() - 1;
            for (int64_t i = 0; i < sizes[order]; ++i) {
                const uint64_t hash = hash_key(one.keys[i]);
                uint64_t at = hash & mask;
                while (one.slots[at].number != 0) at = (at + 1) & mask;
                one.slots[at] = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(i + 1)};
            }
            made->orders.push_back(std::move(one));
            start += sizes[order];
        }
        return made.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

int bilstm_ngrams_add(bilstm_ngrams *ngrams, int64_t outputs, int64_t features, const float *weights,
                      const double *intercepts, const double *inverse_frequency) {
    try {
        ngrams->models.push_back({outputs, features, weights, intercepts, inverse_frequency});
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

void bilstm_ngrams_free(bilstm_ngrams *ngrams) { delete ngrams; }

namespace {

// Sort by the lowest `bits` bits, eight at a time; a text has hundreds of n-grams, and comparing them is slower.
void sort_features(std::vector<uint32_t> &features, std::vector<uint32_t> &room, int bits) {
    constexpr size_t kFew = 48;
    if (features.size() <= kFew) {
        std::sort(features.begin(), features.end());
        return;
    }
    room.resize(features.size());
    for (int shift = 0; shift < bits; shift += 8) {
        uint32_t starts[256] = {};
        for (const uint32_t feature : features) ++starts[feature >> shift & 255];
        uint32_t sum = 0;
        for (uint32_t &start : starts) {
            const uint32_t count = start;
            start = sum;
            sum += count;
        }
        for (const uint32_t feature : features) room[starts[feature >> shift & 255]++] = feature;
        features.swap(room);
    }
}

int bits_of(uint64_t largest) {
    int bits = 0;
    while (largest >> bits) ++bits;
    return bits;
}

// What one text needs, kept from text to text.
struct Work {
    std::vector<uint32_t> found, room, features, counts;
    std::vector<int64_t> before, keys;
    std::vector<uint64_t> hashes;
    std::vector<double> values;
};

// Gather the features of a text in ascending order, each with how often it occurs.
void find_features(const bilstm_ngrams &ngrams, const int64_t *row, int64_t length, int bits, Work &work) {
    work.found.clear();
    work.before.assign(row, row + length);
    work.keys.resize(length);
    work.hashes.resize(length);
    for (int64_t i = 0; i < length; ++i) {
        if (row[i] >= 0) work.found.push_back(static_cast<uint32_t>(row[i]));
    }
    int64_t span = 0;
    for (const bilstm_ngrams::Order &order : ngrams.orders) {
        // before[i]: the n-gram one shorter that starts at i; an n-gram starts at i if that and its last word do
        ++span;
        const uint64_t mask = order.slots.size() - 1;
        for (int64_t i = 0; i + span < length; ++i) {
            const bool is_whole = work.before[i] >= 0 && row[i + span] >= 0;
            work.keys[i] = is_whole ? work.before[i] * ngrams.words + row[i + span] : -1;
            work.hashes[i] = hash_key(work.keys[i]);
            if (is_whole) BILSTM_PREFETCH(&order.slots[work.hashes[i] & mask]);
        }
        for (int64_t i = 0; i + span < length; ++i) {
            const int64_t index = work.keys[i] < 0 ? -1 : bilstm_ngrams::find(order, work.keys[i], work.hashes[i]);
            work.before[i] = index;
            if (index >= 0) work.found.push_back(order.start + static_cast<uint32_t>(index));
        }
    }
    sort_features(work.found, work.room, bits);
    work.features.clear();
    work.counts.clear();
    for (const uint32_t feature : work.found) {
        if (!work.features.empty() && work.features.back() == feature) {
            ++work.counts.back();
        } else {
            work.features.push_back(feature);
            work.counts.push_back(1);
        }
    }
}

// Margins of one model, (outputs), `stride` apart.
void add_up(const bilstm_ngrams::Model &model, const double *levels, Work &work, int64_t stride, double *margins) {
    const auto &features = work.features;
    const size_t used = std::lower_bound(features.begin(), features.end(), model.features) - features.begin();
    work.values.assign(used, 1.0);
    if (model.inverse_frequency != nullptr) {
        double squares = 0.0;
        for (size_t i = 0; i < used; ++i) {
            work.values[i] = levels[work.counts[i]] * model.inverse_frequency[features[i]];
            squares += work.values[i] * work.values[i];
        }
        const double norm = std::sqrt(squares);
        for (size_t i = 0; i < used; ++i) work.values[i] /= norm;
    }
    for (int64_t output = 0; output < model.outputs; ++output) {
        const float *weights = model.weights + output * model.features;
        double sum = 0.0;
        for (size_t i = 0; i < used; ++i) sum += work.values[i] * static_cast<double>(weights[features[i]]);
        margins[output * stride] = sum + model.intercepts[output];
    }
}

}  // namespace

int bilstm_ngrams_margins(const bilstm_ngrams *ngrams, const int64_t *words, const int64_t *offsets, int64_t n,
                          const double *levels, int64_t level_count, double *margins) {
    try {
        const int64_t model_count = static_cast<int64_t>(ngrams->models.size());
        uint64_t largest = static_cast<uint64_t>(ngrams->words);
        if (!ngrams->orders.empty()) largest = ngrams->orders.back().start + ngrams->orders.back().keys.size();
        Work work;
        for (int64_t text = 0; text < n; ++text) {
            find_features(*ngrams, words + offsets[text], offsets[text + 1] - offsets[text], bits_of(largest), work);
            for (const uint32_t count : work.counts) {
                if (count >= level_count) return BILSTM_ERROR_ARGUMENT;
            }
            for (int64_t number = 0; number < model_count; ++number) {
                const bilstm_ngrams::Model &model = ngrams->models[number];
                add_up(model, levels, work, model_count, margins + text * model.outputs * model_count + number);
            }
        }
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        return BILSTM_ERROR_MEMORY;
    }
}
