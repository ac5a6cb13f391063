"""Writes what transformers' slow BertTokenizer and BLIP's caption cleaning make of nasty texts.

    python make.py            with transformers 4.46; no torch needed
    python make.py --old      with 4.15, the reference's version, which writes the same files

Files, beside this one:
- vocab.txt: a made-up vocabulary that spells much and knows some words whole.
- texts.json: for each text its ids with special tokens (`reference`), its ids if their names are plain text (`fixed`), the
  ids of at most 12 tokens with both ends, the cleaned caption and the decoded `fixed` ids.
- characters.txt: for each run of code points that this Python's Unicode knows, a hash of the words of "a" + character + "b".
"""

import json
import pathlib
import re
import sys
import unicodedata

OLD = sys.argv[1:] == ["--old"]
if OLD:
    # Versions before 4.16 check the version of a package that the slow tokenizer does not use.
    sys.modules["tokenizers"] = None

from transformers import BertTokenizer  # noqa: E402

HERE = pathlib.Path(__file__).parent

WORDS = """a the of on in picture red blue green ring small large cafe naive resume sep dec un run playing deja vu
1 2 10 2024 don t s it isn n ll ve photo of dog cat and""".split()
PIECES = """##aff ##able ##ning ##s ##ing ##ed ##er ##ly ##1 ##00 ##a ##b ##c ##e ##i ##n ##o ##r ##t ##z ##ß ##σ ##ж ##ா""".split()
LETTERS = "abcdefghijklmnopqrstuvwxyzßæøđłςσωжяאع한한かカ้ाு日本語人🐶🎉€©²½∑"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»–—‘’“”…、。！？・·՚؟"


def vocabulary():
    specials = ["[PAD]"] + [f"[unused{i}]" for i in range(3)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    seen = dict.fromkeys([*specials, *PUNCTUATION, *LETTERS, *WORDS, *PIECES])
    return list(seen)


def texts():
    long_word = "a" * 100
    return [
        "", " ", "\n", "\t \u3000", ".", "...", "a", "A picture of a Red Ring.", "unaffable", "UNAFFABLE!", "runnings", "running",
        "xyzzyq", "xyzß", "Straße", "STRASSE", "café", "cafe\u0301", "CAFÉ", "naïve résumé", "déjà vu", "ÅÄÖ", "Ångström", "\u212bngstro\u0308m",
        "ǅ ǆ Ǆ", "İstanbul", "ISTANBUL", "ıspanak", "ΟΔΟΣ", "ΟΔΟΣ ΣΟΦΟΣ.", "Σ", "ΑΣ b", "ß ẞ", "ﬁne ﬂow", "Đorđe Łódź", "Ærø",
        "日本語", "a日b本c", "東京タワー", "カタカナ ひらがな", "ｶﾀｶﾅ", "ガ が", "\u30ab\u3099", "한국어", "\u1112\u1161\u11ab", "中文，标点。", "豈 更", "\U00020000\U0002f800", "𠮷野家",
        "👩\u200d👩\u200d👧\u200d👦", "🐶🎉", "❤\ufe0f", "🇩🇪 flag", "👍🏽", "a🐶b", "1\ufe0f\u20e3",
        "zero\u200bwidth", "soft\u00adhyphen", "a\u200db", "a\u2060b", "\ufeffbom", "a\ufffdb", "a\x00b", "a\x01b", "a\x0bb", "a\x0cb", "a\x1cb", "a\x1c\x1db", "a\x7fb", "a\x85b",
        "a\u2028b", "a\u2029b", "a\u00a0b", "a\u2003b", "a\u3000b", "a\u1680b", "a\u180eb", "a\rb", "a\r\nb", "a\tb", "a\t\tb", "a \t b", "a\n", "a\n\n", " a \n",
        "\ue000 private", "\u0378 unassigned", "\U000e0041tag", "\u061carabic mark", "\u202ertl\u202c",
        "don't", "it's", "isn't it?", "we'll", "dog ' s", "“quoted”", "‘a’", "a–b—c", "wait…", "a·b", "¡hola! ¿qué?", "50% off!", "$5 + 3 = 8", "a<b>c", "#tag", "@user", "a_b", "a/b\\c",
        "`code`", "^~|", "a\u0338b", "≠ ≮ ≯", "\u1fef", "\u037e", "\u00b4 \u00a8", "a\u0345", "\u0e01\u0e33 ้", "กำ", "हिन्दी", "தமிழ்", "עִבְרִית", "عَرَبِي", "ا\u0654", "\u0958", "\u1e9b\u0323",
        "Привет, мир", "ёж й", "ЖЯ", "Ѐ", "\u1d160", "½ ² ①", "Ⅷ ⅷ", "ａｂｃ ＡＢＣ １２", "𝐀𝐛", "ǆ", "ŉ", "ΐ ΰ", "ᾳ ᾼ", "Ω Ω", "K K",
        "[SEP]", "[sep]", "red[SEP]red", "red [DEC] red", "[DEC][ENC]", "[CLS]a[PAD]", "[MASK]", "[UNK] x", "[[SEP]]", "[SE P]", "[SE\u00adP]", "[ SEP ]", "[unused1]", "a[MASK]b [ENC", "##s", "##", "a ##s", "[SEP", "DEC]", "［SEP］",
        "[SEP]\n[DEC]", "É[SEP]É", "[Sep] [SEP]", "日[ENC]本",
        long_word, long_word + "a", "b" * 101 + " a", "é" * 100, "é" * 101, "한" * 33, "한" * 34, "\u0301" * 300, "a" + "\u0301" * 300 + "b", "a." * 300, "red " * 600, "日" * 500, "x" * 3000, "🐶" * 120,
        "a " * 29 + "red blue", "a  b   c", "a. b.. c...", "(a) *b* #c :d ;e ~f", "A \"quoted\" (bracketed) text: with; all~ of* it#!", "tab\tkept", "two\t tabs", "1,000 2024-10-12 10:30", "http://a.b/c?d=e&f=g#h", "a@b.c",
        "\u1e0a\u0323", "a\u0315\u0300", "\u0f73", "\u302e\u302f", "\U0001d15e", "\U0001d165\U0001d16d", "\u2126", "\u1f71 \u03ac", "\u0344", "\u0340\u0341",
    ]


def clean(caption, max_words=30):
    """The steps of the reference's caption cleaning."""
    caption = re.sub(r'[.!"()*#:;~]', " ", caption.lower())
    caption = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:max_words])


