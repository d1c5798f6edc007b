"""The commands besides ``train``, a thin face over the rooms each, and where the command line finds them."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "search": ("bitdial.commands.search:run", "search the best options of a recipe, on any number of machines"),
    "evaluate": ("bitdial.commands.evaluate:run", "measure a trained run again, at any widths"),
    "compare": ("bitdial.commands.compare:run", "compare what finished runs of any recipes would ship"),
    "export": ("bitdial.commands.export:run", "write a trained network as a small packed file"),
    "predict": ("bitdial.commands.predict:run", "say what a trained network takes pictures for"),
    "recommend": ("bitdial.commands.recommend:run", "say whether mixed precision would pay here, and why"),
    "compress": ("bitdial.commands.compress:compress", "compress pictures with a trained codec"),
    "decompress": ("bitdial.commands.compress:decompress", "make pictures of them again"),
    "analyze": ("bitdial.commands.analyze:run", "say what finished runs found: the best settings, and what mattered"),
    "app": ("bitdial.app.web.command:run", "open a page in the browser: train, watch, compare, explore, advise"),
    "runs": ("bitdial.commands.runs:run", "list runs; watch, stop, resume or remove one"),
    "bench": ("bitdial.commands.bench:run", "measure on this machine, e.g. `bitdial bench amp`"),
    "doctor": ("bitdial.commands.doctor:run", "show what this machine can do"),
    "completion": ("bitdial.commands.completion:run", "let bash, zsh or fish complete commands and flags"),
}
"""Command -> ``module:function`` and what it does. The function takes the words after the command's name and returns an
exit status; its module is imported only when the command runs, so that help and errors come at once."""

OPTIONS: dict[str, str] = {
    "search": "bitdial.commands.search:SearchConfig",
    "evaluate": "bitdial.commands.evaluate:EvaluateConfig",
    "compare": "bitdial.commands.compare:CompareConfig",
    "export": "bitdial.commands.export:ExportConfig",
    "predict": "bitdial.commands.predict:PredictConfig",
    "recommend": "bitdial.commands.recommend:RecommendConfig",
    "compress": "bitdial.commands.compress:CompressConfig",
    "decompress": "bitdial.commands.compress:DecompressConfig",
    "analyze": "bitdial.commands.analyze:AnalyzeConfig",
    "bench amp": "bitdial.commands.bench_amp:BenchAmpConfig",
    "bench codec": "bitdial.commands.bench_codec:BenchCodecConfig",
    "bench runtime": "bitdial.commands.bench_runtime:BenchRuntimeConfig",
    "app": "bitdial.app.web.command:AppConfig",
    "doctor": "bitdial.commands.doctor:DoctorConfig",
    "runs": "bitdial.commands.runs:RunsConfig",
    "runs watch": "bitdial.commands.runs:WatchConfig",
    "runs stop": "bitdial.commands.runs:StopConfig",
    "runs resume": "bitdial.commands.runs:ResumeConfig",
    "runs rm": "bitdial.commands.runs:RmConfig",
}
"""Command -> ``module:options``, for completion."""
