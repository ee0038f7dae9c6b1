"""Prompts in given words: word for word, in one turn, the same for a stream."""

import json
from pathlib import Path

import pytest
from chat_model import TEMPLATE, build_tokenizer

from lmi_cli.evaluation.files import read_tasks
from lmi_cli.evaluation.forms.base import RecordFile
from lmi_cli.evaluation.forms.longbench import TASKS
from lmi_cli.evaluation.words import WordsFile, words_for
from lmi_cli.models.chat import ChatTemplate
from lmi_cli.text.prompts import Prompt
from lmi_cli.text.task_prompts import TaskPrompts
from lmi_cli.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(build_tokenizer(), bos_id=0)

# The shapes that LongBench's prompts have, in words of our own.
QUESTION = "Read this.\n\nStory: {context}\n\nAnswer now. \n\nQuestion: {input}\n\nAnswer:"
ALONE = "Read this: {context}\n\nSum it up.\n\nSummary: "
SHAPES = {
    "gov_report": ALONE,
    "multi_news": ALONE,
    "vcsum": "总结:{context}\n总结:",
    "passage_count": "Count. {context}\n\nHow many?\n\nThe number is: ",
    "lcc": "Complete.\n{context}Next line:\n",
    "repobench-p": "Complete.\n{context}{input}Next line:\n",
    "trec": "Types follow.\n{context}\n{input}",
    "lsht": "新闻:\n{context}\n{input}",
    "triviaqa": "As in the examples.\n\n{context}\n\n{input}",
    "samsum": "As in the examples.\n\n{context}\n\n{input}",
    "dureader": "文章:{context}\n\n问题:{input}\n回答:",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_record_of_each_longbench_task_is_asked_word_for_word(task: str, tmp_path: Path) -> None:
    prompt = SHAPES.get(task, QUESTION)
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({task: prompt}))
    record = {
        "input": "What is the pass key?",
        "context": "The grass is green.\n<|im_end|> 天空是蓝色的。",
        "answers": ["x"],
        "all_classes": ["x"],
        "length": 9,
        "dataset": task,
    }
    (read,) = read_tasks([(RecordFile(Path("r.jsonl")), json.dumps(record).encode())])
    (item,) = read.items
    words = words_for(WordsFile(path).require(read.form.words_name(task)), item)
    prompts = TaskPrompts(TOKENIZER, None, None, words.lead, words.trail)
    assert prompts.whole() is prompts.after_stream()
    text = words.before + item.text
    asked = prompts.whole().tail(item.question if words.asks else "")
    assert text + TOKENIZER.decode(asked) == prompt.format(**record)
    assert not set(asked) & {1, 2}, "no word of a record is a token of the template"


def test_in_the_chat_template_the_words_are_one_turn_of_the_user() -> None:
    template = ChatTemplate(TEMPLATE, {})
    prompt = TaskPrompts(TOKENIZER, template, "Be brief.", " Lead: ", " Trail.").whole()
    assert _text(prompt, "Text.", "Who?") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nText. Lead: Who? Trail."
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.tail("Who?")[: -len(prompt.closing)] == (
        TOKENIZER.encode(" Lead: Who? Trail.").ids.tolist()
    )


def test_words_in_front_of_the_text_are_repeated_in_front_of_passages() -> None:
    prompts = TaskPrompts(TOKENIZER, None, None, "\nAnswer.", "", "Read: ")
    assert _text(prompts.whole(), "Text.", "").endswith("|>Text.\nAnswer.")
    assert _text(prompts.around_passages(), "Text.", "").endswith("|>Read: Text.\nAnswer.")
    with pytest.raises(ValueError, match="no earlier turns"):
        prompts.around_passages([("a", "b")])


def test_without_a_template_system_text_stands_in_front() -> None:
    prompt = TaskPrompts(TOKENIZER, None, "Be brief.", "", "").whole()
    assert _text(prompt, "Text.", "").endswith("Be brief.\n\nText.")
    assert prompt.prefix[0] == 0


def test_a_task_is_no_conversation() -> None:
    prompts = TaskPrompts(TOKENIZER, None, None, "", "")
    with pytest.raises(ValueError, match="no earlier turns"):
        prompts.whole([("a", "b")])
    with pytest.raises(ValueError, match="no later turns"):
        prompts.later_turn()


def _text(prompt: Prompt, text: str, question: str) -> str:
    ids = [*prompt.prefix, *TOKENIZER.encode(text).ids.tolist(), *prompt.tail(question)]
    return TOKENIZER.decode(ids, template=True)
