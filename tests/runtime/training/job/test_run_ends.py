"""How a run ends before its last step, what it does not learn from, and what its model file says of learning."""

import runpy

import pytest
import torch
from compiled_folder import MODEL, write
from safetensors.torch import load_file

from autopar.jobs.signals import StopRequests
from autopar.runtime import main, simulate
from autopar.runtime.training.job.stopping import Stopping

BAD = 'yield {"x": torch.randn(4, 3, generator=generator) / (step != 1), "y": torch.randn(4, 2, generator=generator)}'
SPOILT = MODEL[: MODEL.index("    for _ in range(3)")] + f"    for step in range(3):\n        {BAD}\n"
SCHEDULE = """

clip_grad_norm = 0.05


def scheduler(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
"""


def start(program, *arguments):
    def rank():
        main(runpy.run_path(str(program), run_name="program")["PROGRAM"], str(program), [str(one) for one in arguments])

    simulate(2, rank)


def sequential(steps, scheduled):
    found = {}
    exec(MODEL + SCHEDULE, found)
    torch.manual_seed(0)
    model = found["model"]()
    optimizer = found["optimizer"](model.parameters())
    schedule = found["scheduler"](optimizer)
    for batch in [*found["batches"](), *found["batches"]()][:steps]:
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        if scheduled:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        if scheduled:
            schedule.step()
    return model.state_dict()


def test_a_time_limit_ends_a_run_after_a_step_and_it_goes_on(tmp_path, capsys):
    program, saved = write(tmp_path), tmp_path / "saved"
    with pytest.raises(SystemExit) as ended:
        start(program, "--steps", 4, "--checkpoint", saved, "--stop-after", "0.001s", "--balance", "off")
    assert ended.value.code == 85
    assert "stopped    after step 1 of 4, by --stop-after 0s; --resume goes on" in capsys.readouterr().out
    out = tmp_path / "out.safetensors"
    start(program, "--steps", 4, "--checkpoint", saved, "--resume", "--save", out, "--balance", "off")
    for name, value in sequential(4, scheduled=False).items():
        torch.testing.assert_close(load_file(out)[name], value)


def test_room_is_left_for_the_longest_step_and_save_so_far():
    now = [0.0]
    ending = Stopping(StopRequests(), 100.0, clock=lambda: now[0])
    now[0] = 60.0
    ending.took(10.0, 10.0)
    assert ending.asked == ""
    now[0] = 66.0
    assert ending.asked == "--stop-after 1m40s"
    assert ending.signalled == ""


def test_a_limit_that_is_no_duration_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(write(tmp_path), "--stop-after", "90")
    assert "--stop-after: '90' is no duration; rule: " in capsys.readouterr().err


def test_a_step_that_is_not_finite_stops_the_run_before_its_update(tmp_path, capsys):
    saved = tmp_path / "saved"
    with pytest.raises(SystemExit):
        start(write(tmp_path, model=SPOILT), "--steps", 4, "--checkpoint", saved, "--every", 1)
    said = capsys.readouterr().err
    assert "step 2: its result is not finite" in said
    assert "the loss is " in said
    assert "the gradient of fc1.weight has " in said
    assert "step-00000001 is as it was" in said
    assert [path.name for path in saved.glob("step-*")] == ["step-00000001"]


def test_a_step_that_is_not_finite_is_left_out(tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    start(write(tmp_path, model=SPOILT), "--steps", 3, "--on-nonfinite", "skip", "--save", out, "--balance", "off")
    said = capsys.readouterr().out
    assert "nonfinite  step 2: it was left out" in said
    assert "nonfinite  1 of 3 steps were left out: 2" in said
    assert all(value.isfinite().all() for value in load_file(out).values())


def test_a_run_that_goes_on_with_it_does_not_save_over_what_is_good(tmp_path, capsys):
    saved = tmp_path / "saved"
    where = ("--checkpoint", saved, "--every", 1, "--keep", 1)
    start(write(tmp_path, model=SPOILT), "--steps", 3, "--on-nonfinite", "continue", *where)
    said = capsys.readouterr().out
    assert "not saved  step 2: " in said
    assert "not saved  step 3: " in said
    assert [path.name for path in saved.glob("step-*")] == ["step-00000001"]


def test_a_schedule_and_clipping_as_the_sequential_model_does_it_also_after_a_resume(tmp_path, capsys):
    program, saved, out = write(tmp_path, model=MODEL + SCHEDULE), tmp_path / "saved", tmp_path / "out.safetensors"
    start(program, "--steps", 3, "--compare", 3, "--checkpoint", saved, "--balance", "off")
    differences = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if "sequential" in line]
    assert len(differences) == 3
    assert max(differences) < 1e-6
    start(program, "--steps", 5, "--checkpoint", saved, "--resume", "--save", out, "--balance", "off")
    for name, value in sequential(5, scheduled=True).items():
        torch.testing.assert_close(load_file(out)[name], value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def scheduler(optimizer):\n    return 3\n", "scheduler returned int"),
        ("scheduler = 3\n", "scheduler is int, not a function"),
        ("clip_grad_norm = 0\n", "clip_grad_norm is 0"),
        (
            "def scheduler(optimizer):\n    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)\n",
            "this run evaluates nothing",
        ),
    ],
)
def test_what_is_no_schedule_or_limit(tmp_path, capsys, text, said):
    with pytest.raises(SystemExit):
        start(write(tmp_path, model=MODEL + "\n\n" + text), "--steps", 1)
    assert said in capsys.readouterr().err


METRICS = """

def evaluate():
    for rows in (4, 4):
        yield {"x": torch.ones(rows, 3), "y": torch.full((rows, 2), 3.0)}


def metrics(outputs, batch):
    right = (batch["y"] == 3.0).sum()
    return {"accuracy": (right, batch["y"].numel()), "largest": batch["y"].max()}
"""


def test_metrics_beside_the_loss_go_into_the_file(tmp_path, capsys):
    file = tmp_path / "steps.csv"
    program = write(tmp_path, model=MODEL + METRICS)
    start(program, "--steps", 4, "--evaluate-every", 2, "--metrics", file, "--balance", "off")
    head, *rows = [line.split(",") for line in file.read_text().split()]
    assert head == ["step", "loss", "seconds", "evaluation", "accuracy", "largest"]
    assert [row[4:] for row in rows] == [["", ""], ["1.0", "3.0"], ["", ""], ["1.0", "3.0"]]
    assert "accuracy 1, largest 3 of 2 rows in 2 batches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("returned", "said"), [("3", "metrics returned int"), ('{"a": "b"}', "metrics returned str for 'a'")]
)
def test_what_is_no_metric(tmp_path, capsys, returned, said):
    text = METRICS[: METRICS.index("    right")] + f"    return {returned}\n"
    with pytest.raises(SystemExit):
        start(write(tmp_path, model=MODEL + text), "--steps", 1, "--evaluate-every", 1)
    assert said in capsys.readouterr().err
