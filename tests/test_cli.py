"""The command line: parameters in, one clear sentence where something is wrong."""

import io
import json
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import yaml
from PIL import Image

from flows import cli
from flows.commands import COMMANDS, connection
from flows.commands.presets import Presets
from lib.captioning.captioners import CAPTIONERS
from lib.core.errors import AugmentError
from lib.core.registry import licence_of
from lib.painting.painters import PAINTERS
from lib.runs.account import write_account
from lib.runs.listing import preset_rows
from lib.runs.presets import PRESETS

DEPLOYMENTS = yaml.safe_load((cli.CHECKOUT / "prefect.yaml").read_text())["deployments"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal on which no table folds."""
    monkeypatch.setattr(cli.OUT, "width", 500)


def failed(capsys, *arguments):
    """stderr of a command that fails as it should: exit code 1, nothing on stdout, no traceback."""
    assert cli.main(arguments) == 1
    told = capsys.readouterr()
    assert told.out == "" and "Traceback" not in told.err
    assert told.err.startswith("augment: ") and told.err.count("\n") == 1
    return told.err


def put(assignment, values=None):
    values = {} if values is None else values
    cli.set_value(values, assignment)
    return values


# --set


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed=7", {"seed": 7}),
        ("select.max_objects=6", {"select": {"max_objects": 6}}),
        ("caption.captioner.name=blip2", {"caption": {"captioner": {"name": "blip2"}}}),
        ("select.categories=[cat, 'big dog']", {"select": {"categories": ["cat", "big dog"]}}),
        ("dataset.split=", {"dataset": {"split": None}}),
        ("caption.prompt='a = b'", {"caption": {"prompt": "a = b"}}),
        ("edit.prompt=x=y", {"edit": {"prompt": "x=y"}}),
        ("review={pick: all}", {"review": {"pick": "all"}}),
        ("screen.duplicates=false", {"screen": {"duplicates": False}}),
    ],
)
def test_a_value_is_put_in_its_place_as_yaml(assignment, expected):
    assert put(assignment) == expected


def test_the_values_beside_it_stay():
    assert put("select.min_box=4", {"seed": 1, "select": {"min_box": 9, "split": "val"}}) == {
        "seed": 1,
        "select": {"min_box": 4, "split": "val"},
    }


def test_a_value_of_a_bare_name_opens_it_up():
    assert put("painter.steps=3", {"painter": "gligen"}) == {"painter": {"name": "gligen", "steps": 3}}


def test_the_mapping_that_was_given_is_not_written_to():
    select = {"min_box": 9}
    put("select.min_box=4", {"select": select})
    assert select == {"min_box": 9}


@pytest.mark.parametrize("assignment", ["seed", "=3", "", "a.b"])
def test_an_assignment_without_a_place_or_a_value_is_refused(assignment):
    with pytest.raises(AugmentError, match=r"expected a\.b=value"):
        put(assignment)


def test_a_value_that_is_no_yaml_is_refused():
    with pytest.raises(AugmentError, match=r"'\[1, 2' is not valid YAML"):
        put("seed=[1, 2")


@pytest.mark.parametrize("there", [7, ["cat"], True])
def test_a_value_inside_one_that_holds_none_is_refused(there):
    with pytest.raises(AugmentError, match=r"seed\.x=1.*seed"):
        put("seed.x=1", {"seed": there})


# Parameters


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"].rpartition(":")[2] + "/" + d["name"])
def test_a_deployments_parameters_are_those_of_prefect_yaml(deployment):
    """Several flows may use a name: the asked one's counts."""
    name, flow = deployment["name"], deployment["entrypoint"].rpartition(":")[2]
    assert cli.load_parameters(name, flow) == (deployment["parameters"], name, cli.CHECKOUT)


def test_a_name_of_several_flows_is_that_of_one_that_will_do():
    assert cli.load_parameters("loco", "prove", ("augment",)) == cli.load_parameters("loco", "augment")


def test_a_file_gives_its_values_its_name_and_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("dataset: {images: é}\nseed: 3\n", "utf-8")
    assert cli.load_parameters("mine.yaml") == ({"dataset": {"images": "é"}, "seed": 3}, "mine", tmp_path)


def test_an_unknown_deployment_lists_the_known_ones(capsys):
    told = failed(capsys, "run", "nonesuch")
    assert "'nonesuch'" in told and all(d["name"] in told for d in DEPLOYMENTS) and "YAML" in told


def test_a_missing_file_is_named(capsys, tmp_path):
    assert f"{tmp_path / 'mine.yaml'} not found" in failed(capsys, "run", str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"dataset: {images: [", "is not valid YAML"),
        (b"a: b: c", "is not valid YAML"),
        (b"name: \xff\xfe", "is not valid YAML"),
        (b"- 1\n- 2\n", "holds no mapping"),
        (b"", "holds no mapping"),
        (b"just words", "holds no mapping"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_named(capsys, tmp_path, data, reason):
    (tmp_path / "mine.yaml").write_bytes(data)
    told = failed(capsys, "run", str(tmp_path / "mine.yaml"))
    assert "mine.yaml" in told and reason in told


def test_a_folder_is_no_file_with_parameters(capsys, tmp_path):
    (tmp_path / "mine.yaml").mkdir()
    assert "mine.yaml" in failed(capsys, "run", str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "arguments", "reason"),
    [
        ("seed: 1", [], "parameter 'dataset'"),
        ("dataset: {images: x}", ["--set", "select.max_object=1"], "parameter 'select.max_object'"),
        ("dataset: {images: x}", ["--set", "variants=none"], "parameter 'variants'"),
        ("dataset: {images: x}", ["--set", "seed"], "expected a.b=value"),
    ],
)
def test_wrong_parameters_are_told_before_anything_starts(capsys, tmp_path, monkeypatch, text, arguments, reason):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "prepare_prefect", lambda: pytest.fail("too late"))
    (tmp_path / "mine.yaml").write_text(text)
    assert reason in failed(capsys, "run", "mine.yaml", *arguments)


