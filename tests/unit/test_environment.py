from __future__ import annotations

from pathlib import Path

import pytest

from farm import environment


def test_where_there_is_no_repository_the_commit_is_the_one_that_was_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    commit = environment._commit.__wrapped__
    assert commit() is None
    (tmp_path / "COMMIT").write_text("530de6e12345+\n")
    assert commit() == "530de6e12345+"
