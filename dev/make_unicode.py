#!/usr/bin/env python3
"""Writes common/files/unicode_tables.h: what tokenizers look at in a character.

    build/venv/bin/python dev/make_unicode.py > common/files/unicode_tables.h

Everything is asked of the tokenizers library, so that our tokens are its tokens: which characters its regular expressions
take for letters and numbers (Oniguruma's Unicode), which for parts of words (Rust's), and how its NFC composes (an older
Unicode). Python's own tables only say which questions to ask.
"""
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

CODES = [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000]


def matching(pattern):
    """The codes that a regular expression of one character matches."""
    text = "!".join(map(chr, CODES)) + "!"
    pieces = pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
    return [ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "!"]


def word_parts():
    """The codes beside which a token that is a single word is not taken."""
    tokenizer = Tokenizer(models.BPE(vocab={"!": 0}, merges=[]))
    tokenizer.add_tokens([AddedToken("X", single_word=True, normalized=False)])
    found = []
    for start in range(0, len(CODES), 4096):
        some = CODES[start:start + 4096]
        encoding = tokenizer.encode(" ".join("X" + chr(c) for c in some))
        alone = {a for (a, _), i in zip(encoding.offsets, encoding.ids) if i == tokenizer.token_to_id("X")}
        found += [c for k, c in enumerate(some) if 3 * k not in alone]
    return found


def ranges(codes):
    out, end, codes = [], 0x80, sorted(codes)
    i = 0
    while i < len(codes):
        k = i
        while k + 1 < len(codes) and codes[k + 1] == codes[k] + 1:
            k += 1
        gap, length = codes[i] - end, k - i + 1
        while gap > 65535:
            out.append("65535,0")
            gap -= 65535
        while length > 65535:
            out.append(f"{gap},65535")
            gap, length = 0, length - 65535
        out.append(f"{gap},{length}")
        end, i = codes[k] + 1, k + 1
    return out


def table(kind, name, items):
    print(f"static const {kind} {name}[] = {{")
    line = ""
    for k, item in enumerate(items):
        item += "," if k + 1 < len(items) else ""
        if len(line) + len(item) + 1 > 116:
            print("   " + line)
            line = ""
        line += " " + item
    print("   " + line + "\n};")


nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
composed, decomposed, classes = [], [], {}
for c in CODES:
    if 0xAC00 <= c < 0xD7A4:  # Hangul is computed
        continue
    number = unicodedata.combining(chr(c))
    # In the library's order this comes before U+0345, whose class is the largest.
    if number and (c == 0x345 or nfd("a\u0345" + chr(c)) == "a" + chr(c) + "\u0345"):
        classes.setdefault(number, []).append(c)
    if nfd(chr(c)) == chr(c):
        continue
    parts = [int(part, 16) for part in unicodedata.decomposition(chr(c)).split()] + [0]
    whole = "".join(map(chr, parts[:-1]))
    assert len(parts) in (2, 3) and nfd(whole) == nfd(chr(c)), hex(c)
    entry = f"0x{c:x},0x{parts[0]:x},{f'0x{parts[1]:x}' if parts[1] else '0'}"
    (composed if parts[1] and nfc(whole) == chr(c) else decomposed).append(entry)

print(f"""// unicode_tables.h - characters above ASCII, as tokenizers {tokenizers.__version__} sees them.
// Made by dev/make_unicode.py: change that.
#ifndef PONDER_UNICODE_TABLES_H
#define PONDER_UNICODE_TABLES_H

#include <stdint.h>

// clang-format off

// Pairs of a gap, counted from U+0080 or the end of the range before, and the length of a range: letters (\\p{{L}}),
// numbers (\\p{{N}}), what words are made of (\\w of the regex crate).""")
table("uint16_t", "unicode_letters", ranges(matching(r"\p{L}")))
table("uint16_t", "unicode_numbers", ranges(matching(r"\p{N}")))
table("uint16_t", "unicode_words", ranges(word_parts()))
print("\n// Combining classes: a class, how many pairs of numbers follow, then as above.")
items = []
for number in sorted(classes):
    pairs = ranges(classes[number])
    items += [f"{number},{len(pairs)}"] + pairs
table("uint16_t", "unicode_combining", items)
print("\n// Canonical decompositions: a code, the one or two that it stands for (0: one). These also compose,")
table("uint32_t", "unicode_composed", composed)
print("\n// and these do not.")
table("uint32_t", "unicode_decomposed", decomposed)
print("// clang-format on\n\n#endif")
