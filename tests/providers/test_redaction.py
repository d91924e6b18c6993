import pytest

from worker.providers.redaction import LINE_LIMIT, redact, summary


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("authorization: Basic dXNlcjpwYXNz, host: x", "authorization: ***, host: x"),
        ('{"Authorization": "Bearer abc.def"}', '{"Authorization": "***"}'),
        ("sent bearer abcdefgh123 and more", "sent bearer *** and more"),
        ("no bearer token was sent", "no bearer token was sent"),
        ("Incorrect API key provided: sk-abcd1234efgh.", "Incorrect API key provided: ***."),
        ("key sk-proj-ab***************yz is wrong", "key *** is wrong"),
        ("gsk_abcdefgh12345678 is wrong", "*** is wrong"),
        ("x-api-key: abc", "x-api-key: ***"),
        ("GET /v1?api_key=abc&x=1", "GET /v1?api_key=***&x=1"),
        ('{"access_token":"abc"}', '{"access_token":"***"}'),
        ("https://me:pass@host/v1", "https://***@host/v1"),
        ("https://me:p@ss@host/v1", "https://***@host/v1"),
        ("mail me@host, task-force-ninety", "mail me@host, task-force-ninety"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize("text", ['say pa"ss/wörd!', r"say pa\"ss/w\u00f6rd!", "say pa%22ss%2Fw%C3%B6rd!"])
def test_a_given_secret_is_hidden_in_every_spelling(text: str) -> None:
    assert redact(text, ['pa"ss/wörd']) == "say ***!"


def test_a_secret_inside_another_does_not_uncover_it() -> None:
    assert redact("abcdef abc", ["abc", "abcdef", ""]) == "*** ***"


def test_hiding_twice_is_hiding_once() -> None:
    text = "Authorization: Bearer abcdefghij https://me:you@host sk-abcdefghij"
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\n first \nsecond", "first"),
        ('{\n "error":\n  {"a": "ü"}}', '{"error": {"a": "ü"}}'),
        ('{"a": "\\ud83d"}', '{"a": " "}'),
        ("red \x1b[31mtext\x00", "red  [31mtext"),
        ("[" * 100_000, "[" * (LINE_LIMIT - 1) + "…"),
        ("", ""),
    ],
)
def test_a_summary_is_one_printable_line(text: str, line: str) -> None:
    assert summary(text) == line


def test_a_summary_hides_before_it_shortens() -> None:
    text = "x" * (LINE_LIMIT - 5) + "my-secret-word"
    assert "my" not in summary(text, ["my-secret-word"])


def test_a_summary_finds_secrets_that_json_has_escaped() -> None:
    assert summary('{"k": "\\u006dy-secret"}', ["my-secret"]) == '{"k": "***"}'