@pytest.mark.parametrize(
    ("what", "flow"), [("augment/loco", "augment"), ("loco", "augment"), ("evaluate/loco", "evaluate")]
)
def test_a_deployment_may_be_named_with_its_flow(what, flow):
    (own,) = [one for one in DEPLOYMENTS if one["name"] == "loco" and one["entrypoint"].endswith(f":{flow}")]
    assert cli.load_parameters(what, flow)[:2] == (own["parameters"], "loco")


def test_deployments_of_one_name_are_listed_with_their_flows(capsys):
    told = failed(capsys, "run", "locco")
    assert "(do you mean 'loco'?)" in told and " augment/loco," in told and " evaluate/loco," in told


def test_an_update_of_a_data_set_that_no_deployment_has_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("flows.events.notify", lambda name: pytest.fail("sent"))
    told = failed(capsys, "notify", "locco")
    assert "(do you mean 'loco'?)" in told and "demo" in told


def test_an_update_is_sent_for_the_data_set_of_a_deployment(capsys, monkeypatch):
    sent = []
    monkeypatch.setattr("flows.events.notify", sent.append)
    assert cli.main(["notify", "loco"]) == 0 and sent == ["loco"]


# main


@pytest.mark.parametrize("arguments", [(), ("--verify",)])
def test_verify_is_a_parameter_of_the_flow(tmp_path, monkeypatch, arguments):
    given = []
    (tmp_path / "mine.yaml").write_text("dataset: {images: .}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "run_flow", lambda flow, name, values: given.append(values.get("verify")))
    monkeypatch.setattr("flows.commands.run.print_run", lambda workspace: 0)
    assert cli.main(["run", "mine.yaml", *arguments]) == 0 and given == [True if arguments else None]


def test_a_command_that_works_returns_0(capsys):
    assert cli.main(["presets"]) == 0


def test_an_interrupt_says_how_to_go_on_and_returns_130(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Presets, "run", interrupted)
    assert cli.main(["presets"]) == 130
    assert "goes on where it was" in capsys.readouterr().err


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    def broken(options):
        raise ZeroDivisionError

    monkeypatch.setattr(Presets, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["presets"])


def test_an_errors_brackets_are_not_taken_for_markup(capsys):
    assert "[red]" in failed(capsys, "status", "[red]")


@pytest.mark.parametrize("arguments", [[], ["nonesuch"], ["run"], ["grid", "demo"], ["fetch", "nonesuch"]])
def test_a_wrong_command_shows_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2 and "usage: augment" in capsys.readouterr().err


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0 and f"usage: augment {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "usage", "expected"),
    [
        (["statsu"], "augment", "unknown command 'statsu' (do you mean 'status'?): known are advise, evaluate, "),
        (["--verison"], "augment", "unknown option '--verison' (do you mean '--version'?): known are"),
        (["run", "demo", "--verfy"], "augment run", "unknown option '--verfy' (do you mean '--verify'?)"),
        (["evaluate", "a", "b", "--margn=3"], "augment evaluate", "unknown option '--margn' (do you mean '--margin'?)"),
        (["measure", "defect"], "augment measure", "unknown choice 'defect' (do you mean 'defects'?): known are"),
        (
            ["--print-completion", "bsh"],
            "augment",
            "argument --print-completion: unknown choice 'bsh' (do you mean 'bash'",
        ),
        (["status", "mine", "yours"], "augment", "unrecognized arguments: yours"),
    ],
)
def test_what_is_not_known_is_named_with_the_nearest_spelling(capsys, arguments, usage, expected):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    printed = capsys.readouterr()
    assert end.value.code == 2 and printed.out == "" and printed.err.startswith(f"usage: {usage} [-h]")
    assert f"{usage}: error: {expected}" in printed.err


