"""Speed: references give what ours gives, scripts run at small sizes, table and file. No time is ever asserted."""

import csv
import io
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.speed import __main__ as cli
from tests.speed import attention, data, evaluation, gpu, operators, step, synvt, timing
from vtlib.config import experiment
from vtlib.ranking import rank_metrics
from vtlib.synvt import PRESETS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Text and saved file of `python -m tests.speed attention --repeats 1 --save`, at a small size."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("speed") / "results"
    patch.setattr(cli, "RESULTS", folder)
    patch.setattr(attention, "CHANNELS", 8)
    patch.setattr(attention, "SIZES", {"cpu": [(1, 6, 4)], "cuda": [(1, 6, 4)]})
    patch.setattr(attention, "fresh", lambda function, *args: function(*args))
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(io.StringIO()) as out:
            assert cli.main(["attention", "--repeats", "1", "--save"]) == 0
    finally:
        patch.undo()
    assert torch.get_num_threads() == threads
    (path,) = folder.iterdir()
    return out.getvalue(), path


def test_table_says_where_it_is_from_and_has_every_part(ran):
    text, path = ran
    where = ("processor: ", "cores", f"threads: {os.cpu_count()}", f"torch {torch.__version__}", "commit ", "UTC")
    for word in (*where, "median of 1 interleaved"):
        assert word in text
    header, *lines = [line for line in text.splitlines()[4:] if line and not line.startswith("written")]
    assert header.split() == ["part", "size", "reference", "reference_ms", "ours_ms", "ratio", "limit"]
    assert {line.split()[0] for line in lines} == {"PositionAttention"}
    assert f"written: {path}" in text


def test_saved_file_is_the_table(ran):
    text, path = ran
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z0-9-]+\.csv", path.name)
    lines = path.read_text().splitlines()
    assert all(line[2:] in text for line in lines if line.startswith("# "))
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert {row["reference"] for row in rows} == {"explicit (N, N)"}
    assert list(rows[0]) == list(timing.Row._fields)
    for row in rows:
        theirs, ours, ratio = (float(row[c]) for c in ("reference_ms", "ours_ms", "ratio"))
        assert ratio == pytest.approx(theirs / ours, rel=0.02)  # each is rounded to three digits


