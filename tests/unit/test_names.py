"""Names of runs: which are possible, where their results go, and how two matrices of one name differ."""

from __future__ import annotations

import json

import pytest

from farm.errors import BadInput
from farm.spec import Protocol
from results_store import names
from tests import factories

RUN = "20260131-120000-1a2b"


@pytest.mark.parametrize("name", ["a", "0x", "nightly", "2026-nightly", "before.the_upgrade-2", "x" * 64])
def test_a_name_that_is_possible_is_its_folder_too(name: str) -> None:
    assert names.check(name) == name
    assert names.folder(RUN, name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "lower-case letters"),
        ("Nightly", "lower-case letters"),
        ("a b", "lower-case letters"),
        ("a/b", "lower-case letters"),
        ("..", "a letter or a digit first"),
        (".hidden", "a letter or a digit first"),
        ("-x", "a letter or a digit first"),
        ("a\n", "lower-case letters"),
        ("é", "lower-case letters"),
        ("x" * 65, "64 characters at most"),
        ("latest", "the newest run"),
        (RUN, "beginning of a run's id"),
        ("2026", "beginning of a run's id"),
        ("20260131-", "beginning of a run's id"),
        ("20260131-12", "beginning of a run's id"),
        ("20260131-120000-", "beginning of a run's id"),
    ],
)
def test_a_name_that_is_not_possible_says_why(name: str, said: str) -> None:
    with pytest.raises(BadInput, match="--name") as refused:
        names.check(name)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", [None, "", "../elsewhere", "/etc", "a/b", "..", "\0"])
def test_results_of_a_name_that_no_farm_wrote_stay_in_the_folder_of_the_id(name: str | None) -> None:
    assert names.folder(RUN, name) == RUN


def test_a_title_has_name_and_id() -> None:
    assert names.title(RUN, "nightly") == f"nightly ({RUN})"
    assert names.title(RUN, None) == RUN


def test_a_matrix_does_not_differ_from_itself() -> None:
    matrix = factories.matrix(weights="pretrained", model_digests={"densenet121": "0" * 64})
    assert names.differences(matrix.canonical(), matrix) == []


def test_every_field_that_differs_is_shown_with_both_values() -> None:
    before = factories.matrix(batch_sizes=(1, 8), threads=None)
    after = factories.matrix(
        batch_sizes=(1, 8, 32),
        threads=2,
        weights="pretrained",
        protocol=factories.PROTOCOL.model_copy(update={"min_s": 5.0, "profile": False}),
        model_digests={"densenet121": "abc"},
    )
    assert names.differences(before.canonical(), after) == [
        "batch_sizes: 1, 8 -> 1, 8, 32",
        "threads: none -> 2",
        "weights: none -> pretrained",
        "model_digests.densenet121: none -> abc",
        "protocol.min_s: 2.0 -> 5.0",
        "protocol.profile: true -> false",
    ]
    assert "weights: pretrained -> none" in names.differences(after.canonical(), before)


def test_a_matrix_of_an_older_farm_differs_by_what_that_one_did_not_do() -> None:
    today = factories.matrix(protocol=Protocol(name="test"))
    written = json.loads(today.canonical())
    del written["protocol"]["paired"]
    assert names.differences(json.dumps(written), today) == ["protocol.paired: false -> true"]
