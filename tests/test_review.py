"""What becomes of screened pictures by persons' decisions, and by picked files."""

from pathlib import Path

import pandas as pd
import pytest

from lib.core.errors import AugmentError
from lib.records.manifest import to_table
from lib.records.rows import OK, ReviewRow, ScreenRow
from lib.records.settings import ReviewSettings
from lib.screening.decisions import BoxMark, DecisionLog, Mark, Note, Shape, Submit, new_decision
from lib.screening.labels import Correction, box_id
from lib.screening.review import Review, review_pictures, sampled

NAMES = ["cat__replace-p-1.png", "dog.v2__replace-p-2.png", "kuh, grün__replace-p-3.png"]


def screened(names=NAMES) -> pd.DataFrame:
    rows = [ScreenRow(f"k{i}", OK, "", "", "1", f"p{i}", f"s{i}", name, 9, 9, "") for i, name in enumerate(names)]
    return to_table(rows, ScreenRow).to_pandas()


def by_names(rows, settings):
    rows, counts = review_pictures(rows, settings, DecisionLog(Path("nowhere.jsonl")), lambda keys: {}, ())
    return rows, counts.strange


def picked(**values):
    """(names that are ok, picked names that fit none)"""
    rows, strange = by_names(screened(), ReviewSettings(**values))
    assert list(rows.key) == ["k0", "k1", "k2"]
    left = rows[rows.status != OK]
    assert (left.reason == "not_picked").all() and (rows[rows.status == OK].reason == "").all()
    return list(rows.name[rows.status == OK]), strange


def test_all_picks_every_picture():
    assert picked() == (NAMES, [])


def test_rows_are_review_rows():
    rows, _ = by_names(screened(), ReviewSettings())
    assert to_table(rows, ReviewRow).num_rows == 3


def test_a_picture_is_picked_by_a_file_of_its_name_whatever_it_holds(tmp_path):
    (tmp_path / NAMES[1]).write_bytes(b"no picture at all")
    assert picked(pick="folder", path=tmp_path) == ([NAMES[1]], [])


def test_a_drawn_copy_picks_the_plain_picture(tmp_path):
    (tmp_path / "dog.v2__replace-p-2.jpg").touch()
    (tmp_path / "cat__replace-p-1.JPEG").touch()
    assert picked(pick="folder", path=tmp_path) == (NAMES[:2], [])


def test_folders_inside_the_folder_count(tmp_path):
    (tmp_path / "good" / "ones").mkdir(parents=True)
    (tmp_path / "good" / "ones" / NAMES[0]).touch()
    assert picked(pick="folder", path=tmp_path) == ([NAMES[0]], [])


def test_other_files_in_the_folder_are_not_picks(tmp_path):
    for name in ("notes.txt", "Thumbs.db", NAMES[0].replace(".png", ".json")):
        (tmp_path / name).touch()
    assert picked(pick="folder", path=tmp_path) == ([], [])


def test_a_list_names_one_picture_a_line(tmp_path):
    path = tmp_path / "picks.txt"
    path.write_text(f"\n  {NAMES[2]}  \r\n\nsome/folder/cat__replace-p-1.jpg\n", "utf-8")
    assert picked(pick="list", path=path) == ([NAMES[0], NAMES[2]], [])


def test_a_list_may_leave_the_suffix_out(tmp_path):
    path = tmp_path / "picks.txt"
    path.write_text("dog.v2__replace-p-2\ncat__replace-p-1", "utf-8")
    assert picked(pick="list", path=path) == (NAMES[:2], [])


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path):
    path = tmp_path / "picks.txt"
    path.write_text(NAMES[0], "utf-8-sig")
    assert picked(pick="list", path=path) == ([NAMES[0]], [])


def test_a_list_that_is_not_utf_8_is_refused_by_name(tmp_path):
    path = tmp_path / "picks.txt"
    path.write_bytes(NAMES[2].encode("latin-1"))
    with pytest.raises(AugmentError, match=r"picks\.txt.*UTF-8"):
        picked(pick="list", path=path)


def test_names_that_fit_no_picture_are_reported(tmp_path):
    path = tmp_path / "picks.txt"
    path.write_text(f"zebra.png\n{NAMES[0]}\nape.png", "utf-8")
    assert picked(pick="list", path=path) == ([NAMES[0]], ["ape", "zebra"])


@pytest.mark.parametrize("pick", ["folder", "list"])
def test_a_slip_in_the_path_is_refused_and_empties_nothing(tmp_path, pick):
    with pytest.raises(AugmentError, match=r"slip is not a .*: (copy|write)"):
        picked(pick=pick, path=tmp_path / "slip")