def test_every_script_is_found_and_a_wrong_word_is_named(capsys):
    known = list(cli.scripts())
    assert known == sorted(known) and {"attention", "data", "evaluation", "step", "synvt"} <= set(known)
    assert not {"timing", "test_speed"} & set(known)  # they measure nothing
    for words, sentence in (
        (["steps"], f"unknown script 'steps': choose from {', '.join(known)}"),
        (["--repeats", "0"], "--repeats must be 1 or more"),
        (["--threads", "0"], "--threads must be 1 or more"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_worker_processes_start_without_torch():
    code = "import sys, tests.speed.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_git_keeps_the_tables_and_no_other_results():
    assert "/results/" in (ROOT / ".gitignore").read_text().split()
    assert cli.RESULTS == ROOT / "tests/speed/results"


@pytest.mark.filterwarnings("ignore:'tests.speed.__main__' found in sys.modules")
def test_it_is_called_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tests.speed", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("tests.speed", run_name="__main__")
    assert stop.value.code == 0 and "--repeats" in capsys.readouterr().out


def test_numbers_in_the_table_stay_short_and_a_missing_one_is_empty():
    rows = [
        timing.Row("one", "2 x 3", "", None, 12345.6, None, "5 images/s"),
        timing.Row("other", "2 x 3", "loop", 0.123456, 1.0, 0.1234, ""),
    ]
    header, first, second = cli.as_text(rows).splitlines()
    assert re.split(r"  +", first) == ["one", "2 x 3", "12346", "5 images/s"]
    assert re.split(r"  +", second) == ["other", "2 x 3", "loop", "0.123", "1", "0.123"]
    assert first.index("12346") + 5 == header.index("ours_ms") + 7  # numbers to the right
    assert cli.as_csv(rows).splitlines()[1] == "one,2 x 3,,,12346,,5 images/s"


def test_calls_take_turns_by_the_given_clock_until_the_budget_is_spent(monkeypatch):
    order, ticks = [], iter(range(100))
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    assert timing.interleaved(calls, 3, clock=lambda: next(ticks)) == [1000, 1000]
    assert order == ["a", "b"] * 3
    monkeypatch.setattr(timing, "BUDGET", -1.0)
    timing.interleaved(calls, 3)
    assert order == ["a", "b"] * 4


@pytest.mark.skipif(not timing.HAS_MEMORY, reason="memory is read from /proc")
def test_memory_of_a_call():
    assert 45 < timing.peak(lambda: np.ones(50_000_000, np.uint8)) < 100
    assert timing.peak(lambda: None) < 5


def test_a_fresh_process_has_as_many_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert timing.fresh(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def small(monkeypatch):
    """Every script at sizes that take no time, its new processes left out."""
    for module in (attention, data, evaluation):
        monkeypatch.setattr(module, "fresh", lambda function, *args: function(*args))
    sizes = {
        evaluation: {"REGDB": (5, 3), "CAMERAS": {1: 4, 2: 4, 3: 4, 4: 6, 5: 5, 6: 6}, "VISIBLE": 212, "THERMAL": 31},
        data: {"BATCH": 8, "HEIGHT": 24, "WIDTH": 12, "VISIBLE": 60, "THERMAL": 40, "IDENTITIES": 10, "STEPS": 3},
        attention: {"CHANNELS": 8, "SIZES": {"cpu": [(1, 6, 4), (2, 6, 4)], "cuda": [(2, 6, 4)]}},
        synvt: {"DRAWN": {"synvt_sysu": 2}},
    }
    sizes[evaluation] |= {"DIM": 8, "TRIALS": 2, "CHUNKS": [(20, 100)]}
    sizes[data] |= {"P": 2, "K": 2, "STORED": 20, "EPOCHS": (1, 2)}
    made = replace(PRESETS["synvt_sysu_quick"], identities=(1, 0, 1), images=1, gallery_images=0)
    sizes[synvt]["MADE"] = replace(made, height=32, width=16)
    for module, values in sizes.items():
        for name, value in values.items():
            assert hasattr(module, name)
            monkeypatch.setattr(module, name, value)


REFERENCES = {
    attention: {"explicit (N, N)"},
    data: {"", "Pillow, an image each", "transforms.v2, an image each", "index lists, whole epoch drawn"},
    evaluation: {"", "loop over queries", "loop over ranks"},
    synvt: {""},
}


@pytest.mark.parametrize("script", REFERENCES, ids=lambda module: module.__name__.split(".")[2])
def test_script_gives_its_rows_and_threads_stay(small, script):
    threads = torch.get_num_threads()
    rows = list(script.measure(1))
    assert torch.get_num_threads() == threads
    assert {row.reference for row in rows} == REFERENCES[script]
    for row in rows:
        assert isinstance(row, timing.Row) and row.part and row.size and row.ours_ms > 0
        assert (row.reference == "") == (row.reference_ms is None) == (row.ratio is None)
        assert "cuda" not in row.size or torch.cuda.is_available()
    keys = [row[:3] for row in rows]
    assert len(set(keys)) == len(keys)  # a line of one date is found again at another
    cli.as_text(rows)


def test_evaluation_has_the_published_counts(monkeypatch):
    monkeypatch.setattr(evaluation, "DIM", 1)
    images = evaluation.sysu_set()
    thermal = np.isin(images.cams, (3, 6))
    assert (thermal.sum(), (~thermal).sum(), len(np.unique(images.pids))) == (3803, 6775, 96)
    sizes = [len(evaluation.drawn(images, *setting)) for setting in evaluation.SETTINGS]
    assert sizes == [301, 3010, 112, 1120]
    assert {p.shape[0] for p in images.permutations.values()} == {10}


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("by_identity", [False, True])
def test_loop_over_queries_is_the_evaluator(by_identity, ranks):
    rng = np.random.default_rng(0)
    query_pids, gallery_pids = rng.integers(7, size=30), rng.integers(6, size=80)  # identity 6 has no match
    similarity, exclude = rng.integers(20, size=(30, 80)) / 20, rng.random((30, 80)) < 0.3  # many ties
    found = rank_metrics(similarity, query_pids, gallery_pids, exclude=exclude, first_match_per_identity=by_identity)
    loop = evaluation.loop(similarity, query_pids, gallery_pids, exclude, by_identity, kind="stable", ranks=ranks)
    evaluation.check_same("", found, loop)
    with pytest.raises(RuntimeError, match="one: the forms disagree"):
        evaluation.check_same("one", found, loop._replace(mAP=loop.mAP + 1e-11))
    with pytest.raises(RuntimeError, match="one: the forms disagree"):
        evaluation.check_same("one", found, loop._replace(mINP=float("nan")))


@pytest.mark.parametrize("part", ["matrices", "settings", "chunks"])
def test_evaluators_that_disagree_are_not_timed(small, monkeypatch, part):
    given, loop = () if part == "chunks" else (evaluation.sysu_set(), 1), evaluation.loop
    monkeypatch.setattr(evaluation, "loop", lambda *a, **options: loop(*a, **options)._replace(mAP=0.5))
    with pytest.raises(RuntimeError, match="the forms disagree"):
        list(getattr(evaluation, part)(*given))


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda out: out + 0.01, "0 of 8 images"),
        (lambda out: out.flip(0), "0 of 8 images"),
        (lambda out: out.double(), "float64"),
        (lambda out: out[..., 1:], r"\(8, 3, 24, 11\)"),
    ],
)
def test_augmentation_that_disagrees_is_not_timed(small, monkeypatch, wrong, sentence):
    forms = data.torchvision_forms
    monkeypatch.setattr(
        data, "torchvision_forms", lambda batch: {n: lambda f=f: wrong(f()) for n, f in forms(batch).items()}
    )
    with pytest.raises(RuntimeError, match=f"Pillow, an image each: .*{sentence}"):
        list(data.augmentation(1, "cpu"))


