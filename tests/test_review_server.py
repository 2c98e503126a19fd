"""The review's server: who may use it, what it answers; label tools, out and back in; what a final set tells."""

from __future__ import annotations

import json
import shutil
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from browser import HOSTILE, HOSTILE_FILE, settings_of, small_run

from flows import augment_dataset
from flows.cli import main
from lib.core.errors import AugmentError
from lib.review.label_tools import read_review, write_review
from lib.review.samples import final_samples
from lib.review.serve import served
from lib.review.session import Post, Session, UndoPost
from lib.screening.decisions import BoxMark, Change, Mark, Shape


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("served"), pictures=3, variants=1)


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def session(run: Path) -> Session:
    return Session([run], "ann")


@pytest.fixture
def link(session: Session, run: Path) -> Iterator[str]:
    with served(session, run) as one:
        yield one


def decide(session: Session, *changes: Change, by: str = "ann") -> None:
    session.decide(Post(run=0, id=uuid4().hex, by=by, changes=list(changes)))


def items(session: Session) -> list[Any]:
    return list(session.runs[0].items.values())


def own(link: str) -> dict[str, str]:
    """Headers that the page's own requests have."""
    return {"origin": link.rsplit("/", 2)[0], "content-type": "application/json"}


def post_of(session: Session, **more: Any) -> dict[str, Any]:
    key = items(session)[0].key
    return {
        "run": 0,
        "id": uuid4().hex,
        "by": "ann",
        "changes": [{"do": "picture", "picture": key, "status": "keep"}],
    } | more


# --- who may use it


def test_the_page_and_its_files_come_with_a_policy_that_lets_in_nothing_else(link):
    for name in ("", "page/main.js", "page/style.css", "api/catalogue"):
        answer = httpx.get(link + name)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["", "wrong", "wrong/", "wrong/api/catalogue", "api/catalogue"])
def test_without_the_token_nothing_is_told(link, path):
    answer = httpx.get(f"{link.rsplit('/', 2)[0]}/{path}")
    assert answer.status_code == 403 and "take the one" in answer.text


@pytest.mark.parametrize(
    "path",
    ["../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "page/../../session.py", "page/..%2fsession.py",
     "page/index.html/../../app.py", "picture/0/..%2f..%2fstatus.json", "thumbnail/0/" + "0" * 64,
     "source/9/" + "0" * 64, "picture/-1/" + "0" * 64, "page/%00", "docs", "openapi.json"],
)  # fmt: skip
def test_no_path_leads_outside_of_what_is_shown(link, path):
    host, port = link.removeprefix("http://").split("/")[0].split(":")
    token = link.split("/")[3]
    with socket.create_connection((host, int(port))) as one:  # as it is: clients tidy such paths up
        one.sendall(f"GET /{token}/{path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: one.recv(65536), b""))
    status = int(answer.split()[1])
    assert 400 <= status < 500 and b"root:" not in answer and b"import" not in answer and b"state" not in answer[:400]


def test_another_host_another_page_and_another_kind_of_request_are_refused(link, session, run):
    good = own(link)
    body = post_of(session)
    for headers in (
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"content-type": "text/plain"},
    ):
        assert httpx.post(f"{link}api/decide", json=body, headers=good | headers).status_code == 403
    assert httpx.post(f"{link}api/decide", json=body).status_code == 403  # no page's
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert httpx.request(method, f"{link}api/decide", headers=good).status_code in (403, 405)
    assert httpx.get(f"{link}api/undo").status_code in (403, 404, 405)
    big = json.dumps(body | {"by": "x" * 3_000_000})
    assert httpx.post(f"{link}api/decide", content=big, headers=good).status_code == 403
    assert not (run / "decisions.jsonl").exists()
    assert httpx.post(f"{link}api/decide", json=body, headers=good).status_code == 200


def test_it_listens_on_loopback_alone_and_its_note_is_for_its_owner(link, run):
    assert link.startswith("http://127.0.0.1:")
    assert (run / ".review.json").stat().st_mode & 0o777 == 0o600


# --- bad input