def test_a_deployment_that_is_not_known_is_named_with_the_nearest_spelling(capsys):
    assert "unknown deployment 'demoo' (do you mean 'demo'?)" in failed(capsys, "run", "demoo")


def test_the_version_is_that_of_the_project(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    project = tomllib.loads((cli.CHECKOUT / "pyproject.toml").read_text())["project"]
    assert end.value.code == 0 and capsys.readouterr().out == f"augment {project['version']}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stat"], "status"),
        (["run", "--ver"], "--verify"),
        (["grid", "--pre"], "--presets"),
        (["fetch", "l"], "loco"),
        (["measure", "def"], "defects"),
    ],
)
def test_bash_completes_commands_flags_and_choices(capsys, words, expected):
    with pytest.raises(SystemExit):
        cli.main(["--print-completion", "bash"])
    given = " ".join(f"'{word}'" for word in ["augment", *words])
    ask = f"COMP_WORDS=({given}); COMP_CWORD={len(words)}; _shtab_augment; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    script = f"{capsys.readouterr().out}\n{ask}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


def test_the_completion_for_zsh_names_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--print-completion", "zsh"])
    script = capsys.readouterr().out
    assert script.startswith("#compdef augment") and all(f"    {name}:'" in script for name in COMMANDS)


HEAVY = ("prefect", "torch", "pandas", "pyarrow", "numpy", "PIL", "cv2", "diffusers", "cyclopts")


@pytest.mark.parametrize("arguments", [["presets"], ["presets", "--json"], ["status", "mine"], ["--help"]])
def test_what_is_looked_up_starts_with_few_imports(workspace, arguments):
    code = (
        "import sys; from flows import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        f"finally: print('loaded', [name for name in {HEAVY} if name in sys.modules])"
    )
    env = {"PATH": "", "PYTHONPATH": str(cli.CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-1] == "loaded []" and len(done.stdout.splitlines()) > 5


def test_the_command_line_starts_without_prefect_or_torch():
    code = "import sys, flows.cli; print([m for m in ('prefect', 'torch', 'pandas', 'cv2') if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cli.CHECKOUT, env={"PATH": ""}
    )
    assert told.stdout.strip() == "[]"


# status


ACCOUNT = {
    "run": "mine",
    "workspace": "w",
    "state": "completed",
    "stages": {
        "ingest": {"rows": 9, "ok": 7, "painted": 0, "reused": 9, "rejected": {"image_broken": 2}},
        "plan": {"rows": 7, "ok": 7, "painted": 0, "reused": 7, "rejected": {}, "barred": 41},
    },
    "painted": 0,
    "reused": 0,
    "rejected": {"image_broken": 2},
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with one run in data/runs/mine, as the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps(ACCOUNT))
    return folder


def test_an_unknown_run_says_where_it_was_looked_for(capsys, workspace):
    told = failed(capsys, "status", "nonesuch")
    assert "no run 'nonesuch'" in told and "data/runs/nonesuch" in told


