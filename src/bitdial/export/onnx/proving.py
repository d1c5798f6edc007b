"""How the forms of a file fare in the runtimes that people open them in, and which traps fire there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.export.onnx.parity import ROUNDING, Agreement, Parity, Unfused, agreements
from bitdial.export.onnx.sessions import WHOLE_NUMBERS_OFF, Session, openvino_session, seconds
from bitdial.export.onnx.traps import Trap, expected_traps, is_far_off, openvino_refusal, openvino_trap, operators, ties
from bitdial.export.onnx.weights import LayerPlan

ENOUGH = 0.999
"""Share of equal classes from which on a session is taken to agree with the network."""

FAR = 0.02
"""Difference from which on the fast form is taken to cost too much where there are no classes to count."""


def proof(
    reference: nn.Module,
    models: Mapping[str, Any],
    form: str,
    plans: Mapping[str, LayerPlan],
    found: Unfused,
    test: list[Any],
    timed: Any,
) -> tuple[Parity, dict[str, tuple[Agreement, float]]]:
    """The proof of the form that is written, and how all forms fare: agreement and seconds of each.

    Args:
        reference: what files are compared with.
        models: by form, in nodes that any runtime has.
        form: the one that is written.
        plans: how its layers are held.
        found: what was found node by node.
        test: batches to compare on.
        timed: the batch that is timed.
    """
    traps = {name: expected_traps(operators(each), plans) for name, each in models.items()}
    sessions = {name: Session(each, options_of(traps[name])) for name, each in models.items()}
    others: dict[str, Any] = {"default": Session(models[form])} if options_of(traps[form]) else {}
    openvino = _openvino(models[form])
    if isinstance(openvino, str):
        floats = _openvino(models[form], WHOLE_NUMBERS_OFF)
        if not isinstance(floats, str):
            traps[form].append(openvino_refusal(openvino))
            openvino = floats
    if openvino is not None and not isinstance(openvino, str):
        others["openvino"] = openvino
    agreed = agreements(reference, {**sessions, **others}, test)
    own, met = agreed[form], traps[form]
    if own.difference > ROUNDING:
        met.append(ties(own.difference))
    if "openvino" in agreed and is_far_off(agreed["openvino"].difference, own.difference):
        floats = _openvino(models[form], WHOLE_NUMBERS_OFF)
        left = None if isinstance(floats, str) else agreements(reference, {"": floats}, test)[""].difference
        met.append(openvino_trap(plans, agreed["openvino"].difference, own.difference, left))
    met += too_far(own, form)
    times = seconds(sessions, timed)
    parity = Parity(
        unfused=found,
        session=own,
        default=agreed.get("default"),
        openvino=agreed.get("openvino", openvino if isinstance(openvino, str) else None),
        traps=tuple(met),
        seconds=times,
    )
    return parity, {name: (agreed[name], times[name]) for name in sessions}


def options_of(traps: Iterable[Trap]) -> dict[str, str]:
    """The entries of a session's configuration that avoid traps."""
    return {key: value for trap in traps for key, value in trap.options.items()}


def _openvino(model: Any, properties: Mapping[str, str] | None = None) -> Any:
    """A session of OpenVINO, None where it is not installed, or the sentence why it cannot run the model."""
    try:
        return openvino_session(model, properties)
    except BitdialError as error:
        return str(error)


def too_far(found: Agreement, form: str) -> list[Trap]:
    """What is to be said where a session tells too many classes apart from the network's, or is far off without any."""
    if found.classes is None and form == "fast" and found.difference > FAR:
        share = f"outputs move by {found.difference:.2g} of the largest"
        what = f"the grids of 8 bits between the layers cost too much: {share}"
        return [Trap("branches", what, "write the exact form")]
    if found.classes is None or found.classes >= ENOUGH:
        return []
    share = f"{100 * found.classes:.2f}% of {found.examples:,} examples get the same class"
    if form == "fast":
        remedy = "write the exact form, or calibrate with more batches"
        return [Trap("branches", f"the grids of 8 bits between the layers cost too much: {share}", remedy)]
    remedy = "train longer: a network that is sure of its classes does not change them for a step of one activation"
    return [
        Trap("unsure", f"the network is unsure of its classes, and a tie that is rounded moves them: {share}", remedy)
    ]
