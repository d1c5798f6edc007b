"""How a run begins and ends: options, devices, rehearsal, folder; results, plots and report; it knows no recipe."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.text import Text

from bitdial import machine
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.evaluation.results import RunResults
from bitdial.files import write_atomically
from bitdial.interrupts import interrupted_by_sigterm
from bitdial.recipes.devices import decided, fabric_for, mixed_precision_of, tell_if_slow
from bitdial.recipes.fitting import agreed, fit_batch, sized
from bitdial.recipes.options import RunOptions
from bitdial.recipes.recipe import A, O, R, Recipe, S
from bitdial.recipes.rehearsal import Rehearsal, Rehearsed
from bitdial.recipes.resuming import asked_of, check_recipe, command_of, options_of, plain, read_options
from bitdial.recipes.run import Run, say, seeds_of
from bitdial.recipes.same_data import noted, settle, sources_of
from bitdial.recipes.source import NEW, Source, source_of
from bitdial.recipes.states import Foreign
from bitdial.terminal import terminal
from bitdial.training import RunFolder, Setup, TrainingDiverged, preserved_random_state
from bitdial.training.metrics_log import check_copy
from bitdial.training.options import CopiedLogOptions
from bitdial.training.progress_file import ProgressFile
from bitdial.training.trackers import check_tracker, tracked

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def command(recipe: Recipe[Any, Any, Any, Any], argv: Sequence[str]) -> int:
    """Run a recipe with the words after its name; print what it found; return the exit status."""
    results, run = start(recipe, argv)
    if results is not None:
        show(results, run, terminal())
    return 0


def start(
    recipe: Recipe[O, A, R, S],
    argv: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    *,
    told: str | None = None,
    work: Any = None,
) -> tuple[S | None, RunFolder]:
    """Do a whole run, new or resumed.

    Args:
        recipe: which.
        argv: the words of a command line.
        values: options given in Python, by name.
        told: how the run was started, for report and results; the command line if None.
        work: options -> data and network, where a script brings its own.

    Returns:
        The results (None in all processes but the first), and the run's folder.

    Raises:
        BitdialError: see `prepare`.
        RunInterrupted: stopped on request, after saving.
    """
    options = read_options(recipe, argv, values)
    told = told or shlex.join([*recipe.prog.split(), *argv])
    source = source_of(recipe.name, options)
    if source.run is not None:
        check_recipe(recipe, source.run)
        options = asked_of(recipe, source.run, argv, values)
        told = command_of(recipe, source.run, argv, options) if values is None else told
        if source.checkpoint is None:
            finished = finished_results(recipe, options, source.run)
            if finished is not None:
                return finished, source.run
    try:
        run = prepare(recipe, options, source, work)
    except BitdialError as error:
        error.args = (options.blamed(str(error)), *error.args[1:])
        raise
    assert run.folder is not None
    noted = nullcontext() if run.progress is None else run.progress.ending()
    with told_once(run.fabric, RunInterrupted, TrainingDiverged), interrupted_by_sigterm(), noted:
        return finish(run, told), run.folder


def finished_results(recipe: Recipe[O, A, R, S], options: O, folder: RunFolder) -> S | None:
    """The results of a run that has all it is asked for."""
    if not folder.results.exists():
        return None
    results = recipe.results.load(folder.results)
    records: dict[str, Any] = {record.key: record for record in results.records}
    for arm in recipe.arms(options):
        for seed in seeds_of(options):
            record = records.pop(f"{arm.name}-seed{seed}", None)
            if record is None or not recipe.suffices(arm.options or options, record):
                return None
    return None if records else results


def show(results: Any, folder: RunFolder, console: Console) -> None:
    """Print the table, what is to be said of it, and where the report is."""
    results.show(console, folder.path)
    console.print(Text(f"Report: {folder.report}"), soft_wrap=True)


def prepare(
    recipe: Recipe[O, A, R, S],
    options: O,
    source: Source = NEW,
    work: Any = None,
    tell: Callable[[str], None] = say,
) -> Run[O, A, R, S]:
    """Check everything that can be checked, then make the run folder: what is refused leaves nothing behind.

    Args:
        recipe: which.
        options: all of them.
        source: what the run goes on from.
        work: options -> data and network, where a script brings its own.
        tell: gets where the run lies, and what is to be said of its data.

    Raises:
        BitdialError: an option, the data, a checkpoint, or the place of the run folder is at fault.
    """
    run = checked(recipe, options, source, work)
    fabric = run.fabric
    if options.precision != run.options.precision:
        tell(f"precision auto: {run.options.precision}, as products were timed on this {fabric.device.type}")
    if options.measures_batch:
        machine.return_large_blocks()
        run = fit_batch(run, options.memory_limit)
    fabric.launch()
    if options.measures_batch:
        run = agreed(run)
    options = run.options
    assert run.setup.precision is not None
    tell_if_slow(run.setup.precision, fabric)
    written = {"recipe": recipe.name, **plain(options)}
    with told_once(fabric, BitdialError):
        folder = source.run or RunFolder.create(
            recipe.name, written, run_dir=options.run_dir, root=options.root, fabric=fabric
        )
    if fabric.is_global_zero:
        if source.run is not None:  # it may be longer, or have more seeds, now
            write_atomically(folder.config, yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
        assert run.data is not None
        run.data.write(folder.data)
        tell(f"going on with {folder.path}" if source.run is not None else f"run folder: {folder.path}")
        for note in (*options.file_notes, *(f"data: {note}" for note in run.data.told())):
            tell(note)
    fabric.barrier()
    how = f"`{recipe.prog} --resume {shlex.quote(str(folder.path))}`"
    task = run.work.task
    return replace(
        run,
        work=run.work.to(fabric.device),
        setup=Setup(fabric, run.setup.precision, task=task, how_to_resume=how, compile=options.compile),
        folder=folder,
        source=source,
        show_progress=bool(fabric.is_global_zero),
        progress=_progress(recipe.name, options, folder) if fabric.is_global_zero else None,
    )


def _progress(recipe: str, options: RunOptions, folder: RunFolder) -> ProgressFile:
    facts = {name: str(getattr(options, name, "")) for name in ("model", "dataset")}
    progress = ProgressFile(folder.progress, recipe=recipe, **facts)
    progress.tell(at_once=True)  # from now on the run can be found and stopped
    return progress


def checked(recipe: Recipe[O, A, R, S], options: O, source: Source = NEW, work: Any = None) -> Run[O, A, R, S]:
    """A run of which everything was checked that can be, up to a rehearsal; nothing is written.

    Raises:
        BitdialError: an option, the data, or a checkpoint is at fault.
    """
    if isinstance(options, CopiedLogOptions) and options.csv_log is not None and source.run is None:
        check_copy(options.csv_log)
    check_tracker(options.log)
    fabric = fabric_for(options)
    options = decided(options, fabric)
    precision = mixed_precision_of(options, fabric.device)
    if options.measures_batch:
        options = sized(options, 2 * fabric.world_size)  # to look at it before it is measured
    made = (work or recipe.work)(options)
    sources = sources_of(options.model_dump())
    made, data = settle(made, source.run, accept=options.accept_changed_data, sources=sources)
    run = Run(recipe, options, made, seeds_of(options), Setup(fabric, precision), data=data)
    with preserved_random_state():
        foreign = rehearse(run, source)
    if foreign is not None:
        run = replace(run, data=noted(data, foreign.state, source.checkpoint))
    return replace(run, foreign=foreign)


def rehearse(run: Run[Any, Any, Any, Any], source: Source = NEW) -> Foreign | None:
    """Find now what would only be found when training starts, or hours later: let each arm begin on two examples.

    Returns:
        The state of the file that the run begins with, where it is one of no run.

    Raises:
        BitdialError: an arm cannot be trained, or the file does not fit it.
    """
    plan, file = run.recipe.arms(run.options), source.checkpoint
    if file is not None and source.run is not None and any(arm.before for arm in plan):
        raise BitdialError(
            f"the arms of {source.run.path} build on one another, expected its folder to resume, got its file "
            f"{file}; give --resume {source.run.path}"
        )
    if file is not None and source.run is None and len(plan) * len(run.seeds) > 1:
        raise BitdialError(f"resume {file} goes on with one network, got several; resume a run folder instead")
    setup = Rehearsal(run.setup.fabric, run.setup.precision, file=file if source.run is None else None)
    for arm in (arm for arm in plan if arm.rehearsed and not arm.before):
        try:
            run.recipe.train(arm, run.bench(arm, run.seeds[0], run.new_model(arm, run.seeds[0]), setup))
        except Rehearsed as done:
            setup = replace(setup, foreign=done.foreign)
    return setup.foreign


def finish(run: Run[O, A, R, S], told: str) -> S | None:
    """Train what is not trained yet; the first process writes, and returns, the results.

    Args:
        run: prepared.
        told: how the run was started.
    """
    folder, recipe, options = run.folder, run.recipe, run.options
    assert folder is not None
    if run.is_first:
        folder.results.unlink(missing_ok=True)  # where it is, the run is finished
    with tracked(options.log if run.is_first else "none", folder.path, plain(options)):
        records = run.arms()
    if not run.is_first:
        return None
    if run.progress is not None:
        run.progress.tell(at_once=True, doing="concluding")
    results = run.conclude(records, told)
    if run.progress is not None:
        run.progress.tell(score=score_of(results))
    from bitdial.evaluation.page import write_page  # both bring what only a finished run needs
    from bitdial.evaluation.plot_style import save_plots

    images = recipe.figures(results, folder)  # the report shows them in any case
    if recipe.saves_plots(options):
        save_plots(images, folder.plots)
    recipe.leave(results, run)
    write_page(recipe.page(results, images), folder.report)
    results.save(folder.results)
    return results


def score_of(results: RunResults) -> dict[str, Any]:
    """The network with the best score that a run would ship, for whoever lists runs; empty where there is none."""
    best = max(results.ships(), key=lambda each: each.value.mean, default=None)
    if best is None:
        return {}
    return {"value": best.value.mean, "measure": best.measure, "what": best.what, "bytes": best.bytes}


def open_run(
    recipe: Recipe[O, A, R, S],
    folder: RunFolder,
    *,
    changes: Mapping[str, Any] | None = None,
    model: Any = None,
) -> Run[O, A, R, S]:
    """A run that is on the disk, to load and measure what it trained; writes nothing.

    Args:
        recipe: which.
        folder: of the run.
        changes: options that differ by now, such as where the data lies.
        model: the network, where a script brought it.
    """
    options = options_of(recipe, folder).model_copy(update=dict(changes or {}))
    work = recipe.work(options) if model is None else recipe.work(options, model)
    work, data = settle(work, folder, accept=options.accept_changed_data, sources=sources_of(options.model_dump()))
    return Run(recipe, options, work, seeds_of(options), folder=folder, data=data)


@contextmanager
def told_once(fabric: Fabric, *errors: type[BitdialError]) -> Iterator[None]:
    """Let the first process tell of an error that all have at once; the others end quietly."""
    try:
        yield
    except errors as error:
        if fabric.is_global_zero:
            raise
        raise SystemExit(0) from error
