"""The jobs that ``bitdial train`` runs, and where the command line finds them."""

from __future__ import annotations

RECIPES: dict[str, str] = {
    "cyclic": "bitdial.recipes.cyclic.command:run",
    "ternary": "bitdial.recipes.ternary.command:run",
}
"""Recipe name -> ``module:function``. The function takes the words after the recipe's name and returns an exit status;
its module is imported only when the recipe runs, so that help and errors come at once."""

SUMMARIES: dict[str, str] = {
    "cyclic": "train with cycling precision, fine-tune static precisions, compare",
    "ternary": "train ternary weights through a long, resumable run; pack them",
}
"""Recipe name -> what it does, in a line of at most 67 characters."""

EVALUATE = "bitdial.recipes.cyclic.evaluate_command:run"
"""``module:function`` behind ``bitdial evaluate``, called like a recipe."""

EXPORT = "bitdial.recipes.export_command:run"
"""``module:function`` behind ``bitdial export``, called like a recipe."""

RECOMMEND = "bitdial.recipes.recommend_command:run"
"""``module:function`` behind ``bitdial recommend``, called like a recipe."""

BENCH = "bitdial.recipes.bench_command:run"
"""``module:function`` behind ``bitdial bench``, called like a recipe."""
