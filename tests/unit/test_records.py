"""What becomes of texts on their way into the store."""

from __future__ import annotations

from results_store import records


def test_a_reason_steers_no_terminal_and_keeps_its_lines() -> None:
    assert records.clean("\x1b[31mred\x1b[0m\r\n\tdone\x9b2J") == "�[31mred�[0m\r\n\tdone�2J"