@pytest.mark.parametrize(
    "more",
    [{"by": ""}, {"id": "x"}, {"run": -1}, {"changes": []}, {"changes": [{"do": "run"}]}, {"more": 1},
     {"changes": "[" * 10}],
)  # fmt: skip
def test_what_is_no_decision_is_refused_and_noted_nowhere(link, session, run, more):
    answer = httpx.post(f"{link}api/decide", json=post_of(session, **more), headers=own(link))
    assert answer.status_code == 422 and "nothing was noted" in answer.json()["error"]
    assert not (run / "decisions.jsonl").exists()


def test_a_decision_on_an_unknown_picture_or_run_or_category_says_so(link, session, run):
    changes = [{"do": "picture", "picture": "0" * 64, "status": "keep"}]
    answer = httpx.post(f"{link}api/decide", json=post_of(session, changes=changes), headers=own(link))
    assert answer.status_code == 404 and "was never shown here" in answer.json()["error"]
    assert httpx.post(f"{link}api/decide", json=post_of(session, run=7), headers=own(link)).status_code == 404
    of = {"do": "shape", "picture": items(session)[0].key, "box": "0" * 16, "category": "zebra", "xywh": [0, 0, 1, 1]}
    answer = httpx.post(f"{link}api/decide", json=post_of(session, changes=[of]), headers=own(link))
    assert answer.status_code == 404 and not (run / "decisions.jsonl").exists()


def test_a_decision_on_a_picture_that_was_painted_anew_since_it_was_seen_is_refused(link, session, run):
    item = items(session)[0]
    session.runs[0].known[item.key] = "f" * 64  # painted anew under the same key
    change = {"do": "picture", "picture": item.key, "status": "keep"}
    body = post_of(session, changes=[change | {"sha256": item.sha256}])
    answer = httpx.post(f"{link}api/decide", json=body, headers=own(link))
    assert answer.status_code == 404 and "reload the page; nothing was noted" in answer.json()["error"]
    assert not (run / "decisions.jsonl").exists()
    for more in ({"sha256": "f" * 64}, {}):
        body = post_of(session, changes=[change | more])
        assert httpx.post(f"{link}api/decide", json=body, headers=own(link)).status_code == 200
    assert session.runs[0].log.of(item.key, "f" * 64).status == "keep"


def test_a_moved_box_is_cut_to_its_picture(session):
    item = items(session)[0]
    decide(session, Shape(picture=item.key, box=item.boxes[0].id, category="forklift", xywh=(-5, 100, 900, 900)))
    (shape,) = session.runs[0].log.of(item.key, item.sha256).shapes.values()
    assert shape.xywh == (0, 100, item.width, item.height - 100)


def test_a_post_is_answered_with_all_that_was_decided_after_what_its_page_knows(link, session):
    first, second, _ = items(session)
    known = httpx.get(f"{link}api/catalogue").json()["versions"]
    httpx.post(f"{link}api/decide", json=post_of(session, by="ben"), headers=own(link))
    changes = [{"do": "picture", "picture": second.key, "status": "reject"}]
    body = post_of(session, changes=changes)
    only = httpx.post(f"{link}api/decide", json=body, headers=own(link)).json()  # a page that does not say
    assert set(only["states"][0]) == {second.key}
    both = httpx.post(f"{link}api/decide", json=body | {"versions": known}, headers=own(link)).json()
    assert set(both["states"][0]) == {first.key, second.key} and both["versions"] == [2]
    undo = {"by": "ann", "id": uuid4().hex, "versions": known}
    told = httpx.post(f"{link}api/undo", json=undo, headers=own(link)).json()
    assert set(told["states"][0]) == {first.key, second.key} and told["undone"] == [second.key]
    later = httpx.post(f"{link}api/decide", json=post_of(session, versions=[99]), headers=own(link)).json()
    assert set(later["states"][0]) == {first.key} and later["versions"] == [4]  # the log began anew since
    assert httpx.post(f"{link}api/undo", json=undo | {"versions": [-1]}, headers=own(link)).status_code == 422


