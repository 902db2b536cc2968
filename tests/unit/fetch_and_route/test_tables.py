"""Text for people."""

from __future__ import annotations

from fetch_and_route.tables import header_lines, safe, table, when


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [("<a@x>", "", "no route"), ("<longer@x>", "sales@example.com", "")]
    assert table(("ID", "TO", "WHY"), rows) == [
        "ID          TO                 WHY",
        "<a@x>                          no route",
        "<longer@x>  sales@example.com",
    ]


def test_lines_end_where_the_terminal_does() -> None:
    assert table(("ID",), [("0123456789",)], width=9) == ["ID", "012345..."]
    assert table(("ID",), [("012345678",)], width=9)[1] == "012345678"


def test_a_stranger_s_text_does_not_command_a_terminal() -> None:
    assert safe("a\x1b[2Jb\n") == "a\ufffd[2Jb\ufffd"
    assert table(("ID",), [("\x1b",)])[1] == "\ufffd"
    lines = header_lines(b"Subject: \x1b[2J\r\n\tcaf\xe9\rX: 1\n")
    assert lines == ["Subject: \ufffd[2J", "    caf\xe9", "X: 1", ""]
    assert header_lines("X: é".encode()) == ["X: é"]


def test_a_time_that_is_not_known_is_no_time() -> None:
    assert when(None) == "?"
    assert when(1700000000)[:10] in ("2023-11-14", "2023-11-15")
