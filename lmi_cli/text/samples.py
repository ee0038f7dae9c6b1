"""Short texts of all kinds, on which two tokenizers must agree. Imports nothing."""
# ruff: noqa: RUF001 - the texts contain look-alike letters on purpose

_KINDS = (
    """It's the 1st of May 2026; they'll've SHOUTED: 'DON'T!' -- "naïve café", ½ of 3,141.59.""",
    """  def f(x: int = 0x1F) -> str:\n\t\treturn f"{x:>8}"#\r\n\r\n\n    if a<=b&&c!=d: {[()]};""",
    "   three  two 22  333 4444 5\t\ttabs \n \n  \n trailing   \n12345678901234567890 1 2  3",
    "https://example.org/a_b?c=%20&d#e <|im_end|> </s> <tool> user@example.com C:\\temp\\x.txt",
    "中文字符，没有空格。日本語のテキスト、カタカナ。 한국어 텍스트 2026년 ３４５ ٣٤٥ ⅫⅣ ²³ 𠀀",
    "العربية من اليمين إلى اليسار, עברית \u200fRTL\u200e \u202eabc\u202c हिन्दी ไทย Ελλ Русский",
    "👍🏽 👩\u200d👩\u200d👧 🇩🇪 e\u0301 o\u0308\u0323 é\u0301",
    "\u00a0nbsp\u2003em\u3000wide\u2028ls\u0085nel \ufeff\ufffd \u200b x\u00a0 y \u2009\u2009z",
    "ſ'S 'ſ K'ſ ß'ß ŉ'T ﬁ ﬀ ǅ Ⅷ ‿__‿ $€£ +−×÷ ≤∞ ¼⁄¾ ª º ʰ ͅ ᾳ İ ı K Å",
    "\x01 \x02\x0b\x0c\x1b[0m\x1c\x1f\x7f\x80\x9f",
)

_RUNS = tuple(
    f"{unit * count}|{unit * count}x {unit * count}7 {unit * count}"
    for unit in ("a", "A", " ", "\n", "\t", "é", "中", "-", "0", "ab ", "\r\n", " \n", "'s")
    for count in (3, 17, 100)
)

SAMPLES = (*_KINDS, "\n".join(_KINDS[:4]), *_RUNS)
"""Prose, code, digits, scripts, emoji, white space, look-alikes, control characters, long runs."""
