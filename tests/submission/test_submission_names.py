"""The rule for names, and the names of cells."""

import unicodedata

import pytest

from submission import SubmissionError
from submission.notebook import PLACEHOLDER, check_name

KEPT = ["Müller-Lüdenscheidt-1", "O'Neill-12", "d’Arcy-12", "Łukasz-4"]
KEPT += ["van der Berg-3", "李-5", "देवनागरी-7", PLACEHOLDER]
BROKEN = ["", "-1", "Muster", "Muster-", "Muster 1", "Muster_1", "Muster-١"]
BROKEN += ["Muster-12a", "-Muster-1", "Mus--ter-1", " Muster-1", "Muster -1"]
BROKEN += ["Mus.ter-1", "../Muster-1", "a\\b-1", "a\x00b-1", "Muster-1\n"]
BROKEN += ["M4x-1", "x" * 300 + "-1", "\u0301a-1"]


@pytest.mark.parametrize("name", KEPT)
def test_names_of_any_language(name: str) -> None:
    assert check_name(name) == name
    decomposed = unicodedata.normalize("NFD", name)
    assert check_name(decomposed) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("name", BROKEN)
def test_other_names_are_refused_with_an_example(name: str) -> None:
    with pytest.raises(SubmissionError, match="Muster-12345678"):
        check_name(name)
