"""Class names and prompts from files: what is read, and what is refused with its place."""

from pathlib import Path

import pytest

from grpo_tta.checks import ModelError, check_names
from grpo_tta.pipeline.config.classes import read_labels
from grpo_tta.pipeline.errors import ConfigurationError


def read(tmp_path: Path, name: str, text: str) -> object:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_labels(str(path))


@pytest.mark.parametrize("text", ["cat\ndog\n", "cat\r\n dog \r\n", "\ufeffcat\ndog", "\n cat\n\t\n\ufeffdog\n\n"])
def test_one_class_a_line(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "classes.txt", text) == (["cat", "dog"], None)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c", "\r"])
def test_a_line_ends_nowhere_else(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(f"cat{inside}fish\ndog\n".encode())
    assert read_labels(str(path)) == ([f"cat{inside}fish", "dog"], None)


def test_a_mapping_keeps_its_order_and_every_scalar_is_text(tmp_path: Path) -> None:
    expected = {"no": ["a sign that says no"], "7": ["seven", "the number 7"]}
    yaml = "no: a sign that says no\n7: [seven, the number 7]\n"
    json = '{"no": "a sign that says no", "7": ["seven", "the number 7"]}'
    assert read(tmp_path, "classes.yaml", yaml) == (None, expected)
    assert read(tmp_path, "classes.json", json) == (None, expected)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.txt", "cat\ndog\n cat\n", "'cat' is in line 1 and in line 3"),
        ("c.txt", "", "no classes"),
        ("c.txt", "cafe\u0301\ncaf\u00e9\n", "'café' is in line 1 and in line 2"),
        ("c.yaml", "cafe\u0301: a\ncaf\u00e9: b\n", "'café' is in it twice"),
        ("c.yaml", "a: &x [b]\nc: *x\n", "line 2: alias *x"),
        ("c.yaml", "[" * 20_000, "line 1: nested deeper than 32 levels"),
        ("c.json", "[" * 200_000, "recursion"),
        ("c.yaml", "cat: a\ndog: b\ncat: c\n", "'cat' is in it twice"),
        ("c.json", '{"cat": "a", "cat": "b"}', "'cat' is in it twice"),
        ("c.yaml", "' ': a\n", "a class is blank"),
        ("c.yaml", "cat: []\n", "class 'cat': expected a prompt"),
        ("c.yaml", "cat: ['']\n", "class 'cat': expected a prompt"),
        ("c.yaml", "cat: {a: b}\n", "class 'cat': expected a prompt"),
        ("c.yaml", "- cat\n- dog\n", "expected a mapping class -> prompts, got list"),
        ("c.yaml", "{", "while parsing"),
        ("c.json", "{", "property name"),
        ("c.json", '{"cat": 7}', "class 'cat': expected a prompt"),
        (
            "c.json",
            '{"cat": ["a", "\\ud800"]}',
            "class 'cat': a prompt holds NUL or half a character: ['a', '\\ud800']",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"labels file .*{name}") as raised:
        read(tmp_path, name, text)
    assert said in str(raised.value)


def test_a_missing_or_undecodable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.txt"):
        read_labels(str(tmp_path / "nowhere.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"latin\.txt: .*utf-8"):
        read_labels(str(tmp_path / "latin.txt"))


ALIKE = [
    *(("cat", f"ca{unseen}t") for unseen in "\u034f\u115f\u1160\u3164\uffa0\u17b4\u17b5\u180b"),
    *(("cat", f"ca{unseen}t") for unseen in "\u180e\u200b\u2060\u2065\ufe0f"),
    *(("cat", f"cat{unseen}") for unseen in "\u2800\u3164\u061c\u00ad\ufff0\U000e0001\U000e0041\U000e0100\U0001d173"),
    ("big cat", "big\u2800cat"), ("big cat", "big\u00a0cat"), ("big-cat", "big\u2013cat"), ("cat's", "cat\u2019s"),
    ("dog", "do\u0261"), ("cat", "c\u0251t"), ("cat", "\u03f2at"), ("cat", "\u0441\u0430\u0442"), ("hi", "\u04bbi"),
    ("viv", "\u03bdi\u03bd"), ("l", "\u04cf"), ("cod", "\u1d04od"), ("Cat", "\u13df\u0430t"), ("ox", "\u0585x"),
    ("cat", "\U0001d41cat"), ("cat", "\uff43at"),
]  # fmt: skip


@pytest.mark.parametrize("names", ALIKE, ids=ascii)
def test_classes_that_a_reader_cannot_tell_apart_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ModelError, match="look alike"):
        check_names(names)


@pytest.mark.parametrize("name", ["\u3164", "\u2800", "\u034f\u200b", "\ufe0f"])
def test_a_class_of_which_nothing_is_drawn_is_blank(name: str) -> None:
    with pytest.raises(ModelError, match="class name number 1 is blank"):
        check_names([name, "cat"])


def test_classes_of_any_script_that_differ_are_kept() -> None:
    names = [
        "dog", "Dog", "dog.", "d\u00f4g", "\u0443\u0441", "\u04af\u0441", "k\u0131r", "kir", "\u732b", "\u72ac",
        "\u0c15",
        "\u0c15\u0c3e", "\u03c3\u03bf", "\u03bf\u03bf", "\U0001f408", "\U0001f415", "\u0561", "\u0563", "\u0566",
        "\u0578\u0579", "\u057c\u0579",
    ]  # fmt: skip
    assert check_names(names) == tuple(names)
