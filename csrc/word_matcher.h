// The words of a text: `bilstm/data/tokenizers.py` (lower-cased words) is the reference.
#ifndef BILSTM_WORD_MATCHER_H
#define BILSTM_WORD_MATCHER_H

#include <algorithm>
#include <cstdint>
#include <vector>

#include "word_hash.h"

namespace bilstm {

constexpr uint16_t kNotHandled = 0xFFFF;

inline bool is_ascii_letter(uint16_t unit) { return (unit | 32) >= 'a' && (unit | 32) <= 'z'; }

// Units that are copied at once where none of them needs a look at its neighbours.
constexpr int64_t kRun = 16;

// Whether `kRun` units are ASCII without '&', '<' and apostrophes; written so that compilers vectorise it.
inline bool is_plain(const uint16_t *text) {
    uint16_t odd = 0;
    for (int64_t i = 0; i < kRun; ++i) {
        const uint16_t unit = text[i];
        odd |= static_cast<uint16_t>((unit >= 128) | (unit == '&') | (unit == '<') | (unit == '\''));
    }
    return odd == 0;
}

// Lower a text into `out`, with line breaks and `n't` treated, and return how many units it has; -1 if it holds
// something for the reference. Zeros stand behind the end, so that looking ahead needs no bounds: zero is in no token.
inline int64_t prepare(const uint16_t *lower, const uint16_t *text, int64_t length, std::vector<uint16_t> &room) {
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

inline bool is_digit(uint16_t unit) { return unit >= '0' && unit <= '9'; }

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

// A word of a prepared text.
struct Token {
    const uint16_t *begin;
    int64_t length;
    uint64_t hash;
};

// What one text needs, kept from text to text.
class TokenFinder {
  public:
    TokenFinder(const uint16_t *lower, const uint8_t *letters) : lower_(lower), matcher_{letters} {}

    // Find the words of a text, calling `ask` with the hash of each as soon as it is known. False: not handled here.
    // The tokens point into this object, with three units of room behind the last one.
    template <typename Ask>
    bool find(const uint16_t *text, int64_t length, Ask ask) {
        tokens.clear();
        const int64_t size = prepare(lower_, text, length, prepared_);
        const uint16_t *p = prepared_.data(), *end = p + std::max<int64_t>(size, 0);
        while (p < end) {
            const int64_t matched = matcher_.match(p);
            if (matched == 0) {
                ++p;
                continue;
            }
            const uint64_t hash = hash_units(p, matched);
            ask(hash);
            tokens.push_back({p, matched, hash});
            p += matched;
        }
        return size >= 0;
    }

    std::vector<Token> tokens;

  private:
    const uint16_t *lower_;
    Matcher matcher_;
    std::vector<uint16_t> prepared_;
};

}  // namespace bilstm

#endif
