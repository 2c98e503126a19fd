"""An error for a person can be printed, whatever a name or a file puts into it."""

import copy
import pickle

import pytest

from lib.core.errors import MOST, AugmentError


def test_a_sentence_stays_as_it_is():
    assert str(AugmentError("bad größe '猫':\n  found 3 × 4")) == "bad größe '猫':\n  found 3 × 4"


@pytest.mark.parametrize("bad", ["\x1b[2J", "\r", "\x07", "\0", "\u202e", "\x85", "\ud800", "\udcff"])
def test_nothing_in_a_name_controls_a_terminal_or_cannot_be_printed(bad):
    text = str(AugmentError(f"file {bad}x.png not found"))
    assert text.isprintable() and text.startswith("file \\") and text.endswith("x.png not found")
    text.encode()


def test_of_what_is_too_long_both_ends_are_shown():
    text = str(AugmentError(f"names {'x' * 100_000}: give another"))
    assert len(text) < MOST and text.startswith("names xxx") and text.endswith("x: give another")


def test_an_error_can_travel_between_processes():
    error = AugmentError("a\x1bb")
    assert str(copy.copy(error)) == str(pickle.loads(pickle.dumps(error))) == "a\\x1bb"