def test_augmentation_at_one_place_is_not_the_same(small):
    batch = torch.randint(256, (8, 3, 24, 12), dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="plain: all crops lie at one place"):
        data.check_augmented("plain", batch, data.normalise(batch))


def test_samplers_that_disagree_are_not_timed(small, monkeypatch):
    lists, draw = data.index_lists, data.draw_epoch
    monkeypatch.setattr(data, "draw_epoch", lambda of: np.sort(draw(of), axis=1)[:, ::-1])
    with pytest.raises(RuntimeError, match="batches of reference are not P x K"):
        list(data.epoch_start(1))
    monkeypatch.setattr(data, "index_lists", lambda *given: lists(*given)[::-1])
    with pytest.raises(RuntimeError, match="disagree on the images of an identity"):
        list(data.epoch_start(1))


def test_attention_that_disagrees_is_not_timed(small, monkeypatch):
    explicit = attention.explicit
    monkeypatch.setattr(attention, "explicit", lambda module, x: x + 1.01 * (explicit(module, x) - x))
    with pytest.raises(RuntimeError, match=r"PositionAttention \(1, 8, 6, 4\): the forms disagree"):
        list(attention.measure(1))


def test_attention_counts_and_is_timed_in_both_precisions(small, monkeypatch):
    module, x = attention.draw(1, 8, 6, 4, "cpu")
    assert (module(x) - x).abs().max() > 0.01
    monkeypatch.setitem(attention.PRECISIONS, "cpu", [torch.float32, torch.bfloat16])
    sizes = [row.size for row in attention.measure(1) if "cuda" not in row.size]
    assert sizes == [f"{n} x 8 x 6 x 4, {kind}" for n in (1, 2) for kind in ("float32", "bfloat16")]


