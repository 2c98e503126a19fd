"""Decisions of persons: kept as they are made, by picture, and what follows from them."""

import json
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import AugmentError
from lib.screening.decisions import (
    BoxMark,
    DecisionLog,
    Mark,
    Note,
    Reviewed,
    Shape,
    Submit,
    Targets,
    Undo,
    agreement,
    new_decision,
    share_interval,
)

A, B = "a" * 64, "b" * 64
SHA = "1" * 64


@pytest.fixture
def log(tmp_path):
    return DecisionLog(tmp_path / "decisions.jsonl")


def decide(log, by, picture, status, **more):
    decision = new_decision(by, [Mark(picture=picture, sha256=SHA, status=status)], **more)
    assert log.append(decision)
    return decision.id


def test_a_decision_is_read_back_by_another_reader(log):
    decide(log, "ann", A, "keep")
    state = DecisionLog(log.path).refresh().of(A, SHA)
    assert (state.status, state.by, state.marks) == ("keep", "ann", {"ann": "keep"}) and state.at.endswith("Z")


def test_a_picture_of_other_bytes_has_no_part_in_it(log):
    decide(log, "ann", A, "keep")
    assert log.of(A, "2" * 64) == Reviewed()


def test_the_last_decision_counts_and_each_reviewers_own_is_kept(log):
    decide(log, "ann", A, "keep")
    decide(log, "ben", A, "reject")
    state = log.of(A, SHA)
    assert state.status == "reject" and state.marks == {"ann": "keep", "ben": "reject"} and state.disputed


def test_undone_decisions_count_no_more_however_often(log):
    first, second = decide(log, "ann", A, "keep"), decide(log, "ann", A, "reject")
    assert log.undoable("ann") == second and log.undoable("ben") is None
    log.append(new_decision("ann", [Undo(decision=second)]))
    assert log.of(A, SHA).status == "keep" and log.undoable("ann") == first
    log.append(new_decision("ann", [Undo(decision=first)]))
    assert log.of(A, SHA) == Reviewed() and log.undoable("ann") is None


def test_changes_that_were_made_at_once_are_undone_at_once(log):
    both = new_decision("ann", [Mark(picture=p, sha256=SHA, status="reject") for p in (A, B)])
    log.append(both)
    log.append(new_decision("ann", [Undo(decision=both.id)]))
    assert log.of(A, SHA).status is None and log.of(B, SHA).status is None


def test_boxes_notes_and_what_is_not_of_a_picture(log):
    box, shape = "0" * 16, Shape(picture=A, sha256=SHA, box="1" * 16, category="pallet", xywh=(1, 2, 3, 4))
    log.append(new_decision("ann", [BoxMark(picture=A, sha256=SHA, box=box, status="reject"), shape]))
    log.append(new_decision("ann", [Note(picture=A, sha256=SHA, text="dark"), Targets(boxes={"pallet": 7})]))
    log.append(new_decision("ann", [Submit(undecided="reject")]))
    state = log.of(A, SHA)
    assert state.boxes == {box: "reject"} and state.shapes == {"1" * 16: shape} and state.note == "dark"
    assert log.last(Targets).boxes == {"pallet": 7} and log.last(Submit, "ben") is None
    log.append(new_decision("ann", [BoxMark(picture=A, sha256=SHA, box="1" * 16, status="")]))
    assert log.of(A, SHA).shapes == {}


def test_a_decision_that_is_sent_twice_is_one(log):
    decide(log, "ann", A, "keep", id="same-id-1")
    again = new_decision("ann", [Mark(picture=A, sha256=SHA, status="keep")], id="same-id-1")
    assert not log.append(again) and not DecisionLog(log.path).append(again)
    assert len(log.path.read_text().splitlines()) == 1


@pytest.mark.parametrize("torn", [b'{"id":"0123', b"\xff\xfe", b"{}", b"[" * 10_000])
def test_a_torn_line_costs_itself_alone(log, torn):
    decide(log, "ann", A, "keep")
    with log.path.open("ab") as file:
        file.write(torn)
    decide(DecisionLog(log.path), "ann", B, "reject")
    read = DecisionLog(log.path).refresh()
    assert (read.of(A, SHA).status, read.of(B, SHA).status, read.damaged) == ("keep", "reject", 1)


