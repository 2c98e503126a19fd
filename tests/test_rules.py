"""Caption rules: the post-processing of BLIP-2 + GLIGEN as data, in its order, and prompts from templates."""

import pytest

from lib.captioning.rules import LABEL_MISSING, RULES, apply_rules, fill_prompt, load_rules
from lib.core.errors import AugmentError


@pytest.mark.parametrize(
    ("caption", "labels", "expected"),
    [
        ("a sting ray in the water", ["stingray"], "stingray in the water"),
        ("two sting rays", ["stingray"], "two stingrays"),
        ("a bird on a rock", ["puffin"], "puffin on a rock"),
        ("a group of birds and seals", ["puffin"], "puffins and puffins"),
        ("a bird on a rock with a shark", ["shark"], "bird on a rock with a shark"),
        ("a fish in a fish tank", ["shark"], "shark in a fish tank"),
        ("fish in fish tanks", ["shark"], "shark in fish tanks"),
        ("a shark and a fish", ["shark"], "shark and a fish"),
        ("a man is swimming in the ocean with a shark", ["shark"], "the ocean with a shark"),
        ("a person diving at the reef near sharks", ["shark"], "the reef near sharks"),
        ("many fish", ["fish"], "fish"),
        ("a group of many fish", ["fish"], "fish"),
        ("A Group of Penguins", ["penguin"], "Penguins"),
        ("starfish on a rock", ["starfish"], "starfish on a rock"),
        ("a pallet truck in a hall", ["pallet_truck"], "pallet truck in a hall"),
        ("  a   jellyfish ", ["jellyfish"], "jellyfish"),
    ],
)
def test_s3s_rules_in_their_order(caption, labels, expected):
    assert apply_rules(RULES["s3"], caption, labels) == (expected, "")


@pytest.mark.parametrize(
    ("caption", "labels"),
    [
        ("a fish tank", ["shark"]),  # protected, so the label stays missing
        ("an aquarium", ["shark"]),
        ("starfish", ["fish"]),  # a part of a word is not the word
        ("", ["shark"]),
    ],
)
def test_a_caption_that_still_lacks_the_label_has_a_reason(caption, labels):
    assert apply_rules(RULES["s3"], caption, labels)[1] == LABEL_MISSING


def test_synonyms_come_before_the_check_and_spelling_before_synonyms():
    rules = load_rules({"spelling": [["brid", "bird"]], "synonyms": {"puffin": ["bird"]}, "label_required": True})
    assert apply_rules(rules, "a brid", ["puffin"]) == ("a puffin", "")


def test_with_several_labels_one_is_enough_and_generic_words_stay():
    assert apply_rules(RULES["s3"], "a fish and a shark", ["ray", "shark"]) == ("fish and a shark", "")
    assert apply_rules(RULES["s3"], "a fish", ["ray", "shark"]) == ("fish", LABEL_MISSING)


def test_a_picture_without_labels_lacks_none():
    assert apply_rules(RULES["s3"], "a quiet sea", []) == ("quiet sea", "")


def test_no_rules_change_nothing_but_spaces():
    assert load_rules(None) == load_rules("none") == load_rules({})
    assert apply_rules(load_rules(None), " a  group of fish ", ["shark"]) == ("a group of fish", "")


def test_wrong_rules_name_what_is_known():
    with pytest.raises(AugmentError, match="unknown caption rules 's4': known are none, s3"):
        load_rules("s4")
    with pytest.raises(AugmentError, match=r"field 'remove'.*known are: spelling, synonyms"):
        load_rules({"remove": ["x"]})
    with pytest.raises(AugmentError, match=r"field 'delete'.*'\(' is not a regular expression"):
        load_rules({"delete": ["a", "("]})


def test_a_prompt_is_filled_in_and_values_are_taken_literally():
    template = "{caption}, {label}, marine, height: {height}, width: {width} {{x}}"
    assert fill_prompt(template, "a {label}", "ray", 640, 480) == "a {label}, ray, marine, height: 480, width: 640 {x}"
    assert fill_prompt("plain", "", "", 1, 1) == "plain"


@pytest.mark.parametrize("name", ["H", "", "0", "caption.__class__", "width:05d", "label!r"])
def test_an_unknown_name_in_a_prompt_lists_the_known_ones(name):
    with pytest.raises(AugmentError, match=r"known are \{caption\} \{label\} \{width\} \{height\}"):
        fill_prompt("x {" + name + "}", "", "", 1, 1)


def test_braces_that_do_not_close_are_reported_as_such():
    with pytest.raises(AugmentError, match=r"write \{\{ and \}\}"):
        fill_prompt("{caption", "", "", 1, 1)
