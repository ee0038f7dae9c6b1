"""Chat templates give what transformers makes of them, and fail in words."""

import pytest
from chat_model import TEMPLATE, build_tokenizer
from transformers import PreTrainedTokenizerFast

from lmi_cli.errors import ModelError
from lmi_cli.models import chat
from lmi_cli.models.chat import ChatTemplate

TALK = [
    {"role": "system", "content": "Be <b>brief</b>."},
    {"role": "user", "content": "  Grüße & 'quotes'\n"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And?"},
]
NAMES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}

TEMPLATES = {
    "ours": TEMPLATE,
    "blocks are trimmed": """
    {% for message in messages %}
        {{- bos_token + message.role }}
        {% if not loop.last %},{% endif %}
    {% endfor %}
    {% if add_generation_prompt %}assistant:{% endif %}
""",
    "namespace": (
        "{% set ns = namespace(found='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.found = m.content %}{% endif %}{% endfor %}[{{ ns.found | trim }}]"
    ),
    "json": "{{ messages | tojson }}{{ messages[1] | tojson(indent=2) }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|"
    "{% endfor %}",
    "macro": "{% macro turn(m) %}<{{ m['role'] }}>{{ m['content'] }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}{{ eos_token }}",
    "today": "{{ strftime_now('%Y') }}",
    "nothing else": "{{ tools is none }}{{ documents is none }}{{ unheard_of is defined }}",
}


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_that_of_transformers(name: str, answer: bool) -> None:
    stock = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(), **NAMES)
    expected = stock.apply_chat_template(
        TALK, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=answer
    )
    template = ChatTemplate(TEMPLATES[name], stock.special_tokens_map)
    assert template.render(TALK, answer=answer) == expected
    assert template.render(TALK, answer=answer) == expected, "and again"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for %}", "chat template fails"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "must not set"),
        ("{% include '/etc/passwd' %}", "no loader"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_a_model_error(source: str, said: str) -> None:
    with pytest.raises(ModelError, match="chat template fails") as caught:
        ChatTemplate(source, {}).render(TALK)
    assert said in str(caught.value)


LOOP = "{% for i in range(99999) %}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LOOP * 3 + "{% endfor %}" * 3, "takes longer than 0.3 s"),
        (
            "{% macro m(n) %}{{ m(n - 1) }}{{ m(n - 1) }}{% endmacro %}{{ m(90) }}",
            "0.3 s|recursion",
        ),
        ("{{ 'a' * 10000000000 }}", "too large"),
        ("{{ ['a'] * 100000 * 100000 }}", "too large"),
        ("{{ 10 ** 10000000 }}", "too large"),
    ],
)
def test_a_template_takes_neither_for_ever_nor_all_memory(
    monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.setattr(chat, "_MOST_SECONDS", 0.3)
    with pytest.raises(ModelError, match=said):
        ChatTemplate(source, {}).render(TALK)
    assert ChatTemplate("{{ 'ab' * 2 }}{{ 2 ** 3 }}{{ 3 * 2 }}", {}).render(TALK) == "abab86"


def test_time_that_is_not_used_up_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever instant the time is up at, nothing is raised once the template has ended."""
    monkeypatch.setattr(chat, "_MOST_SECONDS", 0.0005)
    short = ChatTemplate("{% for i in range(300) %}x{% endfor %}", {})
    ended = {"in time": 0, "too late": 0}
    for _ in range(300):
        try:
            assert len(short.render(TALK)) == 300
            ended["in time"] += 1
        except ModelError:
            ended["too late"] += 1
    assert sum(ended.values()) == 300