def test_many_who_write_at_once_lose_nothing(log):
    def write(who):
        own = DecisionLog(log.path)
        for number in range(10):
            decide(own, who, f"{number:064x}", "keep")

    threads = [threading.Thread(target=write, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.refresh().version == 40 and log.damaged == 0
    assert all(len(state.marks) == 4 for state in log.pictures().values())


def test_what_others_decided_since_is_told_alone(log):
    decide(log, "ann", A, "keep")
    version = log.version
    decide(DecisionLog(log.path), "ben", B, "reject")
    assert log.refresh().pictures(version).keys() == {(B, SHA)} and log.pictures(log.version) == {}


def test_a_link_in_its_place_is_refused(log, tmp_path):
    log.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AugmentError, match="not a file of its own"):
        decide(log, "ann", A, "keep")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "line",
    [
        {"do": "picture", "picture": "../../etc/passwd", "status": "keep"},
        {"do": "picture", "picture": A, "status": "perhaps"},
        {"do": "shape", "picture": A, "box": "0" * 16, "category": "c", "xywh": [0, 0, -1, 1]},
        {"do": "shape", "picture": A, "box": "0" * 16, "category": "c", "xywh": [0, 0, 1e300, 1]},
        {"do": "run", "command": "rm"},
        {"do": "note", "picture": A, "text": "x" * 2001},
    ],
)
def test_a_line_of_any_other_form_is_no_decision(log, line):
    log.path.write_text(json.dumps({"id": "0" * 8, "at": "", "by": "a", "changes": [line]}) + "\n")
    assert log.refresh().damaged == 1 and log.version == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["keep", "reject", "undecided", "undo"]))))
def test_read_step_by_step_or_at_once_the_state_is_the_same(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("log") / "decisions.jsonl"
    log = DecisionLog(path)
    for who, what in steps:
        if what == "undo":
            if last := log.undoable(who):
                log.append(new_decision(who, [Undo(decision=last)]))
        else:
            decide(log, who, A, what)
    assert DecisionLog(path).refresh().pictures() == log.pictures()


def test_agreement_is_cohens_kappa_on_what_both_decided():
    # Cohen's own kind of table: 20 both keep, 15 both reject, 5 and 10 differ; kappa = (0.7 − 0.5) / (1 − 0.5)
    pairs = [("keep", "keep")] * 20 + [("reject", "reject")] * 15 + [("keep", "reject")] * 5 + [("reject", "keep")] * 10
    states = {(f"{i}", SHA): Reviewed(marks={"a": one, "b": two}) for i, (one, two) in enumerate(pairs)}
    states["x", SHA] = Reviewed(marks={"a": "keep", "b": "undecided"})
    states["y", SHA] = Reviewed(marks={"a": "keep"})
    found = agreement(states, "a", "b")
    assert (found.both, found.same, len(found.disagreed)) == (50, 35, 15) and found.kappa == pytest.approx(0.4)


def test_kappa_is_not_defined_where_all_is_kept():
    states = {("1", SHA): Reviewed(marks={"a": "keep", "b": "keep"})}
    assert agreement(states, "a", "b").kappa is None and agreement({}, "a", "b").both == 0


def test_the_interval_of_a_share_is_wilsons():
    low, high = share_interval(45, 50)
    assert (round(low, 3), round(high, 3)) == (0.786, 0.957)
    assert share_interval(0, 0) == (0, 1) and share_interval(10, 10)[1] == 1


def test_a_decision_is_one_line_whatever_its_texts_hold(log):
    log.append(new_decision("a\nb", [Note(picture=A, sha256=SHA, text='"\n\u2028{}')]))
    (line,) = log.path.read_bytes().splitlines()
    assert msgspec.json.decode(line)["by"] == "a\nb" and log.of(A, SHA).note == '"\n\u2028{}'
