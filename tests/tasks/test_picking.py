"""Which sentences are picked, and from what."""

import pytest

from lmi_cli.tasks.picking import Picker

GREEN = "The green grass of the northern meadows feeds the cattle of many farms."
BLUE = "The blue water of the southern lakes feeds the mills of several towns."
ROADS = "Broad roads connect the meadows of the north with the lakes of the south."
FILLER = "Nobody has ever written down what happened there on that day."


def picker(*parts: str, tokens: int = 100, **options: object) -> Picker:
    text, spans = "", []
    for part in parts:
        spans.append((len(text), len(text) + len(part)))
        text += part + "\n\n"
    return Picker(text, spans, [tokens] * len(spans), **options)  # type: ignore[arg-type]


def candidates(text: str, **options: object) -> list[str]:
    return [sentence.said for sentence in picker(text, **options).sentences[0]]


@pytest.mark.parametrize(
    "text",
    [
        "The grass is green.",  # too short
        "the green grass of the northern meadows feeds the cattle of many farms.",
        "A Heading About the Green Grass of the Northern Meadows and All the Farms",
        "The rate of growth is given by f(x) = a * x + b for all of the farms in question here.",
        "More on the green grass of the northern meadows stands at https://example.com for all.",
        "Permission is granted to copy the text about the green grass of the northern meadows.",
        "word " * 60 + "end.",
    ],
)
def test_what_is_no_sentence_of_prose(text: str) -> None:
    assert candidates(f"{GREEN}\n\n{text}") == [GREEN]


def test_speech_only_where_there_is_nothing_else() -> None:
    speech = "“I have never seen the green grass of the northern meadows,” said the old farmer."
    assert candidates(f"{GREEN} {speech}") == [GREEN]
    assert candidates(f"{speech} Yes.") == [speech]


def test_headings_in_front_of_a_sentence() -> None:
    text = f"3.2 On meadows\n{GREEN}\nChapter 3: Meadows 17\n{BLUE} 12\nLakes\n{ROADS}"
    assert candidates(text) == [GREEN, BLUE, ROADS]


def test_no_sentence_crosses_a_border() -> None:
    text = f"{GREEN} The blue water of the southern\nlakes feeds the mills of several towns."
    assert len(candidates(text)) == 2
    assert candidates(text, borders=[0, text.index("lakes")]) == [GREEN]


def test_code_speaks_in_comments() -> None:
    text = f'"""{GREEN} {BLUE}"""\nx = "{ROADS}"\n'
    assert candidates(text, code={0: ".py"}) == [GREEN]


def test_what_many_sentences_are_about_comes_first() -> None:
    text = f"{FILLER} The green grass of the meadows grows. {GREEN} Meadows are green."
    (best,) = picker(text, FILLER).of_part(0, 1)
    assert best.said == GREEN


def test_picked_sentences_are_in_order_and_do_not_repeat_each_other() -> None:
    again = GREEN.replace("many", "all the")
    one = picker(f"{BLUE} {GREEN} {again} {ROADS}")
    picked = [sentence.said for sentence in one.of_document(4, [0])]
    assert len(picked) == 3 and picked[0] == BLUE and picked[-1] == ROADS
    besides = [sentence for sentence in one.sentences[0] if sentence.said == BLUE]
    assert BLUE not in [sentence.said for sentence in one.of_part(0, 4, besides)]


def test_a_long_document_has_a_share_in_each_of_its_spans() -> None:
    names = ["meadow", "village", "forest", "river", "harbour", "castle", "bridge"]
    parts = [
        "The " + " ".join(f"{word}{'abcdefghij'[n % 10]}{'abcd'[n // 10]}" for word in names) + "."
        for n in range(40)
    ]
    picked = picker(*parts, tokens=4096).of_document(4, range(40))
    places = [sentence.begin / sum(len(part) + 2 for part in parts) for sentence in picked]
    assert [int(4 * place) for place in places] == [0, 1, 2, 3]
    first = picker(*parts, tokens=100).of_document(4, range(40))
    assert [sentence.said for sentence in first] != [sentence.said for sentence in picked]


def test_bonuses_decide() -> None:
    one = picker(f"{GREEN} {BLUE} {ROADS}")
    bonus = {sentence: 9.0 * (sentence.said == BLUE) for sentence in one.sentences[0]}
    assert [sentence.said for sentence in one.of_document(1, [0], bonus)] == [BLUE]


class TestSupport:
    def test_share_of_words(self) -> None:
        one = picker(f"{GREEN} {FILLER}", f"{BLUE} {FILLER}")
        share, nearest = one.support("Green grass feeds cattle on meadows.", [0, 1])
        assert share == 1.0 and nearest is not None and nearest.said == GREEN
        share, nearest = one.support("The mills of the towns use blue water.", [0, 1])
        assert share > 0.6 and nearest is not None and nearest.said == BLUE
        share, _ = one.support("Napoleon Bonaparte conquered Moscow.", [0, 1])
        assert share == 0.0

    def test_words_may_be_left_out(self) -> None:
        one = picker(GREEN)
        share, _ = one.support("The text describes green grass.", [0])
        assert share < 0.8
        share, _ = one.support("The text describes green grass.", [0], {"text", "describes"})
        assert share == 1.0

    def test_nothing_supports_nothing(self) -> None:
        assert picker(GREEN).support("", [0]) == (0.0, None)
        assert picker(GREEN).support("Green.", []) == (0.0, None)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "1 2 3", "no sentence at all", "。", "x = 1;"])
def test_texts_without_sentences(text: str) -> None:
    one = picker(text)
    assert one.of_part(0, 2) == one.of_document(3, [0]) == []


def test_chinese() -> None:
    text = "北部的草原养活了许多农场的牛群和羊群。南部的湖水推动了几个城镇的磨坊。道路连接南北。"
    assert [sentence.said for sentence in picker(text).sentences[0]][:2] == [
        "北部的草原养活了许多农场的牛群和羊群。", "南部的湖水推动了几个城镇的磨坊。",
    ]  # fmt: skip
