"""Configuration files: what they may say, where it holds, and what comes before it."""

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich import cells

from lmi_cli.cli import config as command_module
from lmi_cli.cli.app import build
from lmi_cli.cli.configuration import files, places
from lmi_cli.cli.request import MESSAGES, MODEL, OUTPUT, SOURCES
from lmi_cli.cli.settings import Settings, closed, is_path
from lmi_cli.errors import UsageError

Runner = Callable[..., Any]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the user's file; the folder that commands run in is another."""
    monkeypatch.delenv("LMI_CONFIG")
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    path = tmp_path / "home" / "lmi" / "lmi.toml"
    path.parent.mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: path.parent)
    return path


@pytest.fixture(scope="module")
def program() -> Any:
    return typer.main.get_command(build())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, lmi: Runner) -> Runner:
    """The request that a command gets, ``lmi inspect`` unless ``name`` says another."""

    def run(*arguments: str, name: str = "inspect") -> Any:
        requests: list[Any] = []
        module = importlib.import_module(f"lmi_cli.cli.{name}")
        real = module.command

        def command(request: Any) -> None:
            requests.append(request)

        command.__annotations__ = {"request": real.__annotations__["request"], "return": None}
        command.__doc__, command.__module__ = real.__doc__, real.__module__
        with monkeypatch.context() as patch:
            patch.setattr(module, "command", command)
            result = lmi(name, *arguments)
        assert result.code == 0, result.err
        (request,) = requests
        return request

    return run


def write(path: Path | str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


def test_the_nearer_place_holds(user: Path, seen: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    write(user, 'window = 1\nsinks = 1\nceiling = "1k"\nchunk = 1\nmodel = "mine"\n')
    write("lmi.toml", "window = 2\nsinks = 2\nchunk = 2\n[inspect]\nsinks = 7\n[qa]\nchunk = 9\n")
    monkeypatch.setenv("LMI_CHUNK", "3")
    monkeypatch.setenv("LMI_SINKS", "")
    request = seen("x", "--window", "4")
    assert request.given == {"window": 4, "sinks": 7, "ceiling": 1000}
    assert request.chunk == 3 and request.model == "mine" and request.dtype == "auto"
    assert request.standing == {"sinks", "ceiling", "chunk", "model"}


def test_a_variable_names_another_file_or_none(
    user: Path, seen: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(user, "window = 1\n")
    write("lmi.toml", "chunk = 1\n")
    write("other.toml", 'model = "any"\n')
    monkeypatch.setenv("LMI_CONFIG", "other.toml")
    request = seen("x")
    assert (request.model, request.chunk, request.given) == ("any", None, {})
    monkeypatch.setenv("LMI_CONFIG", "")
    assert not seen("x").standing
    monkeypatch.setenv("LMI_CONFIG", "missing.toml")
    with pytest.raises(UsageError, match=r"LMI_CONFIG names missing\.toml"):
        list(files())


def test_values_are_what_the_command_line_would_say(user: Path, seen: Runner) -> None:
    write(
        user,
        "no-gitignore = true\ndense-layers = [0, \"8-11\"]\nexclude = [\"*.csv\", \"b c\"]\n"
        "include = \"*.md\"\npassword-file = \"~/secret\"\n[passkey]\nlengths = [\"1k\", 2000]\n",
    )  # fmt: skip
    request = seen("x")
    assert request.no_gitignore is True and request.include == ["*.md"]
    assert request.given == {"dense_layers": "0,8,9,10,11"} and request.exclude == ["*.csv", "b c"]
    assert request.password_file == Path(os.environ["HOME"]) / "secret"
    assert seen(name="passkey").lengths == "1k,2000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nwindw = 3", "lmi.toml:2: windw is not an option of any command; did you mean window?"),
        ("max_new_tokens = 3", "did you mean max-new-tokens?"),
        ("m = 'x'", "lmi.toml:1: m is not an option"),
        ("question = 'x'", "it is said anew with each command"),
        ("window = 4.5", 'window must be a whole number, or text such as "4k", not a number with'),
        ("window = true", "not true"),
        ("window = '4x'", "lmi.toml:1: window: '4x' is not a number such as"),
        ("temperature = 1979-05-27", "temperature must be a number, not a date"),
        ("quantize = 4", 'quantize must be text, as in "...", not a whole number'),
        ("exclude = [1]", "exclude must be text, or a list of texts"),
        ("[qaa]\nwindow = 1", "lmi.toml:1: [qaa] is not a command with options; did you mean qa?"),
        ("[window]\nx = 1", "lmi.toml:1: window is an option, not a table"),
        ("[qa]\n\ntrials = 4", "lmi.toml:3: trials is not an option of lmi qa; lmi passkey has it"),
        ("[qa]\nresults = 'x'\n", "lmi perplexity and passkey have it"),
        ("[[qa]]\nwindow = 1", "options of a command stand in a table, as in [qa]"),
        ("models = 1", "stand in a table, as in [models.list]"),
        ("[models]\njson = true", "as in [models.list]"),
        ("length = 5", "set it in the table [summarize] or [perplexity]"),
        ("a = = 3", "lmi.toml:1:5: not valid TOML"),
        ("a = [", "not valid TOML"),
        ("a = " + "[" * 100_000, "lmi.toml: nested too deeply"),
        ("a." * 100_000 + "b = 1", "lmi.toml: nested too deeply"),
        ("x = { " + '"\\"" . ' * 20_000 + "b = 1 }", "lmi.toml: nested too deeply"),
        ("a = " + "1" * 5_000, "lmi.toml: "),
        ("#" * 300_000, "lmi.toml is too large for a configuration file"),
        (b"\xff", "lmi.toml: not UTF-8 text (byte 0)"),
    ],
)
def test_a_file_that_is_wrong_is_refused(
    user: Path, program: Any, text: str | bytes, message: str
) -> None:
    Path("lmi.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as refused:
        Settings(program).of("inspect")
    assert message in f"{refused.value.message}; {refused.value.hint}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window = 0", "--window 0: the smallest is 1 (--window is from lmi.toml:1)"),
        ("chunk = 0", "(--chunk is from lmi.toml:1)"),
        ("ceiling = 5\nwindow = 9", "(--window is from lmi.toml:2, --ceiling is from lmi.toml:1)"),
    ],
)
def test_a_message_says_where_a_value_out_of_range_is_from(
    user: Path, lmi: Runner, text: str, message: str
) -> None:
    write("lmi.toml", text)
    write("a.txt", "text")
    result = lmi("inspect", "a.txt")
    assert result.code == 2 and message in result.err, result.err


