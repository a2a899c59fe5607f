"""The recipe grammar: canonical order, one choice of each axis, refusals that name the nearest possible."""

from __future__ import annotations

import itertools

import pytest

from farm.catalogue import choices, parse_recipe
from farm.errors import BadInput
from farm.recipe import BASELINE, Recipe, parse


@pytest.mark.parametrize("order", list(itertools.permutations(["channels_last", "amp", "compile"])))
def test_a_recipe_is_the_same_in_any_order(order: tuple[str, ...]) -> None:
    assert str(parse_recipe("+".join(order))) == "channels_last+amp+compile"


@pytest.mark.parametrize("text", ["baseline", "fp32", "eager", "eager+fp32", "pinned_malloc"])
def test_the_defaults_written_out_are_the_baseline(text: str) -> None:
    assert parse_recipe(text) == Recipe()
    assert str(parse_recipe(text)) == BASELINE


def test_a_parameter_is_part_of_the_recipe() -> None:
    axes = {"pruning": "compression"}
    assert str(parse("pruning(0.30)", axes)) == "pruning(0.3)"
    assert parse("pruning(0.3)", axes) != parse("pruning(0.4)", axes)


def test_what_a_choice_takes_in_parentheses_has_a_default_and_a_range() -> None:
    assert str(parse_recipe("pruning")) == "pruning(0.3)"
    assert parse_recipe("pruning") == parse_recipe("pruning(0.30)") != parse_recipe("pruning(0.5)")
    assert parse_recipe("pruning(0.5)").share == 0.5
    assert parse_recipe("pruning(1e-1)").share == 0.1
    assert parse_recipe("compile(max-autotune)").mode == "max-autotune"
    assert parse_recipe("compile").mode is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pruning(0)", ["a number from 0.05 to 0.9", "such as pruning(0.3)"]),
        ("pruning(1.5)", ["a number from 0.05 to 0.9"]),
        ("pruning(much)", ["a number from 0.05 to 0.9"]),
        ("qat(0.3)+int8_static+openvino", ["takes nothing in parentheses. Write qat."]),
        ("channels_last(2)", ["takes nothing in parentheses. Write channels_last."]),
        ("torchscript(fast)", ["takes nothing in parentheses. Write torchscript."]),
        (
            "compile(max-autotun)",
            ["Did you mean compile(max-autotune)?", "Possible: compile, compile(max-autotune)"],
        ),
        ("qat", ["qat does not go with fp32", "qat+int8_static+compile"]),
        ("qat+amp+onnxruntime", ["amp", "qat+int8_static+onnxruntime"]),
        ("int8_static+compile(reduce-overhead)", ["no device has all of it", "int8_static+compile"]),
        ("openvino+jemalloc", ["frees with glibc", "Nearest possible: openvino or jemalloc"]),
        ("pruning+distillation", ["both choices of compression", "pruning(0.3) or distillation(0.5)"]),
        ("chanels_last", ["Did you mean 'channels_last'", "onnxruntime"]),
        ("torchscript+compile", ["both choices of runtime", "Nearest possible: torchscript or compile"]),
        ("channels_last+amp+onnxruntime", ["fixed dtypes", "channels_last+onnxruntime or channels_last+amp"]),
        ("amp+channels_last+amp", ["amp is there twice. Nearest possible: channels_last+amp."]),
        ("baseline+amp", ["stands alone"]),
        ("", ["Unknown recipe ''"]),
        ("amp+", ["Unknown recipe ''"]),
        ("amp(", ["Recipe 'amp(': in parentheses stands one number or one word, such as pruning(0.3)"]),
        ("pruning(30%)", ["in parentheses stands one number or one word"]),
        ("pruning(0.0499999999)", ["Recipe 'pruning(0.0499999999)': pruning takes a number from 0.05"]),
        ("pruning(0.3)+pruning(0.5)", ["pruning(0.3) and pruning(0.5) are both choices of compression"]),
        ("../../etc/passwd", ["Unknown recipe"]),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(text: str, parts: list[str]) -> None:
    with pytest.raises(BadInput) as refused:
        parse_recipe(text)
    for part in parts:
        assert part in str(refused.value)


def test_every_pair_of_choices_is_either_a_recipe_or_refused_with_a_recipe_that_works() -> None:
    for first, second in itertools.combinations(choices(), 2):
        try:
            found = parse_recipe(f"{first}+{second}")
        except BadInput as error:
            nearest = str(error).rpartition("Nearest possible: ")[2].rstrip(".").split(" or ")
            assert all(parse_recipe(text) for text in nearest)
        else:
            assert parse_recipe(str(found)) == found
