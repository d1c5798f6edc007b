from __future__ import annotations

import math
from pathlib import Path

import pytest

from bitdial.search.readers.found import FoundRun, UnreadableError
from bitdial.search.readers.tables import MOST_RUNS, read_csv


def read(tmp_path: Path, content: str | bytes, encoding: str = "utf-8") -> list[FoundRun]:
    path = tmp_path / "x.csv"
    path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return read_csv(path, "x.csv")


def test_log_of_one_run(tmp_path: Path) -> None:
    content = "step,loss,val.psnr,größe,word\n1,0.5,,1,a\n2,nan,30.5,2,b\n3,0.25,,inf,c\n"
    (run,) = read(tmp_path, content)
    assert (run.name, run.source, run.state, run.steps, run.config) == ("x.csv", "csv", "finished", 3, {})
    assert run.metrics == {"loss": 0.25, "val.psnr": 30.5, "größe": math.inf}
    assert run.notes == ["loss was first not finite (nan) at step 2", "größe was first not finite (inf) at step 3"]


def test_last_values_stay_not_finite(tmp_path: Path) -> None:
    (run,) = read(tmp_path, "epoch,loss\n1,0.5\n2,NaN\n")
    assert math.isnan(run.metrics["loss"])
    assert run.notes == ["loss was first not finite (nan) at step 2"]


def test_log_of_a_resumed_run_may_go_back_now_and_then(tmp_path: Path) -> None:
    rows = [*range(1, 31), *range(25, 51)]
    (run,) = read(tmp_path, "Step,loss\n" + "".join(f"{step},{step}\n" for step in rows))
    assert (run.metrics, run.steps) == ({"loss": 50}, 50)


def test_log_of_several_runs(tmp_path: Path) -> None:
    runs = read(tmp_path, "run,seed,step,loss\na,0,1,3\nb,0,1,5\na,0,2,2\nb,0,2,4\nb,1,1,7\n")
    assert [(run.name, run.config, run.metrics) for run in runs] == [
        ("x.csv:a-0", {"run": "a", "seed": 0}, {"loss": 2}),
        ("x.csv:b-0", {"run": "b", "seed": 0}, {"loss": 4}),
        ("x.csv:b-1", {"run": "b", "seed": 1}, {"loss": 7}),
    ]


def test_table_with_a_run_in_each_row(tmp_path: Path) -> None:
    content = "lr,depth,act,flag,accuracy,val_psnr\n0.1,2,relu,true,0.9,\n1e-3,3,tanh,False,nan,31.5\n"
    runs = read(tmp_path, content)
    assert [run.name for run in runs] == ["x.csv#1", "x.csv#2"]
    assert runs[0].config == {"lr": 0.1, "depth": 2, "act": "relu", "flag": True}
    assert runs[0].metrics == {"accuracy": 0.9}
    assert runs[0].notes == ["no value of val_psnr"]
    assert runs[1].config == {"lr": 0.001, "depth": 3, "act": "tanh", "flag": False}
    assert runs[1].metrics["val_psnr"] == 31.5
    assert runs[1].notes == ["accuracy is nan"]


def test_table_with_epochs_that_do_not_rise_is_no_log(tmp_path: Path) -> None:
    runs = read(tmp_path, "name,epoch,lr,loss\na,30,0.1,1\nb,10,0.2,2\nc,20,0.3,3\nd,5,0.4,4\n")
    assert [(run.name, run.config, run.metrics) for run in runs][1:3] == [
        ("x.csv#b", {"epoch": 10, "lr": 0.2}, {"loss": 2}),
        ("x.csv#c", {"epoch": 20, "lr": 0.3}, {"loss": 3}),
    ]


def test_prefixes_say_what_a_column_is(tmp_path: Path) -> None:
    (run,) = read(tmp_path, "metrics.y,config.test_size,params_x,state\n1,0.5,2,PRUNED\n")
    assert (run.config, run.metrics, run.state) == ({"test_size": 0.5, "x": 2}, {"y": 1}, "pruned")


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("step,loss\n1,0.5\n2,0.25\n", "utf-8-sig"),
        ("step,loss\n1,0.5\n2,0.25\n", "utf-16"),
        ("step;loss\n1;0,5\n2;0,25\n", "utf-8"),
        ("step\tloss\n1\t0.5\n2\t0.25\n", "utf-8"),
        ("step,loss\r\n1,0.5\r\n2,0.25\r\n", "utf-8"),
        ("step,loss\r1,0.5\r2,0.25\r", "utf-8"),
        ("step,loss\n1,0.5,\n2,0.25,\n", "utf-8"),
        ('"step","loss"\n"1","0.5"\n"2","0.25"', "utf-8"),
        (" step , loss \n1, 0.5\n\n2, 0.25\n\n", "utf-8"),
    ],
)
def test_dialects(content: str, encoding: str, tmp_path: Path) -> None:
    (run,) = read(tmp_path, content, encoding)
    assert (run.metrics, run.steps, run.notes) == ({"loss": 0.25}, 2, [])


def test_line_breaks_in_quotes_and_names_that_come_twice(tmp_path: Path) -> None:
    (run,) = read(tmp_path, 'step,loss,loss,"a ""b""\nc",\n1,2,3,4,5\n')
    assert run.metrics == {"loss": 2, "loss#2": 3, 'a "b"\nc': 4, "column 5": 5}
    assert run.notes == ["columns of the same name, told apart by #2 and so on: loss"]


def test_rows_that_do_not_fit_are_left_out_with_a_note(tmp_path: Path) -> None:
    (run,) = read(tmp_path, "step,loss,psnr\n1,0.5,30\n2,0.4\n3,0.3,31,7\n4,0.2,32\n5,0.")
    assert (run.metrics, run.steps) == ({"loss": 0.2, "psnr": 32}, 4)
    assert run.notes == ["rows that do not fit the header are left out: 3"]


def test_what_follows_a_quote_without_an_end_is_lost(tmp_path: Path) -> None:
    content = 'step,loss\n1,0.5\n2,0.25\n3,"' + "9" * 200_000
    (run,) = read(tmp_path, content)
    assert (run.metrics, run.steps) == ({"loss": 0.25}, 2)
    assert "field larger than field limit" in run.notes[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"\xef\xbb\xbf\n", "an empty file"),
        (bytes(range(256)) * 8, "holds no text"),
        (b"\x80\x81\xff" * 100, "holds no text"),
        (b"step,loss\n", "holds no rows below a header"),
        (b"a,b\n1,2\n", "none that is named like a metric"),
        (b"x,loss\n" + b"1,2\n" * (MOST_RUNS + 1), f"more than {MOST_RUNS} rows"),
        (b"run,step,loss\n" + b"".join(b"%d,1,2\n" % at for at in range(MOST_RUNS + 1)), f"more than {MOST_RUNS} runs"),
    ],
)
def test_what_is_no_table_of_runs_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=reason):
        read(tmp_path, content)