@pytest.mark.parametrize(
    ("value", "pick"),
    [*((name, name) for name in ("all", "auto", "wait", "sample")), ("some/folder", "folder"), ("picks.txt", "list")],
)
def test_a_bare_value_says_what_it_is(value, pick):
    assert ReviewSettings.model_validate(value).pick == pick


@pytest.mark.parametrize("pick", ["folder", "list"])
def test_a_pick_without_a_path_is_refused(pick):
    with pytest.raises(AugmentError, match=rf"{pick!r} but review\.path is not set"):
        picked(pick=pick)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "picks.txt").touch()
    with pytest.raises(AugmentError, match=r"picks\.txt is not a folder"):
        picked(pick="folder", path=tmp_path / "picks.txt")


def test_a_folder_is_not_a_list(tmp_path):
    with pytest.raises(AugmentError, match="is not a text file"):
        picked(pick="list", path=tmp_path)


def test_no_pictures_to_review_is_not_a_fault(tmp_path):
    (tmp_path / NAMES[0]).touch()
    rows, strange = by_names(screened([]), ReviewSettings(pick="folder", path=tmp_path))
    assert len(rows) == 0 and strange == [NAMES[0].removesuffix(".png")]


def test_the_screened_rows_are_not_written_to(tmp_path):
    rows = screened()
    by_names(rows, ReviewSettings(pick="folder", path=tmp_path))
    assert (rows.status == OK).all()


# --- decisions of the page

PICTURES = [f"{i}" * 64 for i in (1, 2, 3)]
SHAS = [f"{i}" * 64 for i in (4, 5, 6)]
LABELS = [("pallet", (1.0, 2.0, 30.0, 40.0)), ("forklift", (50.0, 2.0, 30.0, 40.0))]


def of_page(names=NAMES) -> pd.DataFrame:
    facts = zip(names, PICTURES, SHAS, strict=True)
    rows = [ScreenRow(f"k{i}", OK, "", "", "1", p, s, name, 9, 9, "") for i, (name, p, s) in enumerate(facts)]
    return to_table(rows, ScreenRow).to_pandas()


@pytest.fixture
def log(tmp_path):
    return DecisionLog(tmp_path / "decisions.jsonl")


def note(log, *changes, by="ann"):
    log.append(new_decision(by, changes))


def mark(number, status):
    return Mark(picture=PICTURES[number], sha256=SHAS[number], status=status)


def reviewed(log, **values):
    rows, counts = review_pictures(
        of_page(), ReviewSettings(**values), log, lambda keys: dict.fromkeys(keys, LABELS), {"pallet", "forklift"}
    )
    assert to_table(rows, ReviewRow).num_rows == 3
    return rows, counts


def test_without_decisions_all_rows_are_as_screening_left_them(log):
    rows, counts = reviewed(log)
    assert (rows.status == OK).all() and counts.entries() == {} and rows.boxes.map(list).tolist() == [[], [], []]


def test_a_rejected_picture_is_set_aside_with_who_and_why_and_the_others_stay(log):
    note(log, mark(0, "keep"), mark(1, "reject"), Note(picture=PICTURES[1], sha256=SHAS[1], text="blurred"))
    rows, _ = reviewed(log)
    assert rows.reason.tolist() == ["", "rejected_by_person", ""]
    assert rows.detail[1] == "by ann: blurred" and rows.by.tolist() == ["ann", "ann", ""]
    assert (
        rows.decision.tolist() == ["keep", "reject", ""] and rows.note[1] == "blurred" and rows["at"][0].endswith("Z")
    )


def test_what_nobody_decided_on_is_as_the_settings_say_else_as_the_reviewer_said(log):
    note(log, mark(0, "keep"), mark(1, "undecided"))
    assert reviewed(log, undecided="reject")[0].reason.tolist() == ["", "undecided", "undecided"]
    note(log, Submit(undecided="reject"))
    assert reviewed(log)[0].reason.tolist() == ["", "undecided", "undecided"]
    assert reviewed(log, undecided="keep")[0].reason.tolist() == ["", "", ""]


def test_auto_is_screening_alone(log):
    note(log, mark(0, "reject"))
    rows, _ = reviewed(log, pick="auto")
    assert (rows.status == OK).all() and (rows.decision == "").all()


def test_picked_files_stand_against_decisions_of_the_page(log, tmp_path):
    note(log, mark(0, "reject"))
    (tmp_path / "picked").mkdir()
    (tmp_path / "picked" / NAMES[0]).touch()
    rows, _ = reviewed(log, pick="folder", path=tmp_path / "picked")
    assert rows.reason.tolist() == ["", "not_picked", "not_picked"]