def fixed_ids(tokenizer, text):
    """Ids if the names of special tokens are plain text."""
    words = tokenizer.basic_tokenizer.tokenize("".join(c if c == "\n" else c.lower() for c in text))
    return [i for word in words for i in tokenizer.convert_tokens_to_ids(tokenizer.wordpiece_tokenizer.tokenize(word))]


def case(tokenizer, text):
    fixed = fixed_ids(tokenizer, text)
    return {
        "text": text,
        "reference": tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)),
        "fixed": fixed,
        "encoded": tokenizer(text, truncation=True, max_length=12).input_ids,
        "clean": clean(text),
        "decoded": tokenizer.decode(fixed, skip_special_tokens=True, clean_up_tokenization_spaces=True),
    }


def fnv(text, state=0xCBF29CE484222325):
    for byte in text.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def runs():
    """Runs of assigned code points, none over a border of 4096."""
    known = lambda point: unicodedata.category(chr(point)) not in ("Cn", "Cs")  # noqa: E731
    start = None
    for point in range(0x110001):
        inside = point < 0x110000 and known(point)
        if start is not None and (not inside or point % 4096 == 0):
            yield start, point
            start = None
        if inside and start is None:
            start = point


def characters(tokenizer):
    yield f"# Unicode {unicodedata.unidata_version}: first and last code point, hash of the words of each character's line"
    for start, end in runs():
        lines = (" ".join(tokenizer.basic_tokenizer.tokenize(f"a{chr(p).lower()}b")) + "\n" for p in range(start, end))
        yield f"{start:x} {end - 1:x} {fnv(''.join(lines)):016x}"


def main():
    tokens = vocabulary()
    (HERE / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(HERE / "vocab.txt"))
    if OLD:
        # What `from_pretrained` does: only then are all special tokens special within words.
        tokenizer.sanitize_special_tokens()
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    lines = [json.dumps(case(tokenizer, text)) for text in texts()]
    (HERE / "texts.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    (HERE / "characters.txt").write_text("\n".join(characters(tokenizer)) + "\n")


main()
