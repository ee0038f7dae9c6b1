"""The definitions around a line."""

import pytest

from lmi_cli.text.definitions import definitions_around

PYTHON = '''\
import os

class Client:
    """A client."""

    def get(self):
        return 1

    async def send(self):
        def inner():
            pass
        return 2

VALUE = 3
'''
RUST = "impl Parser {\n    pub fn next(&self) -> u8 {\n        self.at\n    }\n}\n"
TABS = "class A {\n\tpublic static function f() {\n\t\treturn 1;\n\t}\n}\n"


@pytest.mark.parametrize(
    ("text", "line", "want"),
    [
        (PYTHON, "import os", []),
        (PYTHON, "return 1", ["Client", "get"]),
        (PYTHON, "pass", ["Client", "send", "inner"]),
        (PYTHON, "return 2", ["Client", "send"]),
        (PYTHON, "def get", ["Client"]),
        (PYTHON, "VALUE", []),
        (RUST, "self.at", ["Parser", "next"]),
        (TABS, "return 1", ["A", "f"]),
    ],
)
def test_a_line_stands_in_what_is_indented_less(text: str, line: str, want: list[str]) -> None:
    assert definitions_around(text, 0, text.index(line)) == want


def test_only_the_source_itself_counts() -> None:
    text = "class A:\n" + "    x = 1\n"
    assert definitions_around(text, text.index("    x"), text.index("x =")) == []