def statuses(session: Session) -> list[str | None]:
    """Of the first picture, by run."""
    key, sha256 = items(session)[0].key, items(session)[0].sha256
    return [run.log.of(key, sha256).status for run in session.runs]


@pytest.fixture
def two(run: Path, prepared: Path, tmp_path: Path) -> Session:
    """Two runs under review; ann decided on a picture of both at once, and then on one of the second."""
    shutil.copytree(prepared, tmp_path / "other")
    session = Session([run, tmp_path / "other"], "ann")
    mark = Mark(picture=items(session)[0].key, status="keep")
    for place, id in ((0, "of-both-1"), (1, "of-both-1"), (1, "of-one-2")):
        session.decide(Post(run=place, id=id, by="ann", changes=[mark]))
        time.sleep(0.002)  # times are noted in milliseconds
    return session


def test_an_undo_that_comes_again_undoes_no_other_decision(two):
    undo, key = UndoPost(by="ann", id=uuid4().hex), items(two)[0].key
    assert two.undo(undo)["undone"] == [key] == two.undo(undo)["undone"]
    assert statuses(two) == ["keep", "keep"] and two.runs[1].log.undoable("ann") == "of-both-1"
    later = UndoPost(by="ann", id=uuid4().hex)
    assert two.undo(later)["undone"] == [key, key] == two.undo(undo)["undone"] * 2 == two.undo(later)["undone"]
    assert statuses(two) == [None, None]
    nothing = UndoPost(by="ann", id=uuid4().hex)
    assert two.undo(nothing)["undone"] == [] == two.undo(nothing)["undone"]


def test_an_undo_that_was_cut_short_is_finished_when_it_comes_again(two, monkeypatch):
    two.undo(UndoPost(by="ann", id=uuid4().hex))
    undo, append = UndoPost(by="ann", id=uuid4().hex), two.runs[1].log.append

    def fails(decision: Any) -> bool:
        raise AugmentError("held by another program")

    monkeypatch.setattr(two.runs[1].log, "append", fails)
    with pytest.raises(AugmentError):
        two.undo(undo)
    monkeypatch.setattr(two.runs[1].log, "append", append)
    assert len(two.undo(undo)["undone"]) == 2 and statuses(two) == [None, None]


def test_an_undo_of_an_id_that_leaves_no_room_is_refused(link, session):
    decide(session, Mark(picture=items(session)[0].key, status="keep"))
    for length, status in ((63, 422), (62, 200)):
        answer = httpx.post(f"{link}api/undo", json={"by": "ann", "id": "u" * length}, headers=own(link))
        assert answer.status_code == status
    assert session.runs[0].log.damaged == 0 and statuses(session) == [None]


def test_a_missing_picture_and_a_missing_source_say_what_to_do(link, session):
    item = items(session)[0]
    session.runs[0].store.path("picture", item.key).unlink()
    answer = httpx.get(f"{link}picture/0/{item.key}")
    assert answer.status_code == 404 and "run again" in answer.json()["error"]
    session.runs[0].sources.clear()
    assert httpx.get(f"{link}source/0/{item.key}").status_code == 404


def test_a_source_that_is_no_longer_what_it_was_is_not_shown(link, session, tmp_path):
    item = items(session)[0]
    place = tmp_path / "other.png"
    place.write_bytes(b"something private")
    sources = session.runs[0].sources
    sources[item.source] = type(sources[item.source])(place, item.source, "upright")
    answer = httpx.get(f"{link}source/0/{item.key}")
    assert answer.status_code == 404 and b"private" not in answer.content


def test_a_thumbnail_is_made_once_by_content(link, session, run):
    item = items(session)[0]
    first = httpx.get(f"{link}thumbnail/0/{item.key}")
    (kept,) = (run / "store" / "thumbnail").glob("*/*")
    before = kept.stat().st_mtime_ns
    assert httpx.get(f"{link}thumbnail/0/{item.key}").content == first.content and first.content[:2] == b"\xff\xd8"
    assert kept.stat().st_mtime_ns == before