@pytest.fixture
def small_step(monkeypatch):
    cases = {name: made.but(identities_per_batch=2, images_per_identity=2) for name, made in step.CASES.items()}
    monkeypatch.setattr(step, "CASES", {name: made for name, made in cases.items() if name.startswith("thin")})
    monkeypatch.setattr(step, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(
        step, "compiled", lambda name, *a: step.Row(f"step {name}", "", "not compiled", 1.0, 1.0, 1.0, "")
    )


def test_steps_are_those_of_training_and_say_their_share_of_the_matrix_rate(small_step):
    rows = list(step.measure(1))
    assert [row.part for row in rows] == ["step thin baseline", "step thin parts, MC", "step thin baseline"]
    assert all("of bf16 matrix rate" in row.limit and "images/s" in row.limit for row in rows[:2])
    assert {row.reference for row in rows[:2]} == {"float32 NCHW loop"}


def test_steps_that_disagree_are_not_timed(small_step, monkeypatch):
    real = step.plain_step
    monkeypatch.setattr(step, "plain_step", lambda *a: lambda *b: 2 * real(*a)(*b))
    with pytest.raises(RuntimeError, match="thin baseline: losses of the first step disagree"):
        list(step.measure(1))


def test_a_step_with_its_data_beside_a_loader_with_workers(small_step, monkeypatch):
    monkeypatch.setattr(step, "IMAGES", 64)
    made = step.CASES["thin baseline"]
    (row,) = step.with_data("thin baseline", made, "cpu", 1, workers=1)
    assert row.reference == "float32, PIL loader, 1 workers" and "images/s" in row.limit


def test_the_roofline_is_that_of_the_layers():
    made = step.CASES["ResNet-50 baseline"]
    limit = gpu.roofline(made, 750e12, 4.3e12)
    assert 7 < limit < 9  # by hand 29.4 GB and 1.96 TFLOP give 8.2 (and 6.8 by memory alone)
    assert gpu.roofline(made, 750e12, 2.9e12) > limit > gpu.roofline(made, 1e18, 4.3e12)
    more = made.but(identities_per_batch=16)
    assert gpu.roofline(more, 750e12, 4.3e12) == pytest.approx(2 * limit, rel=0.05)
    # a GPU without memory's limit takes the time of the arithmetic, which torch counts too
    with FlopCounterMode(display=False) as flops:
        steps = step.make_step(step.CASES["thin baseline"], "cpu")
        labels, modality = step.labels_of(step.CASES["thin baseline"])
        steps(torch.randn(len(labels), 3, 96, 48), modality, labels, modality)
    assert gpu.roofline(step.CASES["thin baseline"], 1e12, 1e18) == pytest.approx(
        flops.get_total_flops() / 1e9, rel=0.02
    )


def test_kernels_are_told_apart_by_their_names():
    names = ["cudnn::bn_fw_tr_1C11", "sm90_xmma_fprop_implicit_gemm", "vectorized_elementwise_kernel", "Memcpy DtoD"]
    text = gpu.split([*((name, 1.0) for name in names), ("strange", 4.0)], 16.0)
    assert text.startswith("5 kernels, busy 50 %: other 50 %, batch norm 12 %, convolution 12 %")
    assert "elementwise 12 %" in text and "copy or cast 12 %" in text


def test_the_measurements_of_a_gpu_run_on_a_cpu(small_step, monkeypatch):
    monkeypatch.setattr(gpu, "TINY", True)
    monkeypatch.setattr(gpu, "COPY", {"cpu": 2**12})
    monkeypatch.setattr(gpu, "BATCHES", (2,))
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(
        gpu, "two_at_once", lambda name, *a: gpu.Row(f"step {name}, two processes", "", "", 1.0, 1.0, 1.0, "")
    )
    rows = list(gpu.measure(1))
    assert [row.part.split(", ")[-1] for row in rows] == [
        "rates",
        *2 * ["eager"],
        "captured",
        "fp16",
        "bf16 weights",
        "two processes",
    ]
    assert all("roofline" in row.limit for row in rows[1:-1])


def test_images_a_second_of_one_process():
    assert gpu.some_steps(step.CASES["thin baseline"].but(identities_per_batch=2), "cpu", 0.1) > 0


# operators of one step on the cpu profile's network, by part; a change that adds some needs a reason
LAUNCHES = {
    "baseline": (100, 25, 117, 5),
    "dpan": (161, 25, 117, 5),
    "cmdc": (100, 25, 212, 5),
    "dpan_cmdc": (161, 25, 212, 5),
    "identity": (100, 24, 29, 5),
    "mc": (100, 25, 131, 5),
    "parts": (100, 86, 30, 5),
    "parts_mc": (100, 90, 426, 5),
    "mc_c2i": (100, 25, 127, 5),
    "mc_c2c": (100, 25, 127, 5),
    "mc_i2i_c2c": (100, 25, 128, 5),
    "mc_c2i_c2c": (100, 25, 129, 5),
    "mc_i2i_c2i": (100, 25, 129, 5),
    "ms_loss": (100, 25, 115, 5),
    "ms_our_mining": (100, 25, 115, 5),
    "awl_ms_mining": (100, 25, 124, 5),
    "awl_unweighted": (100, 25, 125, 5),
    "awl": (100, 25, 124, 5),
    "triplet_loss": (100, 25, 117, 5),
    "triplet_cross": (100, 25, 119, 5),
    "hc_tri_loss": (100, 25, 121, 5),
    "cml_loss": (100, 25, 184, 5),
    "hc_tri": (100, 45, 220, 5),
    "hetero_center": (100, 44, 54, 5),
    "agw_base": (86, 8, 117, 5),
    "margin_mmd": (118, 25, 249, 5),
    "one_stream": (77, 25, 117, 5),
    "sim": (77, 25, 117, 5),
    "bdtr": (100, 25, 128, 5),
    "bdtr_k1": (100, 25, 128, 5),
    "tone": (100, 25, 115, 5),
    "hcml": (100, 25, 115, 5),
    "agw": (130, 25, 122, 5),
    "caj": (136, 25, 151, 5),
    "ddag": (86, 54, 194, 5),
    "xiv": (84, 25, 362, 5),
    "hat": (77, 25, 155, 5),
    "mac": (100, 25, 159, 5),
    "mace": (100, 25, 166, 5),
    "msr": (136, 60, 186, 5),
    "cmsp": (127, 25, 142, 6),
    "dfe": (100, 44, 155, 5),
    "cml": (100, 25, 240, 5),
    "hsme": (100, 73, 76, 5),
    "d_hsme": (100, 73, 76, 5),
    "deen": (259, 27, 434, 5),
    "parts_cmdc": (100, 88, 416, 5),
    "dpan_mc": (161, 25, 131, 5),
    "cmdc_awl": (100, 25, 243, 5),
}


@pytest.mark.parametrize("method", LAUNCHES)
def test_a_step_launches_no_more_operators_than_before(method):
    launched = {part: sum(c.values()) for part, c in operators.launches(experiment("cpu", method)).items()}
    for part, most in zip(operators.PARTS, LAUNCHES[method], strict=True):
        assert launched[part] <= most, f"{part} of {method}: {launched[part]} operators, {most} before"