def test_what_was_done_to_boxes_stands_after_the_verdicts(log):
    ids = [box_id(i, *label) for i, label in enumerate(LABELS)]
    of = {"picture": PICTURES[0], "sha256": SHAS[0]}
    note(log, BoxMark(**of, box=ids[0], status="reject"))
    note(log, Shape(**of, box=ids[1], category="pallet", xywh=(0, 0, 9, 9)))
    note(log, Shape(**of, box="new-" + "0" * 12, category="pallet", xywh=(5, 5, 9, 9)))
    rows, counts = reviewed(log)
    assert sorted(map(Correction.parse, rows.boxes[0]), key=str) == [
        Correction(0, "drop"),
        Correction(1, "keep", "pallet", (0, 0, 9, 9)),
        Correction(None, "keep", "pallet", (5, 5, 9, 9)),
    ]
    assert counts.lost_boxes == 0


def test_a_rejected_box_is_dropped_whatever_its_category_and_one_drawn_and_deleted_is_not_lost(log):
    of = {"picture": PICTURES[0], "sha256": SHAS[0]}
    box = box_id(0, *LABELS[0])
    note(log, Shape(**of, box=box, category="zebra", xywh=(0, 0, 9, 9)), BoxMark(**of, box=box, status="reject"))
    new = "new-" + "0" * 12
    note(log, Shape(**of, box=new, category="pallet", xywh=(5, 5, 9, 9)), BoxMark(**of, box=new, status="reject"))
    rows, counts = reviewed(log)
    assert list(map(Correction.parse, rows.boxes[0])) == [Correction(0, "drop")] and counts.lost_boxes == 0


def test_a_box_of_another_plan_and_an_unknown_category_are_counted_and_change_nothing(log):
    of = {"picture": PICTURES[0], "sha256": SHAS[0]}
    note(log, BoxMark(**of, box="f" * 16, status="reject"))
    note(log, Shape(**of, box=box_id(0, *LABELS[0]), category="zebra", xywh=(0, 0, 9, 9)))
    rows, counts = reviewed(log)
    assert list(rows.boxes[0]) == [] and counts.entries() == {"decisions on boxes that are no more": 2}


def test_a_sample_is_the_same_whatever_the_order_and_its_share_has_an_interval(log):
    assert sampled(PICTURES, 2) == sampled(PICTURES[::-1], 2) and len(sampled(PICTURES, 2)) == 2
    assert sampled(PICTURES, 9) == set(PICTURES)
    note(log, mark(0, "keep"), mark(1, "reject"), mark(2, "undecided"))
    _, counts = reviewed(log, pick="sample", sample=3)
    assert counts.entries() == {
        "sample": 3,
        "sample checked": 2,
        "sample accepted": "50.0% (95 % interval 9.5% to 90.5%)",
    }
    _, counts = reviewed(DecisionLog(log.path.with_name("none.jsonl")), pick="sample", sample=3)
    assert counts.entries() == {"sample": 3, "sample checked": 0}


# --- some at a time


@pytest.mark.parametrize("pick", ["all", "auto", "wait", "sample", "folder", "list"])
@pytest.mark.parametrize("size", [1, 2])
def test_reviewed_some_at_a_time_rows_and_counts_are_the_same(log, tmp_path, pick, size):
    of = {"picture": PICTURES[1], "sha256": SHAS[1]}
    note(log, mark(0, "reject"), mark(2, "keep"), BoxMark(**of, box=box_id(0, *LABELS[0]), status="reject"))
    note(log, BoxMark(**of, box="f" * 16, status="reject"), Submit(undecided="reject"))
    (tmp_path / "folder").mkdir()
    for name in (NAMES[2], NAMES[0], "zebra.png", "ape.png"):
        (tmp_path / "folder" / name).touch()
    (tmp_path / "list").write_text("\n".join([NAMES[2], NAMES[0], "zebra", "ape"]), "utf-8")
    values = {"path": tmp_path / pick} if pick in ("folder", "list") else {"sample": 2}
    settings, rows = ReviewSettings(pick=pick, **values), of_page()

    def labels_of(keys):
        return dict.fromkeys(keys, LABELS)

    whole, counts = review_pictures(rows, settings, log, labels_of, {"pallet"})
    review = Review(settings, log, {"pallet"}, iter(rows.picture), tmp_path)
    parts = [review.rows(rows[start : start + size], labels_of) for start in range(0, len(rows), size)]
    assert review.counts() == counts
    assert to_table(pd.concat(parts), ReviewRow).equals(to_table(whole, ReviewRow))
    assert counts.strange == (["ape", "zebra"] if "path" in values else [])
    assert not list(tmp_path.glob(".tmp-*"))