def test_a_run_without_pictures_is_a_sentence(prepared, tmp_path, capsys):
    with pytest.raises(AugmentError, match="nothing was painted here yet"):
        Session([tmp_path], "ann")
    settings = settings_of(prepared.parent, tmp_path / "none")
    augment_dataset(**settings | {"select": {"min_picture": 5000}})
    with pytest.raises(AugmentError, match="has no picture to review"):
        Session([tmp_path / "none"], "ann")
    assert main(["review", str(tmp_path / "none"), "--summary"]) == 1
    assert "has no picture to review" in capsys.readouterr().err


def test_the_catalogue_says_whether_the_start_names_the_reviewer(run, monkeypatch):
    started: list[Session] = []
    monkeypatch.setattr("lib.review.serve.serve_until_stopped", lambda session, *more: started.append(session))
    for more in ((), ("--reviewer", "cleo"), ("--reviewer", "cleo")):
        assert main(["review", str(run), "--no-open", *more]) == 0
    told = [json.loads(session.catalogue()) for session in started]
    assert told[0]["named"] == "" and [one["reviewer"] for one in told[1:]] == ["cleo", "cleo"]
    assert len({one["named"] for one in told}) == 3  # each start is another


def test_a_run_that_is_named_twice_is_refused(run, capsys):
    assert main(["review", str(run), str(run), "--summary"]) == 1
    assert "named twice" in capsys.readouterr().err


