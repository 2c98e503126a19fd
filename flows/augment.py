"""The journey: labelled pictures in, augmented COCO out.

augment run demo                                   # from the command line
prefect deployment run augment/loco --watch        # after `make serve`
"""

from __future__ import annotations

from pathlib import Path

import prefect.runtime
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from lib.core.errors import AugmentError
from lib.core.places import shown
from lib.records.engine_settings import EngineSettings
from lib.records.settings import (
    BudgetSettings,
    CaptionSettings,
    Choice,
    DatasetSettings,
    EvaluateSettings,
    FinaliseSettings,
    Models,
    ReviewSettings,
    ScreenSettings,
    SelectSettings,
    TargetSettings,
)
from lib.runs.outcome import STATES
from lib.runs.parameters import check_parameters
from lib.runs.preflight import check_wanted, preflight
from lib.screening.boxes import BoxRules
from tasks.caption import caption_images
from tasks.draw import draw_images
from tasks.engine import THREADS, log
from tasks.evaluate import evaluate_pictures
from tasks.finalise import finalise_dataset
from tasks.generate import painting
from tasks.ingest import Ingested, ingest_dataset
from tasks.plan import planning
from tasks.progress import Progress
from tasks.review import review_images
from tasks.run import Run, open_run
from tasks.screen import check_detector, learn_limits, screening
from tasks.select import select_images
from tasks.sizing import size_parts
from tasks.stages import Staged, run_chain
from tasks.target import Rounds
from tasks.verify import verify_store
from tasks.waiting import wait_for_reviewer

WATCH = Progress()  # the command line puts its bars here


@flow(name="augment", task_runner=ThreadPoolTaskRunner(max_workers=THREADS), persist_result=False)  # type: ignore[arg-type]
def augment(
    dataset: DatasetSettings,
    select: SelectSettings | None = None,
    preset: str = "copy-paste",
    caption: CaptionSettings | None = None,
    edit: str | Choice | None = None,
    painter: str | Choice | None = None,
    composite: str | Choice | None = None,
    models: Models = "full",
    variants: int = 1,
    screen: ScreenSettings | None = None,
    review: str | ReviewSettings | None = None,
    finalise: FinaliseSettings | None = None,
    evaluate: EvaluateSettings | None = None,
    seed: int = 0,
    limit: int | None = None,
    target: str | TargetSettings | None = None,
    budget: BudgetSettings | None = None,
    engine: str | EngineSettings | None = None,
    workspace: Path | None = None,
    verify: bool = False,
) -> State[None]:
    """Grow a labelled data set: select pictures, caption them, paint, screen, draw, review, finalise, evaluate.

    Args:
        dataset: where pictures and annotations lie, and their format.
        select: which pictures and boxes may be used.
        preset: a name for edit × painter × composite and their values; `augment presets` lists them.
        caption: captioner, post-processing rules and prompt.
        edit: what to paint where; a name, or a name with its settings.
        painter: which model fills it; a name, or a name with its settings.
        composite: how the paint returns to the picture; a name, or a name with its settings.
        models: published checkpoints (full) or the small ones in data/models (mini).
        variants: pictures made from each source.
        screen: when a picture is set aside, and a label that was not painted is ignored or left out.
        review: what a person picked.
        finalise: what the final set holds.
        evaluate: features for FID and KID.
        seed: every random choice follows from it.
        limit: pictures that are to be painted from; one for which no box can be painted does not count. A run that
            finds fewer says so, and its state is "Painted less". With a target: pictures that come out, at most.
        target: accepted painted boxes of each category ({per_category: {forklift: 500}}, balance, or a JSON file of
            `augment advise`), or `limit`; painting goes on in rounds until they are reached, or the budget is spent.
        budget: pictures and seconds after which painting towards a target ends.
        engine: threads of this process, or dask: processes of this machine, or a cluster. The pictures are the same.
        workspace: folder of the run; none: data/runs/NAME of the deployment.
        verify: read every source picture and every file of the store and the final set again, and compare digests.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    deployment = prefect.runtime.deployment.name
    name = deployment or (workspace.name if workspace else "run")
    try:
        parameters = check_parameters(given)
        if deployment:  # the command line has done so before Prefect started
            preflight(parameters, Path("data/runs") / name)
        with open_run(parameters, name, WATCH) as run:
            return journey(run)
    except AugmentError as error:
        return Failed(message=str(error))


Painted = tuple[Staged, Staged]  # the plan, and the screened pictures


def paint_all(run: Run, ingested: Ingested, selected: Staged, captions: Staged, limits: BoxRules | None) -> Painted:
    """Every selected picture, in all its variants: a part is painted once it is planned, and then screened."""
    wanted = run.settings.variants * captions.manifest.rows
    chain = [
        planning(run, ingested, selected, captions),
        painting(run, ingested, wanted),
        screening(run, ingested, limits, wanted),
    ]
    plan, _, screened = run_chain(run, chain, len(captions.parts))
    return plan, screened


def paint_rounds(run: Run, ingested: Ingested, selected: Staged, captions: Staged, limits: BoxRules | None) -> Painted:
    """What the target lacks, round after round, until it is reached, or the budget is spent."""
    rounds = Rounds(run, ingested, selected, captions, limits)
    while rounds.choose():
        rounds.paint()
    return rounds.close()


def journey(run: Run) -> State[None]:
    """The stages in their order."""
    settings = run.settings
    triple = " × ".join((settings.edit.name, settings.painter.name, settings.composite.name))
    log().info(
        "%s: preset %s, %s, from %s into %s", run.name, settings.preset, triple, shown(run.sources), shown(run.root)
    )
    verify_store(run)
    ingested = ingest_dataset(run)
    run.recipe.check_categories(ingested.categories)
    check_wanted(run.settings, ingested.categories)
    limits = learn_limits(run, ingested)
    check_detector(run, ingested)
    selected = select_images(run, ingested)
    captions = caption_images(run, ingested, selected)
    paint = paint_rounds
    if run.settings.target is None:
        paint = paint_all
        ingested, selected, captions = size_parts(run, ingested, selected, captions, limits)
    plan, screened = paint(run, ingested, selected, captions, limits)
    draw_images(run, ingested, plan, screened)
    if (waiting := wait_for_reviewer(run, screened)) is not None:
        return waiting
    reviewed = review_images(run, ingested, plan, screened)
    final = finalise_dataset(run, ingested, plan, reviewed)
    evaluate_pictures(run, ingested, selected, final)
    outcome = run.conclude()
    message = f"{run.account['stages']['finalise']['ok']} pictures in {shown(run.root / 'final')}"
    if outcome["state"] in STATES:
        return Completed(name=STATES[outcome["state"]], message=f"{outcome['text']}; {message}")
    return Completed(message=message)
