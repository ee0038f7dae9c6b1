"""How byte-level vocabularies of GGUF files split text into words before they merge bytes.

A file names its rule (``tokenizer.ggml.pre``) and does not hold it. The names are those of
llama.cpp's converter (``src/llama-vocab.cpp``); each rule is that of the tokenizer.json of the
models for which the name was made, named beside it. All but those that the last lines of
`tests/checkpoints/test_gguf_splits.py` list give the tokens of llama.cpp. Imports the standard
library only.
"""

from dataclasses import dataclass

WORDS = "words"
"""The step that is GPT-2's expression (Radford et al. 2019, encoder.py)."""
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""That expression, for where other steps follow."""
EACH_DIGIT = "digits"
"""The step that makes a word of each number sign."""


@dataclass(frozen=True, slots=True)
class Split:
    """A rule.

    Attributes:
        steps: Regular expressions in the syntax of Oniguruma, or one of the steps above. Each is
            applied to what the steps before it have left whole; what matches becomes a word.
        whole_words: Whether a word that is a token is taken without looking at the merges.
        begins: Whether a sequence begins with BOS where the file does not say.
    """

    steps: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_OR_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_LINES = r"\s*[\r\n]+"
_SPACES = r"\s+(?!\S)|\s+"
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CHINESE_OR_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CHINESE_OR_KOREAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_THREE_DIGITS = "[0-9][0-9][0-9]"


def _either(*alternatives: str) -> str:
    return "|".join(alternatives)


def _by_case(*, ending: str = "", without: str = "") -> str:
    """Words of at most one change from capitals to small letters."""
    upper, lower = (f"[{letters}{without}]" for letters in (_UPPER, _LOWER))
    before = r"[^\r\n\p{L}\p{N}]?"
    return _either(f"{before}{upper}*{lower}+{ending}", f"{before}{upper}+{lower}*{ending}")


def _llama3(numbers: str, spaces: str = _SPACES) -> str:
    """Llama 3's expression, of cl100k_base, with another way to split numbers."""
    return _either(_CONTRACTIONS, _LETTERS, numbers, _SIGNS, _LINES, spaces)


def _gpt4o(numbers: str = r"\p{N}{1,3}", ending: str = f"{_CONTRACTIONS}?") -> str:
    """The expression of o200k_base."""
    return _either(_by_case(ending=ending), numbers, _SIGNS_OR_SLASH, _LINES, _SPACES)


def _first_of_threes(digit: str) -> str:
    """Of a number alone, the one or two digits before groups of three.

    To look from each group for the end of the number takes time that grows with its square.
    """
    return rf"\A{digit}{{1,2}}(?=(?:{digit}{{3}})+\z)"


_GPT2 = Split((WORDS,))
_DIGIT_BY_DIGIT = Split((EACH_DIGIT, WORDS))
_QWEN2 = Split((_llama3(r"\p{N}"),))
_CL100K = Split((_llama3(r"\p{N}{1,3}"),))
_LLAMA3 = Split(_CL100K.steps, whole_words=True, begins=True)
_GPT4O = Split((_gpt4o(),))
_AFTER_PUNCTUATION = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
)
_DEEPSEEK_V3_WORDS = _either(*_AFTER_PUNCTUATION, r" ?[\p{P}\p{S}]+[\r\n]*", _LINES, _SPACES)
_DEEPSEEK_V3 = Split((r"\p{N}{1,3}", _CHINESE_OR_KANA, _DEEPSEEK_V3_WORDS))
# The letters with case of an older Unicode, and without mathematical ones.
_CASED = (
    r"[\p{Lu}\p{Ll}\p{Lt}"
    "\u0295&&[^\u0560-\u0588\u10c7\u10cd\u10d0-\u10ff\u1c80-\u1c8a\u2d00-\u2d2d\ua790-\ua7fa"
    "\uab30-\uab6d\U00010570-\U000105bc\U00010d50-\U00010d85\U00016e40-\U0001df96]]"
)
_DEEPSEEK_LLM = Split(
    (
        "[\r\n]",
        rf"\s?{_CASED}+",
        r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"(?<!\s)\s+$",
        _CHINESE_OR_KOREAN,
        r"\p{N}+",
    )
)
_BETWEEN_STOPS = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_FALCON_SIGNS = r"[\p{P}$+<=>^~|`]+"