def test_the_summary_tells_decisions_and_notes(session, run, capsys):
    first, second, _ = items(session)
    decide(session, Mark(picture=first.key, status="keep"), Mark(picture=second.key, status="reject"))
    decide(session, Mark(picture=first.key, status="reject"), by="ben")
    assert main(["review", str(run), "--summary"]) == 0
    out = capsys.readouterr().out
    assert "0 kept, 2 rejected, 1 without a decision" in out and "ann and ben: 0 of 1 pictures alike" in out
    assert f"disputed: {first.name}" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--out", "folder"], "--out folder is where --to writes"),
        (["--summary", "--out", "folder"], "--out folder is where --to writes"),
        (["--json"], "--json prints what --summary, --to or --from have to say"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(run, capsys, options, told):
    assert main(["review", str(run), *options]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--to", "cvat", "--from", "back.xml"], ["--summary", "--to", "cvat"], ["--from", "a.xml", "--summary"]]
)
def test_one_thing_is_done_at_a_time(run, capsys, options):
    with pytest.raises(SystemExit) as end:
        main(["review", str(run), *options])
    assert end.value.code == 2 and "not allowed with argument" in capsys.readouterr().err
    assert not (run / "export").exists()


# --- label tools


def go_out_and_back(session: Session, folder: Path, tool: str, change: Any) -> Any:
    write_review(session, tool, folder / tool)
    if tool == "cvat":
        file = folder / tool / "annotations.xml"
        tree = ET.parse(file)
        change(tree.getroot())
        file = folder / "back.xml"
        tree.write(file)
    else:
        tasks = json.loads((folder / tool / "tasks.json").read_bytes())
        for task in tasks:  # as a person who accepts what was predicted
            task.setdefault("annotations", [{"result": task["predictions"][0]["result"]}])
        change(tasks)
        file = folder / "back.json"
        file.write_text(json.dumps(tasks))
    return read_review(session, file, "tool")


@pytest.mark.parametrize("tool", ["label-studio", "cvat"])
def test_what_comes_back_as_it_went_out_changes_nothing(session, tmp_path, tool):
    first, second, third = items(session)
    decide(session, Mark(picture=first.key, status="keep"), Mark(picture=second.key, status="reject"))
    decide(session, BoxMark(picture=first.key, box=first.boxes[0].id, status="reject"))
    decide(session, Shape(picture=third.key, box=third.boxes[1].id, category="forklift", xywh=(3, 4, 20.5, 30)))
    before = session.runs[0].log.version
    taken = go_out_and_back(session, tmp_path, tool, lambda made: None)
    assert (taken.pictures, taken.same, taken.strange) == (0, 3, []) and session.runs[0].log.version == before


def test_label_studios_decisions_moves_removals_and_new_boxes_come_back(session, tmp_path):
    first, second, third = items(session)

    def change(tasks: list[Any]) -> None:
        by_key = {task["data"]["picture"]: task["annotations"][0]["result"] for task in tasks}
        result = by_key[first.key]
        result.append({"type": "choices", "from_name": "review", "to_name": "image", "value": {"choices": ["keep"]}})
        result[0]["value"] |= {"x": 10.0, "y": 10.0, "width": 50.0, "height": 25.0}
        del result[1]
        new = json.loads(json.dumps(by_key[second.key][0])) | {"id": "AbC"}
        by_key[second.key].append(new)
        tasks.append({"data": {"image": "x/other.png", "picture": "0" * 64}, "annotations": [{"result": []}]})

    taken = go_out_and_back(session, tmp_path, "label-studio", change)
    assert (taken.pictures, taken.same, taken.strange) == (2, 1, ["other.png"])
    log = session.runs[0].log
    state = log.of(first.key, first.sha256)
    assert state.status == "keep" and state.by == "tool" and state.boxes == {first.boxes[1].id: "reject"}
    wide, high = first.width, first.height
    assert state.shapes[first.boxes[0].id].xywh == (wide * 0.1, high * 0.1, wide * 0.5, high * 0.25)
    (added,) = log.of(second.key, second.sha256).shapes
    assert added.startswith("new-") and log.of(third.key, third.sha256).status is None


def test_cvats_tags_and_boxes_come_back_and_reach_the_final_set(prepared, run, session, tmp_path):
    first, second, _ = items(session)

    def change(root: ET.Element) -> None:
        images = {image.attrib["name"]: image for image in root.iter("image")}
        ET.SubElement(images[second.name], "tag", label="review: reject")
        box = images[first.name].findall("box")[0]
        box.attrib |= {"xtl": "1", "ytl": "2", "xbr": "31", "ybr": "42", "label": HOSTILE}

    taken = go_out_and_back(session, tmp_path, "cvat", change)
    assert (taken.pictures, taken.same) == (2, 1)
    augment_dataset(**settings_of(prepared.parent, run))
    final = json.loads((run / "final" / "annotations.json").read_bytes())
    ids = {one["file_name"]: one["id"] for one in final["images"]}
    assert second.name not in ids
    names = {one["id"]: one["name"] for one in final["categories"]}
    boxes = [
        (names[one["category_id"]], one["bbox"]) for one in final["annotations"] if one["image_id"] == ids[first.name]
    ]
    assert (HOSTILE, [1, 2, 30, 40]) in boxes


def labelled(tasks: list[Any], item: Any) -> list[Any]:
    """Boxes of a picture in Label Studio's tasks."""
    (task,) = [one for one in tasks if one["data"]["picture"] == item.key]
    return task["annotations"][0]["result"]


def test_a_box_of_a_category_that_the_data_set_lacks_stays_as_it_was_and_is_counted(run, session, tmp_path, capsys):
    first, second, _ = items(session)

    def change(tasks: list[Any]) -> None:
        labelled(tasks, first)[0]["value"] |= {"rectanglelabels": ["zebra"], "x": 1.0}
        new = json.loads(json.dumps(labelled(tasks, second)[0])) | {"id": "AbC"}
        new["value"]["rectanglelabels"] = ["zebra"]
        labelled(tasks, second).extend([new, new | {"value": new["value"] | {"rectanglelabels": ["ape"]}}])

    taken = go_out_and_back(session, tmp_path, "label-studio", change)
    assert taken.unknown == {"zebra": 2, "ape": 1} and (taken.pictures, taken.same) == (0, 3)
    assert session.runs[0].log.version == 0
    assert main(["review", str(run), "--from", str(tmp_path / "back.json")]) == 0
    assert "3 boxes not taken in" in (out := capsys.readouterr().out) and "zebra (2), ape (1)" in out
    assert main(["review", str(run), "--from", str(tmp_path / "back.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == {"zebra": 2, "ape": 1}


def test_a_box_that_sticks_out_is_a_decision_once(session, tmp_path):
    first, second, _ = items(session)

    def change(tasks: list[Any]) -> None:
        labelled(tasks, first)[0]["value"] |= {"x": -10.0, "y": 50.0, "width": 60.0, "height": 70.0}
        new = json.loads(json.dumps(labelled(tasks, second)[0])) | {"id": "AbC"}
        new["value"] |= {"x": 90.0, "width": 20.0}
        labelled(tasks, second).append(new)

    assert go_out_and_back(session, tmp_path, "label-studio", change).pictures == 2
    log = session.runs[0].log
    shape = log.of(first.key, first.sha256).shapes[first.boxes[0].id]
    assert shape.xywh == (0, first.height / 2, first.width / 2, first.height / 2)
    again = read_review(session, tmp_path / "back.json", "tool")
    assert (again.pictures, again.same, log.version) == (0, 3, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"<a",
        b"[1]",
        b"\xff",
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        b'[{"annotations": [{"result": [{"type": "rectanglelabels"}]}], "data": {}}]',
    ],
)
def test_a_file_of_no_label_tool_is_a_sentence(session, tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(AugmentError, match="is no"):
        read_review(session, tmp_path / "file", "ann")
    assert session.runs[0].log.version == 0


def test_the_command_takes_a_review_out_and_back_in(run, session, tmp_path, capsys):
    first = items(session)[0]
    assert main(["review", str(run), "--to", "cvat"]) == 0
    file = run / "export" / "review-cvat" / "annotations.xml"
    back = tmp_path / "annotations.xml"
    back.write_text(file.read_text().replace("</image>", '<tag label="review: keep"/></image>'))
    capsys.readouterr()
    assert main(["review", str(run), "--from", str(back), "--reviewer", "cvat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 3
    assert Session([run], "x").runs[0].log.of(first.key, first.sha256).by == "cvat"
    assert main(["review", str(run), "--to", "label-studio", "--out", str(run / "final")]) == 1


# --- the final set, with all that is known


def test_the_samples_of_a_final_set_have_source_decision_boxes_and_verdicts(run, session):
    first = items(session)[0]
    decide(session, Mark(picture=first.key, status="keep"))
    samples = {Path(one["file"]).name: one for one in final_samples(run)}
    assert len(samples) == 6 and all(Path(one["file"]).is_file() for one in samples.values())
    made = samples[first.name]
    assert made["source"] == first.source_name and made["decision"] == "keep" and made["by"] == "ann"
    assert sum(box["painted"] for box in made["boxes"]) >= 1
    assert all(0 <= value <= 1 for box in made["boxes"] for value in box["bounding_box"])
    original = samples[HOSTILE_FILE]
    assert original["source"] == "" and original["decision"] == "" and not any(b["painted"] for b in original["boxes"])


def test_the_snippet_of_the_docs_opens_the_final_set_in_fiftyone(run, monkeypatch, tmp_path):
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "fiftyone"))
    fiftyone = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    scope: dict[str, Any] = {}
    exec(snippet().replace("data/runs/mine", str(run)), scope)
    dataset = scope["dataset"]
    assert len(dataset) == 6 and {"source", "decision", "boxes"} <= set(dataset.get_field_schema())
    assert any(box.painted for sample in dataset for box in sample.boxes.detections)
    fiftyone.delete_dataset(dataset.name)


def snippet() -> str:
    page = (Path(__file__).parents[1] / "docs" / "review.md").read_text()
    return page.split("```python\n")[1].split("```")[0]


def test_the_snippet_of_the_docs_uses_fields_that_are_there(run):
    """As FiftyOne would be called, where it is not installed."""
    code = compile(snippet(), "docs/review.md", "exec")
    assert len(snippet().strip().splitlines()) <= 12 and code
    (sample, *_) = final_samples(run)
    for name in ("file", "source", "decision", "boxes"):
        assert f'["{name}"]' in snippet() or f'"{name}"' in snippet()
        assert name in sample
