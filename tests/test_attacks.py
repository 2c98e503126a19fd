"""Half a minute of every kind of attack (`make attack` goes on for an hour), and that faults would be found."""

import sys

import attacks
import pytest
from attack_samples import SAMPLES, write_sample
from attacks import KINDS, Counts, Fault, outcome, watch

from lib.datasets.formats import FORMATS, read_dataset
from lib.records.settings import DatasetSettings

COUNTS = {"documents": 50, "configurations": 50, "sets": 2, "workspaces": 2, "kills": 1}
ELSEWHERE = {"served": "test_serve.py, which has a server", "served-kills": "`make attack` alone: minutes each"}


def test_every_kind_of_attack_is_tried_here():
    assert set(COUNTS) == set(KINDS) - set(ELSEWHERE)


@pytest.mark.timeout(1200)  # a minute on an idle machine; kills and reruns on one that is busy
@pytest.mark.parametrize("kind", COUNTS)
def test_attacks_end_as_they_should(kind, tmp_path, prefect_server, monkeypatch):
    monkeypatch.setattr(attacks, "SERVER", prefect_server)
    counts = Counts()
    with KINDS[kind].open(tmp_path) as attack:
        for number in range(COUNTS[kind]):
            counts.add({"number": number, **outcome(attack, number)})
    print(counts.summary(kind))
    assert not counts.faults, f"again: python tests/attacks.py --kind {kind} --first NUMBER\n{counts.faults}"
    assert counts.tried == COUNTS[kind]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_samples_to_attack_in_which_nothing_is_set_aside(format, tmp_path):
    assert format in SAMPLES, "add a sample of the format to tests/attack_samples.py"
    for number in range(len(SAMPLES[format])):
        parsed = read_dataset(DatasetSettings(**write_sample(format, number, tmp_path / str(number))))
        assert parsed.images.num_rows >= 3 and parsed.objects.num_rows >= 3
        assert set(parsed.images["status"].to_pylist()) == set(parsed.objects["status"].to_pylist()) == {"ok"}


def _raise(error):
    raise error


def test_what_is_raised_is_a_fault_and_faults_of_one_kind_are_reported_once():
    counts = Counts()
    for number in range(3):
        counts.add({"number": number, **outcome(lambda n: _raise(Fault(f"file /tmp/x{n} is gone")), number)})
    counts.add({"number": 3, **outcome(lambda n: [].pop(), 3)})
    counts.add({"number": 4, **outcome(lambda n: "refused", 4)})
    assert (counts.tried, counts.faulty, counts.ended["refused"], counts.next) == (5, 4, 1, 5)
    assert [len(found) for found in counts.faults.values()] == [3, 1]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('{\"begun\": 7}', flush=True); import time; time.sleep(60)", "no end after"),
        ("print('{\"begun\": 7}', flush=True); import os; os.abort()", "ended with code -6"),
    ],
)
def test_an_attack_that_hangs_or_crashes_is_a_fault_with_its_number(program, words, tmp_path):
    counts = Counts()
    watch([sys.executable, "-c", program], 2, counts, tmp_path)
    ((number, text),) = next(iter(counts.faults.values()))
    assert number == 7 and words in text and counts.next == 8


def test_a_process_that_ends_well_is_counted_alone(tmp_path):
    program = 'print(\'{"begun": 1}\'); print(\'{"number": 1, "ended": "refused"}\')'
    counts = Counts()
    watch([sys.executable, "-c", program], 60, counts, tmp_path)
    assert (counts.tried, counts.faulty) == (1, 0)
