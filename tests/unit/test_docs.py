"""What the pages say of the project is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from farm.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    # a link's text may be broken over lines
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    gone = [link for link in local if not (ROOT / page.parent / link).exists()]
    assert not gone


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_that_a_command_of_a_page_takes_is_there(page: Path) -> None:
    named = re.findall(r"(?<![\w/.-])((?:matrices|examples)/[\w./-]+\.\w+)", (ROOT / page).read_text())
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_page_of_settings_has_every_variable() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    wanted = {
        str(field.validation_alias or f"FARM_{name.upper()}") for name, field in Settings.model_fields.items()
    }
    assert not [variable for variable in sorted(wanted) if f"`{variable}`" not in page]


def test_every_test_that_is_said_to_keep_a_promise_is_there() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    gone, file = [], ""
    for named in re.findall(r"`(test_[^`]+)`", (ROOT / "docs/reliability.md").read_text()):
        before, _, after = named.rpartition("::")
        # the name of a test alone is of the file named last
        file, name = (named, "") if named.endswith(".py") else (before or file, after)
        wanted = f"def {name.removesuffix('…')}" if name.endswith("…") else f"def {name}("
        if file not in sources or (name and wanted not in sources[file]):
            gone.append(named)
    assert not gone
