"""docs/errors.md says what the package says."""

from __future__ import annotations

import errors_table
import pytest


def test_is_what_would_be_written() -> None:
    found, expected = errors_table.FILE.read_text(encoding="utf-8").splitlines(), errors_table.table().splitlines()
    off = [f"- {one}\n+ {other}" for one, other in zip(found, expected, strict=False) if one != other]
    if found != expected:
        pytest.fail(f"docs/errors.md is of other tables or messages; run {errors_table.REMEDY}:\n" + "\n".join(off[:3]))


def test_every_message_is_a_rule_what_came_and_a_remedy() -> None:
    rows = [line.split(" | ") for line in errors_table.table().splitlines() if "Error | " in line]
    assert len(rows) > 500
    for *_, error, message in rows:
        assert error in ("TypeError", "ValueError")
        rule, _, rest = message.partition(": ")
        assert rule
        assert "; " in rest, message
