"""The page Train: the form of a recipe, checked as the command line checks it, and the button that starts the run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import gradio as gr

from bitdial.app.jobs import JobManager
from bitdial.app.web import views
from bitdial.app.web.form import NO_PRESET, Checked, Field, check, config_of, form_of, presets_of, set_by
from bitdial.app.web.rooted import Roots
from bitdial.configuration.files import to_flow
from bitdial.errors import BitdialError
from bitdial.recipes import RECIPES

_HELP = "Nothing needs to be filled in: what is left empty keeps the default, shown in grey."


def train_page(recipe: str, manager: JobManager, roots: Roots) -> None:
    """Fill the page of a recipe; call it inside of a ``gr.Blocks``."""
    form, presets = form_of(recipe), presets_of(recipe)
    everything = {name: summary for name, (_, summary) in RECIPES.items()}
    gr.HTML(views.view("recipes", everything, recipe, help=_HELP), elem_classes="head")
    parts: dict[str, Any] = {}
    preset = gr.Dropdown(
        [(NO_PRESET, NO_PRESET), *((f"{name}: {text}" if text else name, name) for name, text in presets.items())],
        value=NO_PRESET,
        label="preset",
        info="A named set of options; what you set below wins over it.",
        visible=bool(presets),
    )
    with gr.Row(elem_classes="fields"):
        for each in form.open:
            parts[each.name] = _component(each)
    with gr.Accordion("More options", open=False, elem_classes="more"):
        for heading, fields in form.folded.items():
            with gr.Accordion(heading.capitalize(), open=False), gr.Row(elem_classes="fields"):
                for each in fields:
                    parts[each.name] = _component(each)
    names, inputs = list(parts), [preset, *parts.values()]
    line = gr.Code(
        value=f"bitdial train {recipe}",
        language="shell",
        label="The same on the command line",
        interactive=False,
        lines=1,
        wrap_lines=True,
        show_line_numbers=False,
        buttons=["copy"],
        elem_classes="command",
    )
    told = gr.HTML(elem_classes="told")
    start = gr.Button("Start training", variant="primary", elem_id="start")
    started = gr.Textbox(visible=False)

    def read(chosen: str, *given: Any) -> Checked:
        return check(recipe, chosen, dict(zip(names, given, strict=True)), roots)

    def review(chosen: str, *given: Any) -> tuple[str, str]:
        found = read(chosen, *given)
        config = "" if found.faults else config_of(recipe, found.words[1:])
        return found.command, views.command(found.command, list(found.faults.values()), config)

    def validate(chosen: str, *given: Any) -> list[Any]:
        faults = read(chosen, *given).faults
        return [gr.validate(True, ""), *(gr.validate(name not in faults, faults.get(name, "")) for name in names)]

    def begin(chosen: str, *given: Any) -> tuple[str, str]:
        found = read(chosen, *given)
        if found.faults:
            return "", views.command(found.command, list(found.faults.values()), "")
        try:
            return manager.start(recipe, found.options, preset=found.preset), ""
        except BitdialError as error:
            return "", views.command(found.command, [str(error)], "")

    changed = sorted({name for each in presets for name in set_by(recipe, each)})

    def show_preset(chosen: str) -> list[Any]:
        under = set_by(recipe, chosen)
        return [_shown(form.fields[name], under.get(name, form.fields[name].default)) for name in changed]

    def prefill(request: gr.Request) -> list[Any]:
        asked = dict(request.query_params)
        return [
            gr.update(value=_prefilled(form.fields[name], asked[name])) if name in asked else gr.skip()
            for name in names
        ]

    if changed:
        preset.input(
            show_preset, preset, [parts[name] for name in changed], show_progress="hidden", api_visibility="private"
        )
    gr.on(
        [preset.change, *(part.change for part in parts.values())],
        review, inputs, [line, told], show_progress="hidden", trigger_mode="always_last", api_visibility="private",
    )  # fmt: skip
    gr.on(None, prefill, None, list(parts.values()), show_progress="hidden", api_visibility="private").then(
        review, inputs, [line, told], show_progress="hidden", api_visibility="private"
    )
    start.click(
        begin, inputs, [started, told], validator=validate, api_name=f"train_{recipe}"
    ).then(
        None, started, None, js="(run) => { if (run) window.location.assign('/run?run=' + encodeURIComponent(run)); }",
        api_visibility="private",
    )  # fmt: skip


def _component(field: Field) -> Any:
    shared: dict[str, Any] = {
        "label": field.label,
        "info": field.help.replace("*", "\u2217"),
        "elem_id": f"field-{field.name}",
        "min_width": 280,
    }
    if field.kind == "switch":
        return gr.Checkbox(value=field.default == "true", **shared)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=field.default, **shared)
    if field.choices:
        return gr.Dropdown(list(field.choices), value=field.default, allow_custom_value=True, **shared)
    return gr.Textbox(placeholder=field.default or "none", max_lines=1, **shared)


def _shown(field: Field, text: str) -> Any:
    """What its component shows where nothing is filled in and `text` is what holds then."""
    if field.kind == "switch":
        return gr.update(value=text == "true")
    if field.kind == "choice" or field.choices:
        return gr.update(value=text)
    return gr.update(placeholder="none" if text in ("none", "") else text)


def _prefilled(field: Field, text: str) -> Any:
    return text.lower() in ("true", "1", "") if field.kind == "switch" else text[:500]


def query_of(command: str) -> str:
    """The address of the Train page filled as a command line says: of advice, say.

    Args:
        command: ``bitdial train RECIPE --flag value ...``.
    """
    from urllib.parse import urlencode

    from bitdial.configuration.flags import read_flags
    from bitdial.configuration.settings import Settings
    from bitdial.recipes import find_choices

    _, _, recipe, *words = shlex.split(command)
    line = read_flags(words, Settings(find_choices(recipe).options), prog="")
    values: Mapping[str, Any] = line.values
    page = "/" if recipe == next(iter(RECIPES)) else f"/train-{recipe}"
    texts = {
        name: value if isinstance(value, str) else to_flow(value).removesuffix("\n...")
        for name, value in values.items()
    }
    return f"{page}?{urlencode(texts)}"