SPLITS: dict[str, Split] = {
    # What llama.cpp does for files that do not name their rule, as old ones.
    "default": Split((_FALCON_SIGNS.replace("`", ""), WORDS, r"\p{N}+", _THREE_DIGITS)),
    # GPT-2, and whoever took its expression.
    **dict.fromkeys(
        (
            "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat",
            "a.x-4.0", "mellum", "exaone4", "modern-bert", "roberta-bpe", "jina-es", "jina-de",
            "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code",
        ),
        _GPT2,
    ),
    # StarCoder, Command R, SmolLM.
    **dict.fromkeys(
        (
            "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
            "mellum2",
        ),
        _DIGIT_BY_DIGIT,
    ),
    # Llama 3, Falcon 3, LFM2.
    **dict.fromkeys(
        (
            "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
            "lfm2", "jina-v5-nano",
        ),
        _LLAMA3,
    ),
    # DBRX, Smaug, GLM 4: the same words, made by merges alone.
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _CL100K),
    # Qwen 2, StableLM 2, Hunyuan, Grok 2.
    **dict.fromkeys(
        (
            "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan",
            "solar-open", "grok-2",
        ),
        _QWEN2,
    ),
    # Qwen 3.5: marks belong to letters.
    "qwen35": Split(
        (
            _either(
                _CONTRACTIONS,
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                r"\p{N}",
                r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
                _LINES,
                _SPACES,
            ),
        )
    ),
    # GPT-4o and gpt-oss, Llama 4, MiniMax M2.
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _GPT4O),
    "granite-embed-multi-97m": Split(_GPT4O.steps, whole_words=True),
    # Mistral's Tekken.
    "tekken": Split((_gpt4o(r"\p{N}", ending=""),), whole_words=True, begins=True),
    # Command A: digits in threes from the right.
    **dict.fromkeys(
        ("tiny_aya", "cohere2moe"),
        Split((r"(?<!\d)\d+\b", _first_of_threes(r"\d"), *_GPT4O.steps)),
    ),
    # Tencent's Youtu.
    "youtu": Split(
        (
            "[\uac00-\ud7a3\u3131-\u318e]+"
            "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
            "\ufe30-\ufe4f]+"
            f"|[\u3105-\u312f]+|{_CHINESE_OR_KANA}",
            _gpt4o(r"\p{N}"),
        ),
        whole_words=True,
    ),
    # DeepSeek LLM, Coder and V3.
    "deepseek-llm": _DEEPSEEK_LLM,
    "deepseek-coder": Split(
        ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_OR_KOREAN, r"\p{N}")
    ),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _DEEPSEEK_V3),
    # iFlytek's Spark.
    "spark2_5": Split(
        (
            r"\p{N}{1,3}",
            _CHINESE_OR_KANA,
            _either(*_AFTER_PUNCTUATION, r" ?[\p{P}\p{S}]+", r"[\r\n]", _SPACES),
            r"\p{N}",
        )
    ),
    # Falcon.
    "falcon": Split((_FALCON_SIGNS, WORDS, _THREE_DIGITS)),
    # BLOOM, Poro, Viking.
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), Split((_BETWEEN_STOPS,))),
    "viking": Split((_BETWEEN_STOPS, r"\p{N}")),
    # Jais 2: runs of blanks in powers of two.
    "jais-2": Split(
        (
            _llama3(
                r"\p{N}{1,3}",
                _either(
                    *(rf"\s{{{2**power}}}(?!\S)" for power in range(9, 1, -1)),
                    r"\s{1,2}(?!\S)",
                    r"\s",
                ),
            ),
        )
    ),
    # Chameleon: names of images, then signs one by one.
    "chameleon": Split(
        (
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            "[\t\n]|    |  ",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            WORDS,
        )
    ),
    # SuperBPE: only numbers are split, in threes from the right.
    "superbpe": Split(
        (
            r"\p{N}+",
            r"(?:(?<=\D|\A)|(?<=\D\d|\A\d)|(?<=\D\d\d|\A\d\d))(?=(?:\d{3})+(?!\d))",
            r"\d{3}(?=\d{3})",
        )
    ),
    # Ling and LLaDA.
    **dict.fromkeys(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        Split((_either(_CONTRACTIONS, _LETTERS, r"\p{N}", _SIGNS, r"\s*[\r\n]", _SPACES),)),
    ),
    # Seed-Coder.
    "seed-coder": Split(
        (
            _either(
                _CONTRACTIONS, _LETTERS, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+", _LINES, _SPACES
            ),
        )
    ),
    # Kimi K2: Chinese characters apart.
    "kimi-k2": Split(
        (
            _either(
                r"\p{Han}+",
                _by_case(ending=f"{_CONTRACTIONS}?", without=r"&&[^\p{Han}]"),
                r"\p{N}{1,3}",
                _SIGNS,
                _LINES,
                _SPACES,
            ),
        )
    ),
    # Arcee's AFM: digits in threes from the right.
    "afmoe": Split(
        (
            r"\p{N}+",
            _first_of_threes(r"\p{N}"),
            r"\p{N}{3}",
            "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f"
            "\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f"
            "\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
            _DEEPSEEK_V3_WORDS,
        )
    ),
    # Poolside's Laguna: line breaks apart.
    "laguna": Split((r"[^\n]+|\n+", *_QWEN2.steps)),
    # EXAONE MoE: a word may be several, with one blank between.
    "exaone-moe": Split(
        (
            _either(
                _CONTRACTIONS,
                r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
                r"\p{N}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]?",
                r"\s*[\r\n]",
                _SPACES,
            ),
        )
    ),
    # MiniCPM 5.
    "minicpm5": Split((r"\p{N}{1,3}", _llama3(r"\p{N}+")), whole_words=True),
    # Ufuk's Zeka: no English contractions.
    "ufakzeka": Split((_either(_LETTERS, r"\p{N}", _SIGNS, _LINES, _SPACES),)),
}  # fmt: skip
"""Every rule by its name."""
