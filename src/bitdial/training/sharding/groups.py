"""Which weights of a model in shards are gathered together."""

from __future__ import annotations

from torch import nn

SMALLEST_GROUP = 1_000_000
"""Weights that are gathered together, at least: fewer, and the processes talk more than they compute."""

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def groups_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose weights are gathered together, inner ones first; the model itself gathers the rest.

    A group is gathered when its module is called, so it must be one that is: the elements of lists and sequences are,
    as blocks of a network, while other modules may only lend their weights to the one around them (the projection
    inside of `torch.nn.MultiheadAttention`). Of these, the smallest with `SMALLEST_GROUP` weights or more that are in
    no smaller group. Where layers share a weight, it belongs to the smallest group with all of them.
    """
    owners: dict[nn.Parameter, set[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, set()).add(module)
    found: list[nn.Module] = []
    taken: set[nn.Parameter] = set()

    def visit(module: nn.Module, *, is_element: bool) -> None:
        for child in module.children():
            visit(child, is_element=isinstance(module, _LISTS))
        left = {parameter for parameter in module.parameters() if parameter not in taken}
        alone = all(owners[parameter] <= {*module.modules()} for parameter in left)
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        if is_element and alone and not is_list and sum(p.numel() for p in left) >= SMALLEST_GROUP:
            found.append(module)
            taken.update(left)

    visit(model, is_element=False)
    return found
