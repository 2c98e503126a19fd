"""What a person picked, by file name."""

import pandas as pd
import pytest

from lib.core.errors import AugmentError
from lib.records.manifest import to_table
from lib.records.rows import OK, ReviewRow, ScreenRow
from lib.records.settings import ReviewSettings
from lib.screening.review import review_pictures

NAMES = ["cat__replace-p-1.png", "dog.v2__replace-p-2.png", "kuh, grün__replace-p-3.png"]


def screened(names=NAMES) -> pd.DataFrame:
    rows = [ScreenRow(f"k{i}", OK, "", "", "1", f"p{i}", f"s{i}", name, 9, 9, "") for i, name in enumerate(names)]
    return to_table(rows, ScreenRow).to_pandas()


def picked(**values):
    """(names that are ok, picked names that fit none)"""
    rows, strange = review_pictures(screened(), ReviewSettings(**values))
    assert list(rows.key) == ["k0", "k1", "k2"]
    left = rows[rows.status != OK]
    assert (left.reason == "not_picked").all() and (rows[rows.status == OK].reason == "").all()
    return list(rows.name[rows.status == OK]), strange


def test_all_picks_every_picture():
    assert picked() == (NAMES, [])


def test_rows_are_review_rows():
    rows, _ = review_pictures(screened(), ReviewSettings())
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


@pytest.mark.parametrize(("value", "pick"), [("all", "all"), ("some/folder", "folder"), ("picks.txt", "list")])
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
    rows, strange = review_pictures(screened([]), ReviewSettings(pick="folder", path=tmp_path))
    assert len(rows) == 0 and strange == [NAMES[0].removesuffix(".png")]


def test_the_screened_rows_are_not_written_to(tmp_path):
    rows = screened()
    review_pictures(rows, ReviewSettings(pick="folder", path=tmp_path))
    assert (rows.status == OK).all()