def test_a_message_says_which_variable_is_wrong(
    user: Path, lmi: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMI_WINDOW", "4x")
    assert "(--window is from LMI_WINDOW)" in lmi("inspect", "a.txt").err
    assert "LMI_WINDOW" not in lmi("inspect", "a.txt", "--window", "5x").err


def test_in_a_folder_that_was_deleted_there_is_the_users_file(user: Path) -> None:
    Path.cwd().rmdir()
    assert [place.path for place in places()] == [user]


def test_a_relative_path_is_shown_as_it_is_in_a_folder_that_was_deleted(
    user: Path, lmi: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMI_CONFIG", "my.toml")
    Path.cwd().rmdir()
    result = lmi("config", "--paths")
    assert (result.code, result.out) == (0, "my.toml\n")


def test_help_and_paths_are_shown_all_the_same(user: Path, lmi: Runner) -> None:
    write("lmi.toml", "windw = 3")
    result = lmi("inspect", "a.txt")
    assert result.code == 2 and result.err.startswith("lmi: lmi.toml:1: windw")
    assert lmi("inspect", "--help").code == lmi("--version").code == 0
    assert lmi("config", "--paths").out == f"{Path.cwd() / 'lmi.toml'}\n{user}\n"


def test_only_a_regular_file_of_a_folder_is_opened(user: Path) -> None:
    os.mkfifo("lmi.toml")
    with pytest.raises(UsageError, match="is not a regular file"):
        list(files())


def test_a_folder_in_place_of_the_named_file(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMI_CONFIG", ".")
    with pytest.raises(UsageError, match=r"LMI_CONFIG names [.], which is not a regular file"):
        list(files())


@pytest.mark.parametrize(
    "text",
    [
        "model = 'org/name'", "revision = 'x'", "offline = false", "offload-folder = '/'",
        "device-map = 'auto'", "threads = 1", "output = 'x'", "password-file = 'x'",
        "no-gitignore = true", "json = true", "quiet = true", "strict = false",
        "[qa]\nquestions = 'x'", "[eval]\nprompts = '/etc/passwd'", "[eval]\npredictions = 'x'",
        "[perplexity]\nnll-out = 'x'", "min-accuracy = 0", "[read]\nappend = 'x'",
    ],
)  # fmt: skip
def test_the_file_of_a_folder_must_not_set_everything(user: Path, lmi: Runner, text: str) -> None:
    write("lmi.toml", text)
    result = lmi("inspect", "x")
    assert (
        result.code == 2 and "cannot be set by the file of a folder, which must not" in result.err
    )
    assert "LMI_CONFIG=lmi.toml" in result.err
    Path("lmi.toml").rename(user)
    assert Settings(typer.main.get_command(build())).of("inspect") is not None


def test_no_option_that_names_a_path_or_a_model_is_open_to_folders(program: Any) -> None:
    open_ones = set()
    for command in Settings(program).options.values():
        for key, option in command.items():
            if option.type_descriptor.annotation is Path:
                assert is_path(option), f"--{key} takes a path, so its placeholder has to say so"
            if closed(option) is None:
                open_ones.add((key, getattr(option, "rich_help_panel", None)))
    guarded = {key for key, panel in open_ones if panel in (SOURCES, MODEL, OUTPUT, MESSAGES)}
    assert guarded == {"include", "exclude", "max-file-size", "dtype", "quantize"}


def test_what_a_folder_sets_is_said(user: Path, lmi: Runner, document: Path) -> None:
    write("lmi.toml", "window = 64\n[qa]\nsystem = 'Lie.'\n")
    note = "lmi.toml in this folder sets --window (lmi config says what holds)\n"
    assert note in lmi("eval", str(document)).err
    assert note not in lmi("eval", str(document), "--quiet").err
    Path("lmi.toml").rename(user)
    assert "in this folder" not in lmi("eval", str(document)).err


def test_what_contradicts_a_nearer_option_gives_way(
    user: Path, seen: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(user, "method = 'streaming-llm'\nwindow = 64\ngroup = 4\n")
    request = seen("x", name="qa")
    assert request.method == "streaming-llm" and request.given == {"window": 64}
    assert seen("x", "--method", "full").given == {}
    assert seen("x", "--group", "4").given == {"window": 64, "group": 4}  # and is refused, later
    compared = seen("x", "--compare", "full,self-extend", name="eval")
    assert compared.method is None and compared.given == {"window": 64, "group": 4}
    request = seen("x", "--answer-from", "xl3m", name="qa")
    assert request.method is None and request.given == {}

    write(user, "answer-from = 'memory'\nmemory-topk = 3\npassages = 2\n[eval]\ncompare = 'full'\n")
    assert seen("x", name="qa").passages == 2
    request = seen("x", "--no-memory", name="qa")
    assert (request.answer_from, request.given, request.passages) == ("auto", {}, None)
    assert seen("x", "--method", "truncate", name="eval").compare is None
    monkeypatch.setenv("LMI_NO_MEMORY", "1")
    request = seen("x", "--answer-from", "passages", name="qa")
    assert not request.no_memory and request.given == {}


def test_what_contradicts_itself_in_one_place_is_refused(user: Path, lmi: Runner) -> None:
    write(user, "answer-from = 'memory'\nno-memory = true\n")
    write("a.txt", "text")
    result = lmi("qa", "a.txt", "Why?")
    assert result.code == 2 and "cannot be combined with --no-memory" in result.err
    assert "--no-memory is from ~/lmi/lmi.toml:2" in result.err


def test_a_state_file_and_a_named_model_come_before_what_stands(
    user: Path, lmi: Runner, model: str, document: Path
) -> None:
    state = document.with_suffix(".lmi")
    assert lmi("read", document, "-o", state, "-m", model).code == 0
    write(user, "model = '/nowhere'\nmethod = 'full'\ndtype = 'float32'\nindex = 'heads'\n")
    result = lmi("qa", state, "What?", "-n", "1", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["method"]["name"] == "lm-infinite"
    assert lmi("inspect", model).code == 0
    assert lmi("qa", state, "What?", "--method", "full").code == 7


def test_lines_are_those_of_the_keys(user: Path) -> None:
    text = (
        '# window = 0\nsystem = """\nwindow = 1\n[qa] "# \\"" """\nexclude = [\n  "a#b", # c\n'
        "  '''\nx = 1''',\n]\ninclude = [[1],\n[2]\n]\n\"window\" = 3\r\n"
        "[ models . calibrate ] # x\ndtype = 'x'\nqa.chunk = 4\n[qa]\nwindow = '['\nchunk=2"
    )
    write("lmi.toml", text)
    (file,) = files()
    lines = text.split("\n")
    for key, line in {
        ("system",): "system", ("exclude",): "exclude", ("window",): '"window"',
        ("models", "calibrate"): "[ models", ("models", "calibrate", "dtype"): "dtype",
        ("qa",): "[qa]\n", ("qa", "window"): "window = '['", ("qa", "chunk"): "chunk=2",
    }.items():  # fmt: skip
        found = file.line(*key)
        assert found is not None and (lines[found - 1] + "\n").startswith(line), key
    assert file.line("x") is None and file.where("x") == "lmi.toml"


def test_config_shows_what_holds_and_why(
    user: Path, lmi: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no option is set" in lmi("config").out
    text = "window = 4096\n\n[qa]\ncontrast = 0.2\n[models.calibrate]\ndtype = 'float32'\n"
    write(user, text)
    write("lmi.toml", "chunk = 7\n")
    monkeypatch.setenv("LMI_MODEL", "any")
    shown = [line.split() for line in lmi("config").out.splitlines()]
    assert ["model", "any", "LMI_MODEL"] in shown and ["chunk", "7", "lmi.toml:1"] in shown
    assert ["window", "4,096", "~/lmi/lmi.toml:1"] in shown
    assert ["[qa]", "contrast", "0.2", "~/lmi/lmi.toml:4"] in shown
    assert ["[models.calibrate]", "dtype", "float32", "~/lmi/lmi.toml:6"] in shown
    of_qa = [line.split() for line in lmi("config", "qa").out.splitlines()]
    assert ["contrast", "0.2", "~/lmi/lmi.toml:4"] in of_qa and ["top-k", "0", "default"] in of_qa
    found = json.loads(lmi("config", "models", "calibrate", "--json").out)
    assert [file["own"] for file in found["files"]] == [False, True]
    assert found["commands"]["models calibrate"]["dtype"] == {
        "value": "float32", "default": "auto", "from": "file", "variable": None,
        "file": str(user), "line": 6, "gives_way_to": None,
    }  # fmt: skip
    monkeypatch.setenv("LMI_METHOD", "full")
    (window,) = [line for line in lmi("config", "qa").out.splitlines() if "window" in line]
    assert window.split()[1:] == ["-", "~/lmi/lmi.toml:1,", "gives", "way", "to", "--method"]
    assert lmi("config", "nothing").code == 2


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_fits_the_terminal(
    width: int, user: Path, lmi: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("lmi.toml", f"system = '{'word ' * 30}'\n[models.calibrate]\ndtype = 'float32'\n")
    monkeypatch.setattr(command_module, "columns", lambda stream: width)
    monkeypatch.setattr("lmi_cli.cli.table.columns", lambda stream: width)
    lines = lmi("config").out.splitlines()
    assert max(map(cells.cell_len, lines[3:-2])) <= width
    assert sum(line.rstrip().endswith(("lmi.toml:1", "lmi.toml:3")) for line in lines) == 2