def test_a_run_is_found_by_its_name_and_by_its_workspace(capsys, workspace):
    for run in ("mine", str(workspace)):
        assert cli.main(["status", run, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == ACCOUNT


def test_the_table_shows_every_stage_with_its_counts_and_reasons(capsys, workspace):
    assert cli.main(["status", "mine"]) == 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["ingest", "9", "7", "0", "9", "image_broken", "2"] in rows
    assert ["plan", "7", "7", "0", "7", "barred", "41"] in rows


def test_a_failed_run_shows_its_error(capsys, workspace):
    told = ACCOUNT | {"state": "failed", "error": "no pictures in [x]"}
    (workspace / "status.json").write_text(json.dumps(told))
    assert cli.main(["status", "mine"]) == 0
    out = capsys.readouterr().out
    assert "mine: failed" in out and "no pictures in [x]" in out


def test_a_runs_brackets_are_not_taken_for_markup(capsys, workspace):
    (workspace / "status.json").write_text(json.dumps(ACCOUNT | {"run": "mine [old]"}))
    assert cli.main(["status", "mine"]) == 0
    assert "mine [old]: completed" in capsys.readouterr().out


TALLY = {"before": 40, "new": 38, "painted": 33, "accepted": 2, "refused": 31}
VERDICT = {
    "level": "red",
    "sentence": "Do not train on these: [no] box is right.",
    "reasons": ["[no] box is right", "they are blurred"],
    "categories": {"rolled-in_scale": TALLY},
}


def test_the_status_ends_with_the_verdict_its_reasons_and_the_boxes_of_each_category(capsys, workspace):
    (workspace / "status.json").write_text(json.dumps(ACCOUNT | {"verdict": VERDICT}))
    assert cli.main(["status", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"RED. {VERDICT['sentence']}" and lines[-2] == "  - they are blurred"
    assert ["rolled-in_scale", "40", "38", "33", "2", "31"] in [line.replace("│", " ").split() for line in lines]
    assert cli.main(["status", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == VERDICT


@pytest.mark.parametrize("verdict", [None, [], "red", {"level": "red"}, VERDICT | {"level": "blue"}])
def test_a_status_with_a_verdict_that_is_none_is_shown_without_it(capsys, workspace, verdict):
    (workspace / "status.json").write_text(json.dumps(ACCOUNT | {"verdict": verdict}))
    assert cli.main(["status", "mine"]) == 0
    out = capsys.readouterr().out
    assert "mine: completed" in out and "RED" not in out


def test_a_kid_below_zero_is_told_as_zero(capsys, workspace):
    stage = {"rows": 9, "ok": 9, "painted": 0, "reused": 9, "rejected": {}, "kid": -2.2}
    (workspace / "status.json").write_text(json.dumps(ACCOUNT | {"stages": {"evaluate": stage}}))
    assert cli.main(["status", "mine"]) == 0
    assert "kid ≈ 0 (−2.2)" in capsys.readouterr().out


def test_open_shows_the_report_of_a_run_in_a_browser(capsys, workspace, monkeypatch):
    assert "index.html not found" in failed(capsys, "open", "mine")
    (workspace / "report").mkdir()
    (workspace / "report" / "index.html").write_text("<title>")
    opened = []
    monkeypatch.setenv("BROWSER", "a-browser")
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert cli.main(["open", "mine"]) == 0 and capsys.readouterr().out == ""
    assert opened == [(workspace / "report" / "index.html").as_uri()]


@pytest.mark.parametrize("display", [{}, {"DISPLAY": ":0"}])
def test_open_prints_the_path_where_no_browser_is_available(capsys, workspace, monkeypatch, display):
    (workspace / "report").mkdir()
    (workspace / "report" / "index.html").write_text("<title>")
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in display.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["open", str(workspace)]) == 0
    assert capsys.readouterr().out == f"{workspace / 'report' / 'index.html'}\n"


def test_a_status_that_is_no_json_is_named(capsys, workspace):
    (workspace / "status.json").write_text('{"run": ')
    assert "status.json" in failed(capsys, "status", "mine")


# presets


def test_every_preset_is_shown_with_its_triple_checkpoint_and_licence(capsys):
    cli.main(["presets"])
    lines = capsys.readouterr().out.splitlines()
    for name, preset in PRESETS.items():
        line = next(line for line in lines if f" {name} " in line)
        painter = PAINTERS[preset["painter"]["name"]]
        members = (preset[kind]["name"] for kind in ("edit", "painter", "composite"))
        assert all(f" {member} " in line for member in members)
        model = preset["painter"].get("model", painter.MODEL)
        assert not model or (model in line and licence_of(painter, model).replace("not known", painter.LICENCE) in line)


def test_every_captioner_is_shown_with_its_licence(capsys):
    cli.main(["presets"])
    out = capsys.readouterr().out
    models = [CAPTIONERS[name] for name in CAPTIONERS if CAPTIONERS[name].MODEL]
    assert models and all(m.MODEL in out and m.LICENCE in out for m in models)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """terminal(width): what is printed from then on, on a terminal of that width."""

    def opened(width):
        file = Terminal()
        monkeypatch.setattr(cli.OUT, "_file", file)
        monkeypatch.setattr(cli.OUT, "width", width)
        return file

    return opened


def cells(printed):
    """The first cells of all rows of the tables."""
    return [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")]


def test_on_a_narrow_terminal_no_word_is_cut_off_and_every_preset_begins_a_line(terminal):
    file = terminal(100)
    cli.main(["presets"])
    lines = file.getvalue().splitlines()
    assert "…" not in file.getvalue() and all(len(line) <= 100 for line in lines)
    begun = [line.split()[0] for line in lines if line[:1].isalnum()]
    assert begun == list(PRESETS)
    words = file.getvalue().split()
    for row in preset_rows():
        about = row["about"].split()
        assert any(words[at : at + len(about)] == about for at in range(len(words))), row["preset"]
    assert words.count("checkpoints:") == len(PRESETS)


@pytest.mark.parametrize("width", [1, 20, 80, 500])
def test_in_a_pipe_each_preset_is_one_line_whatever_the_width(capsys, monkeypatch, width):
    monkeypatch.setattr(cli.OUT, "width", width)
    cli.main(["presets"])
    printed = capsys.readouterr().out
    assert [cell for cell in cells(printed) if cell in PRESETS] == list(PRESETS) and "" not in cells(printed)
    assert "system it follows" in printed and "stands for" not in printed and "…" not in printed


def test_a_pipe_of_any_width_cuts_no_stage_of_a_run(capsys, monkeypatch, workspace):
    monkeypatch.setattr(cli.OUT, "width", 10)
    cli.main(["status", "mine"])
    assert cells(capsys.readouterr().out) == ["ingest", "plan"]


def test_presets_as_json_hold_what_the_tables_hold(capsys):
    assert cli.main(["presets", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["preset"] for row in printed["presets"]] == list(PRESETS)
    assert all(row["replaces"] == PRESETS[row["preset"]]["replaces"] for row in printed["presets"])
    assert {f"painter {name}" for name in PAINTERS} <= {row["member"] for row in printed["members"]}


# --quiet


@pytest.mark.parametrize(("arguments", "result"), [(["run"], "final"), (["train"], "models")])
def test_a_quiet_run_prints_the_folder_of_its_result_alone(capsys, tmp_path, monkeypatch, arguments, result):
    def flow(name, run, values):
        (tmp_path / "ws").mkdir(exist_ok=True)
        write_account(tmp_path / "ws", ACCOUNT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "run_flow", flow)
    (tmp_path / "mine.yaml").write_text("dataset: {images: .}\nworkspace: ws\n")
    assert cli.main([*arguments, "mine.yaml", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'ws' / result}\n" and printed.err == ""
    assert cli.main([*arguments, "mine.yaml"]) == 0 and "ingest" in capsys.readouterr().out


def test_a_quiet_grid_prints_the_path_of_its_sheet_and_what_went_wrong(capsys, tmp_path, made_set, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps({"dataset": made_set.dataset, "models": "mini"}))
    assert cli.main(["grid", "mine.yaml", "--presets", "copy-paste,loco-sdxl", "--out", "a.png", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'a.png'}\n"
    assert printed.err.startswith("augment: loco-sdxl: ") and printed.err.count("\n") == 1


def test_a_quiet_evaluation_prints_json_or_the_path_of_it(capsys, sets, tmp_path):
    known = ["evaluate", *sets, "--extractor", "pixels", "--cache", str(tmp_path / "kept"), "--quiet"]
    assert cli.main(known) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["n_real"] == 8 and printed.err == ""
    path = tmp_path / "metrics.json"
    assert cli.main([*known, "--json", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{path}\n" and printed.err == "" and json.loads(path.read_text())["n_real"] == 8


def test_a_quiet_command_prints_its_error(capsys, tmp_path):
    assert "not found" in failed(capsys, "run", str(tmp_path / "mine.yaml"), "--quiet")
    assert cli.main(["presets"]) == 0 and "copy-paste" in capsys.readouterr().out


# evaluate


@pytest.fixture
def sets(tmp_path):
    """Two folders of eight and of five pictures."""
    random = np.random.default_rng(1)
    folders = tmp_path / "real", tmp_path / "generated"
    for folder, count in zip(folders, (8, 5), strict=True):
        folder.mkdir()
        for i in range(count):
            pixels = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return [str(folder) for folder in folders]


def test_evaluate_writes_its_scores_as_json(capsys, sets, tmp_path):
    path = tmp_path / "scores" / "metrics.json"
    assert cli.main(["evaluate", *sets, "--extractor", "pixels", "--json", str(path)]) == 0
    told = json.loads(path.read_text())
    assert {"fid", "kid", "n_real", "n_generated", "extractor", "floor"} <= set(told)
    assert (told["n_real"], told["n_generated"], told["extractor"]) == (8, 5, "pixels")
    assert told["floor"]["m"] == 4


def test_evaluate_prints_its_scores_as_json_and_nothing_else(capsys, sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", *sets, "--extractor", "pixels", "--cache", "kept", "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["n_real"] == 8 and printed.err == ""
    assert not (tmp_path / "-").exists()


def test_evaluate_prints_its_scores(capsys, sets):
    assert cli.main(["evaluate", *sets, "--extractor", "pixels"]) == 0
    out = capsys.readouterr().out
    assert "8 real, 5 generated pictures" in out and "FID" in out and "KID" in out


def test_a_set_compared_with_itself_has_no_distance(sets, tmp_path):
    path = tmp_path / "metrics.json"
    cli.main(["evaluate", sets[0], sets[0], "--extractor", "pixels", "--json", str(path)])
    assert json.loads(path.read_text())["fid"] == pytest.approx(0, abs=1e-6)


def test_an_unknown_extractor_lists_the_known_ones(capsys, sets):
    told = failed(capsys, "evaluate", *sets, "--extractor", "nonesuch")
    assert "'nonesuch'" in told and "inception, mini, pixels" in told


def test_a_missing_folder_is_named(capsys, sets):
    assert "elsewhere not found" in failed(capsys, "evaluate", sets[0], "elsewhere", "--extractor", "pixels")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "fid=3"], "--set fid: expected fid.SETTING=VALUE"),
        (["--set", "fid.name=kid"], "--set fid: expected fid.SETTING=VALUE"),
        (["--margin", "3"], "settings of background are given, which --metrics does not name"),
        (["--seed", "-1"], "--seed -1: expected a number from 0"),
        (["--beside", "before.json"], "give --report FILE as well"),
        (["--format", "yolo"], "--format yolo is of the labels that --boxes gives, and there are none"),
        (["--format", "yolow"], "(do you mean 'yolo'?)"),
        (["--format", "yolow", "--boxes", "labels"], "(do you mean 'yolo'?)"),
        (["--report", "."], ". is a folder: expected the name of a file"),
        (["--json", __file__ + "/metrics.json"], "cannot be made"),
        (["--cache", __file__], "cannot be made"),
    ],
)
def test_what_evaluate_cannot_do_is_said_before_it_begins(capsys, sets, options, told):
    assert told in failed(capsys, "evaluate", *sets, "--extractor", "pixels", *options)


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_what_is_to_be_read_is_not_written_over(capsys, tmp_path, option):
    (tmp_path / "set.json").write_text('{"images": []}')
    (tmp_path / "link.json").symlink_to(tmp_path / "set.json")
    given = [str(tmp_path / "set.json"), str(tmp_path), option, str(tmp_path / "link.json")]
    assert "is what is to be read: name another file" in failed(capsys, "evaluate", *given)
    assert (tmp_path / "set.json").read_text() == '{"images": []}'


def test_a_grid_does_not_take_the_place_of_a_picture_of_the_data_set(capsys, tmp_path, made_set, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps({"dataset": made_set.dataset, "workspace": str(tmp_path / "ws")}))
    picture = made_set.images / "picture 000.png"
    before = picture.read_bytes()
    told = failed(capsys, "grid", "mine.yaml", "--presets", "copy-paste", "--out", str(picture))
    assert "among the pictures of the data set" in told and picture.read_bytes() == before


def test_an_earlier_result_of_the_same_name_stands_beside_the_new_one(sets, tmp_path):
    earlier, report = tmp_path / "generated.json", tmp_path / "report.html"
    cli.main(["evaluate", *sets, "--extractor", "pixels", "--json", str(earlier)])
    cli.main(["evaluate", *sets, "--extractor", "pixels", "--beside", str(earlier), "--report", str(report)])
    assert "<th>generated (before)</th><th>generated</th>" in report.read_text()


def test_a_folder_without_pictures_is_named(capsys, sets, tmp_path):
    (tmp_path / "empty").mkdir()
    told = failed(capsys, "evaluate", sets[0], str(tmp_path / "empty"), "--extractor", "pixels")
    assert f"no pictures in {tmp_path / 'empty'}" in told
