"""Paired statistics: seeds, sign flips, Holm, and what is said of them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.core.errors import AugmentError
from lib.proof.statistics import (
    Contrast,
    bootstrap_interval,
    compare,
    failed_checks,
    headline,
    holm,
    least_p,
    seeds_needed,
    sign_flip,
)


def table_of(**arms):
    """Arms as {name or name_ratio: values by seed 0, 1, …}."""
    rows = []
    for name, values in arms.items():
        arm, _, ratio = name.partition("_")
        rows += [(arm, float(ratio or 0), seed, value) for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["arm", "ratio", "seed", "value"])


BASE = np.array([10.0, 12, 11, 9, 13, 10, 12, 11])
NOISE = np.array([0.3, -0.2, 0.1, 0.4, -0.3, 0.2, 0.4, -0.1])


def one(table, text, **settings):
    return compare(table, [Contrast.of(text)], **settings)[0]


def test_a_contrast_is_written_as_people_write_it():
    read = Contrast.of(" T>B,C , D@0.5")
    assert (read.better, read.rivals, str(read)) == ("T", ("B", "C", "D@0.5"), "T > B, C, D@0.5")


@pytest.mark.parametrize("text", ["", "T", "T > ", "T > A >B", "T < A", "T > A,", "T@ > A", "T > A; D", "2 > A"])
def test_a_contrast_that_is_not_understood_is_refused_with_the_way_to_write_it(text):
    with pytest.raises(AugmentError, match="write 'F > A'"):
        Contrast.of(text)


def test_a_contrast_with_one_arm_twice_is_refused():
    with pytest.raises(AugmentError, match="twice"):
        Contrast.of("T > B, T")


def test_a_clear_gain_in_eight_seeds_is_shown():
    found = one(table_of(A=BASE, F_1=BASE + 3 + NOISE), "F > A")
    assert found.outcome == "shown" and found.p == found.p_least == 1 / 256 and found.p_two_sided == 2 / 256
    assert found.mean == pytest.approx(3 + NOISE.mean()) and found.low < found.mean < found.high
    assert found.differences == pytest.approx(3 + NOISE)
    assert found.sentence == (
        "F gained 3.1 AP over A in 8 paired seeds (95 % interval 2.9 to 3.3, p = .004 after Holm): shown"
    )


def test_three_seeds_cannot_show_anything_and_it_is_said_how_many_can():
    found = one(table_of(A=BASE[:3], F_1=BASE[:3] + 5), "F > A")
    assert found.outcome == "too few seeds"
    assert "3 paired seeds cannot give less than p = .125, at least 5 are needed" in found.sentence


def test_holm_counts_in_what_seeds_can_give():
    table = table_of(A=BASE[:6], F_1=BASE[:6] + 5, D_1=BASE[:6] + 4, G_1=BASE[:6] + 3)
    found = compare(table, [Contrast.of(text) for text in ("F > A", "F > D", "F > G", "G > A")])
    assert {some.outcome for some in found} == {"too few seeds"} and found[0].p == 1 / 64
    assert "p = .016 (.062 after Holm), at least 7 are needed" in found[0].sentence
    assert seeds_needed(4) == 7 and seeds_needed(1) == 5


def test_noise_around_nothing_is_not_shown():
    found = one(table_of(A=BASE, F_1=BASE + NOISE), "F > A")
    assert found.outcome == "not shown" and found.p > 0.05 and found.sentence.endswith(": not shown")


def test_a_clear_loss_is_shown_as_harm():
    found = one(table_of(A=BASE, F_1=BASE - 2 + NOISE), "F > A")
    assert found.outcome == "harm shown" and found.p > 0.9
    assert found.sentence.startswith("F lost 1.9 AP against A") and found.sentence.endswith(": harm shown")
    assert "interval 1.7 to 2.1, two-sided p = .008" in found.sentence


def test_of_several_rivals_the_best_over_the_shared_seeds_is_compared():
    found = one(table_of(T_1=BASE + 5, B=BASE, C=BASE + 1 + NOISE, D_1=BASE - 1), "T > B, C, D")
    assert found.rival == "C" and found.differences == pytest.approx(4 - NOISE)
    assert "over C (the best of B, C, D) in 8" in found.sentence


def test_a_seed_that_diverged_or_is_missing_is_named_and_left_out_for_all():
    values = BASE + 3
    values[2] = np.nan
    found = one(table_of(A=BASE[:7], F_1=values), "F > A")
    assert found.seeds == [0, 1, 3, 4, 5, 6]
    assert [(some.arm, some.seed, some.why) for some in found.missing] == [
        ("F", 2, "diverged"),
        ("A", 7, "not finished"),
    ]
    assert "after Holm), left out: seed 2 (F diverged), seed 7 (A not finished): " in found.sentence


def test_planned_seeds_that_no_arm_has_are_named():
    found = one(table_of(A=BASE, F_1=BASE), "F > A", seeds=range(9))
    assert [(some.arm, some.seed) for some in found.missing] == [("F", 8), ("A", 8)]


def test_an_arm_without_trainings_is_not_measured():
    found = one(table_of(A=BASE), "F > A")
    assert found.outcome == "not measured" and found.seeds == [] and found.mean is None
    assert "no seed has all of its arms" in found.sentence


def test_an_arm_of_several_ratios_needs_one_to_be_named_or_a_main_one():
    table = table_of(A=BASE, F_1=BASE + 1, F_2=BASE + 2)
    with pytest.raises(AugmentError, match="F@1, F@2"):
        one(table, "F > A")
    assert one(table, "F@2 > A").mean == pytest.approx(2) and one(table, "F > A", ratio=1.0).mean == pytest.approx(1)
    assert one(table, "F@2 > F@1").mean == pytest.approx(1)


def test_two_trainings_of_one_seed_are_refused():
    table = table_of(A=BASE)
    with pytest.raises(AugmentError, match="two trainings of seed 0"):
        one(pd.concat([table, table[:1]]), "F > A")


def test_a_table_without_its_columns_is_refused():
    with pytest.raises(AugmentError, match="no column value"):
        one(table_of(A=BASE).drop(columns="value"), "F > A")


@pytest.mark.parametrize("n", [2, 5, 9])
def test_sign_flips_agree_with_scipy(n):
    values = np.random.default_rng(n).normal(0.4, 1, n)
    for alternative, ours in zip(("greater", "two-sided"), sign_flip(values), strict=True):
        theirs = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        )
        assert ours == pytest.approx(theirs.pvalue)


def test_many_pairs_are_sampled_with_the_identity_among_the_flips():
    p, both = sign_flip(np.full(20, 1.0))
    assert p == least_p(20) == 1 / 65536 and both == 1 / 65536
    values = np.random.default_rng(3).normal(0.3, 1, 20)
    normal = stats.norm.sf(values.sum() / np.sqrt((values**2).sum()))
    assert sign_flip(values)[0] == pytest.approx(normal, abs=0.03) and sign_flip(values) == sign_flip(values)


def test_equal_arms_have_a_p_of_one():
    assert sign_flip(np.zeros(8)) == (1.0, 1.0) and sign_flip(np.zeros(0)) == (1.0, 1.0)


def test_the_bootstrap_interval_is_that_of_scipy_and_always_the_same():
    values = BASE - 9
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.08)
    assert bootstrap_interval(values) == bootstrap_interval(values) and bootstrap_interval(values[:1]) == (None, None)


def test_holm_adjusts_as_in_its_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


CHECKS = [Contrast.of(text) for text in ("F > A", "F > D", "A > X", "Y > A")]


def test_checks_are_a_family_of_their_own_and_the_harmful_arm_is_their_subject():
    table = table_of(A=BASE, F_1=BASE + 3 + NOISE, D_1=BASE + 3, X_1=BASE - 4, Y_1=BASE + 6)
    found = compare(table, CHECKS)
    assert [some.role for some in found] == ["claim", "claim", "harm", "help"] and failed_checks(found) == []
    assert found[0].p_holm == found[2].p_holm == 2 / 256
    assert found[2].sentence.startswith("X lost 4.0 AP against A in 8 paired seeds (95 % interval 4.0 to 4.0")
    assert found[2].sentence.endswith("harm shown, as it must be")
    assert headline(found) == "Shown: F gained 3.1 AP over A — not shown: F > D."


def test_shifted_labels_that_do_no_harm_are_the_headline():
    table = table_of(A=BASE, F_1=BASE + 3, D_1=BASE, X_1=BASE + NOISE, Y_1=BASE + 6)
    found = compare(table, CHECKS)
    assert headline(found) == (
        "The protocol's own check failed (X not found harmful): its other claims cannot be trusted."
    )
    assert found[2].sentence.endswith(": not shown, so the protocol's check failed")


def test_a_protocol_without_checks_says_so():
    assert "did not check itself" in headline(compare(table_of(A=BASE, F_1=BASE + 3), CHECKS[:1]))


def test_comparisons_can_be_written_as_json():
    found = one(table_of(A=BASE[:1], F_1=[np.nan]), "F > A")
    assert type(found).model_validate_json(found.model_dump_json()) == found
