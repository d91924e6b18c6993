"""The TOML file of named providers: what each key does, and what each mistake says."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.foreign import Bare, Reciter, Resting
from worker.providers.acytoo import Acytoo
from worker.providers.chatanywhere import ChatAnywhere
from worker.providers.echo import Echo
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.provider import Provider, Timeouts
from worker.providers_file import ConfigError, load_registry

SECRET = "hunter2-is-no-good-key"


def read(tmp_path: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> dict[str, Provider]:
    """Return the providers that a file of this text makes, by name."""
    path = tmp_path / "providers.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return {provider.name: provider for provider in load_registry(path, environ or {})}


def mistake(tmp_path: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the line that the error names and its text; the error is one line and names the file."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environ)
    message = str(caught.value)
    assert "\n" not in message
    found = re.fullmatch(re.escape(str(tmp_path / "providers.toml")) + r"(?::(\d+))?: (.+)", message)
    assert found, message
    return int(found[1] or 0), found[2]


# -- without a file --------------------------------------------------------------------------------------------


def test_without_a_file_there_is_one_provider_of_each_kind() -> None:
    built_in = {provider.name: provider for provider in load_registry(None, {})}
    assert {name: (p.cls, p.url, p.working) for name, p in built_in.items()} == {
        "echo": (Echo, "", True),
        "openai": (OpenAICompatible, "https://api.openai.com/v1", True),
        "acytoo": (Acytoo, "https://chat.acytoo.com", False),
        "chatanywhere": (ChatAnywhere, "https://chatanywhere.cn", False),
    }
    assert all(p.kind == name and list(p.models) == list(p.cls.models) for name, p in built_in.items())


def test_the_built_in_openai_takes_its_key_and_address_from_the_environment() -> None:
    (openai,) = [p for p in load_registry(None, {}) if p.name == "openai"]
    assert openai.lacks_key
    assert openai.key_variable == "OPENAI_API_KEY"
    environ = {"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": "http://localhost:8000/v1"}
    (openai,) = [p for p in load_registry(None, environ) if p.name == "openai"]
    assert (openai.api_key, openai.url, openai.lacks_key) == (SECRET, "http://localhost:8000/v1", False)
    (openai,) = [
        p for p in load_registry(None, {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}) if p.name == "openai"
    ]
    assert (openai.api_key, openai.url, openai.lacks_key) == (None, "https://api.openai.com/v1", True)


def test_an_address_in_the_environment_that_is_none_is_told_at_the_start() -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL: a URL that starts with") as caught:
        load_registry(None, {"OPENAI_BASE_URL": f"user:{SECRET}@localhost:8000/v1"})
    assert SECRET not in str(caught.value)


def test_a_class_without_a_url_is_asked_at_none(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text('[providers.nowhere]\nkind = "tests.support.foreign:Nowhere"\n')
    (provider, *_) = load_registry(path, {})
    assert provider.url == ""
    assert "base_url" not in provider._own_arguments()


# -- what the keys do ------------------------------------------------------------------------------------------


def test_every_key_is_read(tmp_path: Path) -> None:
    text = """
        [providers.groq]
        kind = "openai"
        base_url = "https://api.groq.example/openai/v1"
        api_key_env = "GROQ_KEY"
        models = ["llama-*", "gemma"]
        working = true
        timeouts = { connect = 5, first_chunk = 60.5, between_chunks = 30, total = 600 }
        options = { top_p = 0.9, nested = { deep = [1, "two"] } }
        proxy = "http://proxy:3128"
        allow = ["base_url", "proxy"]
        concurrency = 20
        fleet_concurrency = 50
        continuation = "prefill"
    """
    assert read(tmp_path, text, {"GROQ_KEY": SECRET})["groq"] == Provider(
        name="groq",
        kind="openai",
        cls=OpenAICompatible,
        url="https://api.groq.example/openai/v1",
        working=True,
        models=["llama-*", "gemma"],
        key_variable="GROQ_KEY",
        api_key=SECRET,
        proxy="http://proxy:3128",
        options={"top_p": 0.9, "nested": {"deep": [1, "two"]}},
        allowed=frozenset({"base_url", "proxy"}),
        timeouts=Timeouts(5.0, 60.5, 30.0, 600.0),
        concurrency=20,
        fleet_concurrency=50,
        continuation="prefill",
    )


def test_what_a_table_leaves_out_is_its_kinds(tmp_path: Path) -> None:
    found = read(tmp_path, '[providers.mine]\nkind = "openai"\ntimeouts.total = 7')["mine"]
    assert found == Provider(
        "mine",
        "openai",
        OpenAICompatible,
        OpenAICompatible.url,
        True,
        OpenAICompatible.models,
        timeouts=Timeouts(total=7.0),
    )


def test_without_a_limit_there_is_none_and_an_answer_is_gone_on_with_by_asking(tmp_path: Path) -> None:
    found = read(tmp_path, '[providers.mine]\nkind = "echo"')["mine"]
    assert (found.concurrency, found.fleet_concurrency, found.continuation) == (None, None, "ask")


def test_the_files_providers_come_first_in_its_order_and_the_built_in_ones_after_them(tmp_path: Path) -> None:
    text = '[providers.zeta]\nkind = "echo"\n[providers.alpha]\nkind = "echo"\n'
    assert list(read(tmp_path, text)) == ["zeta", "alpha", "echo", "openai", "acytoo", "chatanywhere"]


def test_a_built_in_provider_can_be_redefined(tmp_path: Path) -> None:
    text = '[providers.echo]\nkind = "echo"\nmodels = ["parrot"]\noptions = { chunk_size = 1 }\n'
    found = read(tmp_path, text)
    assert list(found) == ["echo", "openai", "acytoo", "chatanywhere"]
    assert found["echo"].models == ["parrot"]
    assert found["echo"].options == {"chunk_size": 1}


@pytest.mark.parametrize(
    ("keys", "working"),
    [
        ('kind = "acytoo"', False),
        ('kind = "acytoo"\nbase_url = "http://localhost:9000"', True),
        ('kind = "acytoo"\nworking = true', True),
        ('kind = "acytoo"\nbase_url = "http://localhost:9000"\nworking = false', False),
        ('kind = "echo"', True),
        ('kind = "echo"\nworking = false', False),
        ('kind = "tests.support.foreign:Resting"', False),
        ('kind = "tests.support.foreign:Resting"\nbase_url = "http://localhost:9000"', True),
        ('kind = "tests.support.foreign:Bare"', True),  # nobody has marked it
    ],
)
def test_a_resting_kind_works_where_it_is_given_another_address(
    tmp_path: Path, keys: str, working: bool
) -> None:
    assert read(tmp_path, f"[providers.x]\n{keys}")["x"].working is working


def test_a_foreign_class_brings_its_own_address_and_models(tmp_path: Path) -> None:
    text = "\n".join(
        f'[providers.{cls.__name__}]\nkind = "tests.support.foreign:{cls.__name__}"'
        for cls in (Reciter, Resting, Bare)
    )
    found = read(tmp_path, text)
    assert (found["Reciter"].cls, found["Reciter"].url) == (Reciter, "https://verses.example")
    assert list(found["Reciter"].models) == ["verses", "verses-*"]
    assert (found["Resting"].cls, found["Resting"].working) == (Resting, False)
    assert (found["Bare"].url, list(found["Bare"].models)) == ("", [])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('providers.groq.kind = "echo"', "groq"),
        ('providers = { groq = { kind = "echo" } }', "groq"),
        ('[providers]\ngroq = { kind = "echo" }', "groq"),
        ('["providers"."groq"]\n"kind" = "echo"', "groq"),
        ('[providers."gpt-4.1"]\nkind = "echo"', "gpt-4.1"),
        ("[providers.'eu/groq']\nkind = 'echo'", "eu/groq"),
        ('[ providers . groq ]\r\nkind = "echo"\r\n', "groq"),
    ],
)
def test_every_way_to_write_a_name_in_toml_works(tmp_path: Path, text: str, name: str) -> None:
    assert read(tmp_path, text)[name].cls is Echo


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert list(read(tmp_path, "# nothing\n")) == list(read(tmp_path, "[providers]\n"))


# -- mistakes: one line each, naming file, line, and key or variable -------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    with pytest.raises(ConfigError) as caught:
        load_registry(path, {})
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_registry(tmp_path, {})
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    _, reason = mistake(tmp_path, b"[providers.x]\nkind = 'caf\xe9'\n")
    assert "not UTF-8" in reason


@pytest.mark.parametrize(
    ("text", "line"),
    [("[providers.x\n", 1), ("\n\nkind = = 3\n", 3), ("[providers.x]\nkind = 'a'\nkind = 'b'\n", 3)],
)
def test_bad_toml_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    _, reason = mistake(tmp_path, text)
    assert reason.startswith("not TOML")
    assert f"line {line}," in reason


MISTAKES: dict[str, tuple[str, int, list[str]]] = {
    "unknown section": ('[providers.x]\nkind = "echo"\n[worker]\nname = "w"', 3, ["'worker'"]),
    "unknown key at the top": ('kinds = "echo"\n', 1, ["'kinds'"]),
    "providers is no table": ("\nproviders = 3\n", 2, ["providers"]),
    "a provider is no table": ('[providers]\n\nx = "echo"\n', 3, ["providers.x"]),
    "a list of tables": ('[[providers.x]]\nkind = "echo"\n', 1, ["providers.x"]),
    "no kind": ("\n[providers.x]\nmodels = []\n", 2, ["[providers.x]", "kind"]),
    "unknown key": (
        '[providers.x]\nkind = "echo"\nbase_uri = "http://h"\n',
        3,
        ["[providers.x]", "base_uri"],
    ),
    "wrong type of kind": ("[providers.x]\nkind = 3\n", 2, ["kind"]),
    "wrong type of models": ('[providers.x]\nkind = "echo"\nmodels = "m"\n', 3, ["models"]),
    "wrong type in models": ('[providers.x]\nkind = "echo"\nmodels = ["m", 3]\n', 3, ["models[1]"]),
    "wrong type of working": ('[providers.x]\nkind = "echo"\nworking = "perhaps"\n', 3, ["working"]),
    "wrong type of options": ('[providers.x]\nkind = "echo"\noptions = 1\n', 3, ["options"]),
    "wrong type of proxy": ('[providers.x]\nkind = "echo"\nproxy = 1\n', 3, ["proxy"]),
    "wrong type of allow": ('[providers.x]\nkind = "echo"\nallow = "headers"\n', 3, ["allow"]),
    "wrong type of timeouts": ('[providers.x]\nkind = "echo"\ntimeouts = 3\n', 3, ["timeouts"]),
    "unknown timeout": ('[providers.x]\nkind = "echo"\ntimeouts = { read = 3 }\n', 3, ["timeouts.read"]),
    "timeout of zero": ('[providers.x]\nkind = "echo"\ntimeouts = { total = 0 }\n', 3, ["timeouts.total"]),
    "timeout, dotted": (
        '[providers.x]\nkind = "echo"\ntimeouts.connect = 3\ntimeouts.total = -1\n',
        4,
        ["timeouts.total"],
    ),
    "timeout, in a table of its own": (
        '[providers.x]\nkind = "echo"\n[providers.x.timeouts]\nconnect = 3\ntotal = "long"\n',
        5,
        ["timeouts.total"],
    ),
    "unknown kind": ('[providers.x]\nmodels = []\nkind = "opneai"\n', 3, ["'opneai'", "openai", "echo"]),
    "base_url without scheme": ('[providers.x]\nkind = "openai"\nbase_url = "api.x.com"\n', 3, ["base_url"]),
    "base_url of another scheme": (
        '[providers.x]\nkind = "openai"\nbase_url = "ftp://x.com"\n',
        3,
        ["base_url"],
    ),
    "base_url without a host": (
        '[providers.x]\nkind = "openai"\nbase_url = "https:///v1"\n',
        3,
        ["base_url"],
    ),
    "unset key variable": (
        '[providers.x]\nkind = "openai"\n\napi_key_env = "X_KEY"\n',
        4,
        ["[providers.x]", "X_KEY", "not set"],
    ),
    "no such module": ('[providers.x]\nkind = "no_such_module:C"\n', 2, ["no_such_module:C"]),
    "no such class": (
        '[providers.x]\nkind = "tests.support.foreign:Missing"\n',
        2,
        ["tests.support.foreign:Missing"],
    ),
    "no provider's shape": (
        '[providers.x]\nkind = "tests.support.foreign:NoProvider"\n',
        2,
        ["create_async_generator"],
    ),
    "a module that breaks": (
        '[providers.x]\nkind = "tests.support.breaks_on_import:C"\n',
        2,
        ["breaks when it is imported"],
    ),
    "a relative module": ('[providers.x]\nkind = "..foreign:Reciter"\n', 2, ["..foreign:Reciter"]),
    "a bad name": ('[providers."my groq"]\nkind = "echo"\n', 1, ["'my groq'"]),
    "an empty name": ('[providers.""]\nkind = "echo"\n', 1, ["''"]),
    # The line is right also where names and keys resemble each other.
    "a second table": (
        '[providers.a]\nkind = "echo"\n\n[providers.b]\nkind = "nothing"\n',
        5,
        ["[providers.b]"],
    ),
    "a name that begins like an earlier one": (
        '[providers.groq-eu]\nkind = "echo"\n[providers.groq]\nkind = "nothing"\n',
        4,
        ["[providers.groq]"],
    ),
    "a key that only a later table of a similar name has": (
        '[providers.groq]\nmodels = []\n[providers.groq-eu]\nkind = "echo"\n',
        1,
        ["[providers.groq]", "kind"],
    ),
    "a name that is part of the word providers": (
        '[providers.o]\nmodels = []\n[providers.x]\nkind = "echo"\n',
        1,
        ["[providers.o]", "kind"],
    ),
    "a key that is also an option": (
        '[providers.x]\noptions = { kind = "y" }\nkind = "nothing"\n',
        3,
        ["kind"],
    ),
    "a quoted name with a dot": ('\n[providers."gpt-4.1"]\nkind = "nothing"\n', 3, ["gpt-4.1"]),
    "a quoted key": ('[providers.x]\n"kind" = "nothing"\n', 2, ["kind"]),
    "a dotted key": ('# first\nproviders.x.kind = "nothing"\n', 2, ["providers.x"]),
    "an inline table": ('[providers]\ny = { kind = "echo" }\nx = { kind = "nothing" }\n', 3, ["providers.x"]),
    "a name in a comment": (
        '# [providers.x] is ours\n[providers.x]\nkind = "nothing"\n',
        3,
        ["[providers.x]"],
    ),
    "a list over several lines": (
        '[providers.x]\nmodels = [\n  "m",\n]\nkind = "nothing"\n',
        5,
        ["[providers.x]"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_place(tmp_path: Path, name: str) -> None:
    text, line, named = MISTAKES[name]
    found, reason = mistake(tmp_path, text)
    assert [text for text in named if text not in reason] == []
    assert found == line, reason


@pytest.mark.parametrize("key", ["concurrency", "fleet_concurrency"])
@pytest.mark.parametrize("value", ["0", "-1", "2.5", "3.0", "true", '"5"', "[]"])
def test_a_limit_on_calls_is_a_whole_number_from_one(tmp_path: Path, key: str, value: str) -> None:
    line, reason = mistake(tmp_path, f'[providers.x]\nkind = "echo"\n{key} = {value}\n')
    assert line == 3
    assert reason.startswith(f"[providers.x] {key}: ")


@pytest.mark.parametrize("value", ['"beg"', "true", '""'])
def test_a_way_to_go_on_that_is_none_is_told_with_those_that_are(tmp_path: Path, value: str) -> None:
    line, reason = mistake(tmp_path, f'[providers.x]\nkind = "echo"\n\ncontinuation = {value}\n')
    assert (line, "'ask' or 'prefill'" in reason) == (4, True)


@pytest.mark.parametrize("environ", [{}, {"X_KEY": ""}, {"x_key": SECRET}])
def test_a_key_variable_must_be_set_and_not_empty(tmp_path: Path, environ: dict[str, str]) -> None:
    line, reason = mistake(tmp_path, '[providers.x]\nkind = "openai"\napi_key_env = "X_KEY"\n', environ)
    assert (line, "X_KEY" in reason) == (3, True)


@pytest.mark.parametrize("around", ["{}\n", "{}\r", " {}", "{}\x00", "schlüssel-{}"])
def test_a_key_that_cannot_be_sent_is_told_at_the_start_and_not_shown(tmp_path: Path, around: str) -> None:
    """Such as one that was written to a secret with the end of its line: each job would fail by it."""
    key = around.format(SECRET)
    line, reason = mistake(
        tmp_path, '[providers.x]\nkind = "openai"\napi_key_env = "X_KEY"\n', {"X_KEY": key}
    )
    assert (line, "X_KEY" in reason, SECRET in reason) == (3, True, False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        load_registry(None, {"OPENAI_API_KEY": key})
    assert SECRET not in str(caught.value)


def test_no_mistake_shows_a_secret_of_the_file_or_the_environment(tmp_path: Path) -> None:
    environ: dict[str, Any] = {"X_KEY": SECRET}
    for wrong in ("nonsense = 1", "timeouts = 3", "working = []", f'base_url = "http//me:{SECRET}@x"'):
        text = f'[providers.x]\nkind = "openai"\napi_key_env = "X_KEY"\nproxy = "http://me:{SECRET}@p"\n{wrong}\n'
        _, reason = mistake(tmp_path, text, environ)
        assert SECRET not in reason


@pytest.mark.parametrize(
    ("keys", "line", "said"),
    [
        ('kind = "echo"\nbase_url = "http://x"', 3, ["echo", "base_url"]),
        ('kind = "echo"\napi_key_env = "KEY"', 3, ["echo", "api_key"]),
        ('kind = "openai"\nallow = ["headers"]', 3, ["openai", "headers"]),
        ('kind = "openai"\noptions = {stream = false}', 3, ["stream"]),
        ('kind = "openai"\napi_key = "sk-not-to-be-shown"', 3, ["api_key_env"]),
        ('kind = "openai"\napi_key_env = "sk-not-to-be-shown"', 3, ["api_key_env"]),
    ],
)
def test_what_a_kind_cannot_take_is_refused_when_the_file_is_read(
    tmp_path: Path, keys: str, line: int, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"[providers.x]\n{keys}", {"KEY": "k"})
    text = str(caught.value)
    assert f":{line}:" in text
    assert all(word in text for word in said)
    assert "not-to-be-shown" not in text
