"""Docs stay true: what they show is run or compared here."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from structure import arrows, floors

from lib.datasets.export import EXPORTERS
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.planning.recipe import check_triple
from lib.runs.parameters import check_parameters, parameters_markdown
from lib.runs.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGE_OF_PRESETS = (ROOT / "docs" / "presets.md").read_text()


def block(language: str, holding: str, page: str = README) -> str:
    """The code block of a page that holds a text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return next(text for name, text in blocks if name == language and holding in text)


def test_the_parameters_page_is_what_the_code_says():
    assert (ROOT / "docs" / "parameters.md").read_text() == parameters_markdown()


def test_the_readmes_yaml_is_valid():
    check_parameters(yaml.safe_load(block("yaml", "mine.yaml")))


def test_the_targets_in_the_docs_are_valid():
    page = (ROOT / "docs" / "workspace.md").read_text()
    check_parameters(yaml.safe_load(block("yaml", "budget:", page)))
    lines = block("yaml", "target: balance ", page).splitlines()
    assert len(lines) == 4
    for line in lines:
        check_parameters({"dataset": {"images": "."}, "limit": 20, **yaml.safe_load(line)})


def test_the_painter_in_the_docs_paints(tmp_path, monkeypatch):
    from test_composites import make_pass
    from test_painters import test_a_member_declares_what_plan_and_presets_need

    from lib.core.registry import MemberSettings
    from lib.painting.painters import PAINTERS, Paint, PassInput

    scope = {"MemberSettings": MemberSettings, "Paint": Paint, "np": np}
    exec(block("python", "class Grey", ARCHITECTURE), scope)
    module = type(np)("grey")
    module.Grey = scope["Grey"]  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "grey", module)
    with PAINTERS.adding("grey", "grey:Grey"):
        painter = PAINTERS.build(PAINTERS.member("grey", {"level": 7}))
        canvas = np.zeros((8, 9, 3), np.uint8)
        item = PassInput(make_pass(((0, 0, 9, 8),), (0, 0, 9, 8), (8, 9)), canvas, np.ones((8, 9), bool))
        (paint,) = painter.paint([item])
        assert paint.image.shape == canvas.shape and (paint.image == 7).all()
        test_a_member_declares_what_plan_and_presets_need("grey")
        check_triple("replace", "grey", "feather")


def test_the_table_of_export_formats_is_what_the_code_says():
    page = (ROOT / "docs" / "workspace.md").read_text()
    rows = [f"| `{name}` | {EXPORTERS[name].ABOUT} | {EXPORTERS[name].IGNORED} |" for name in sorted(EXPORTERS)]
    assert "\n".join(rows) + "\n\n" in page


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tree_in_the_readme_has_every_room_and_no_other():
    tree = block("", "flows/           WHEN")
    rooms = {path.parent.name for path in (ROOT / "lib").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == rooms


def test_the_page_of_presets_says_of_each_what_it_is_and_what_it_replaces():
    for name, preset in PRESETS.items():
        triple = " × ".join(preset[part]["name"] for part in ("edit", "painter", "composite"))
        assert f"| `{name}` | {triple} | {preset['replaces']} |" in PAGE_OF_PRESETS
    for family in (EDITS, PAINTERS, COMPOSITES):
        assert all(f"`{name}`" in PAGE_OF_PRESETS for name in family), family.kind


def test_the_page_of_the_architecture_shows_the_rooms_as_they_are():
    graph = arrows(ROOT)
    floor, up = floors(graph)
    count = sum(len(used) for used in graph.values())
    assert f"{len(floor)} rooms on {max(floor.values()) + 1} floors, {count} arrows, {up} running up" in ARCHITECTURE
    assert up == 0


def test_every_reason_in_the_code_stands_in_the_docs():
    documented = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs" / "workspace.md").read_text()))
    code = "\n".join(p.read_text() for p in (ROOT / "lib").rglob("*.py"))
    pattern = (
        r'(?:PictureError\(|REJECTED, |reasons?\.append\(\(|rules\.append\(\(|reason=|return ")"?([a-z]+(?:_[a-z]+)+)"'
    )
    used = {r for r in re.findall(pattern, code) if "_" in r}
    assert {"no_donor", "image_broken", "too_many_boxes"} - documented == set()
    assert used - documented == set()


@pytest.mark.parametrize("command", ["make demo", "make test", "make serve"])
def test_the_makefile_has_what_the_readme_names(command):
    target = command.split()[1]
    assert command in README and re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_engines_in_the_docs_are_taken():
    page = (ROOT / "docs" / "scale.md").read_text()
    given = [one["engine"] for one in yaml.safe_load_all(block("yaml", "engine: threads", page))]
    assert len(given) == 5
    for engine in given:
        check_parameters({"dataset": {"images": "."}, "engine": engine})
    assert given[1] in block("", "set engine=", README) and given[3]["address"] in block("", "set engine=", README)
