"""The runner that all experiments share, on a tiny experiment of its own."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from common import Partial, environment, main, measure

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Config:
    pixels: int = 100
    noise: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    label: str = "full"
    raw: bool = False


FULL, QUICK = Config(), Config(pixels=3, label="quick")


def run(config: Config):
    return {"pixels": config.pixels, "sum": np.float32(sum(config.sizes)), "none": np.nan}, None


def test_record_has_the_promised_fields(tmp_path, capsys):
    record = main(run, FULL, quick=QUICK, argv=[], results=tmp_path)
    on_disk = json.loads((tmp_path / f"{NAME}.json").read_text())
    assert set(on_disk) == {"name", "command", "config", "environment", "metrics"}
    assert on_disk["name"] == NAME
    assert on_disk["command"] == f"python experiments/{NAME}.py"
    assert on_disk["config"] == {"pixels": 100, "noise": 0.5, "sizes": [1, 2], "label": "full", "raw": False}
    assert on_disk["metrics"] == record["metrics"] == {"pixels": 100, "sum": 3.0, "none": None}
    assert {"python", "jax", "numpy", "unmix-jax", "device", "cpu", "cores", "date"} <= set(environment())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {line["metric"]: line["value"] for line in lines} == record["metrics"]


def test_every_field_is_an_option(tmp_path):
    argv = ["--pixels", "7", "--noise", "0.25", "--sizes", "4", "5", "--label", "a b", "--raw"]
    record = main(run, FULL, quick=QUICK, argv=argv, results=tmp_path)
    assert record["config"] == {"pixels": 7, "noise": 0.25, "sizes": (4, 5), "label": "a b", "raw": True}
    assert record["command"].endswith("--pixels 7 --noise 0.25 --sizes 4 5 --label 'a b' --raw")


def test_quick_run_leaves_the_full_record_alone(tmp_path, capsys):
    main(run, FULL, quick=QUICK, argv=[], results=tmp_path)
    full = (tmp_path / f"{NAME}.json").read_bytes()
    record = main(run, FULL, quick=QUICK, argv=["--quick", "--noise", "1"], results=tmp_path)
    assert record["config"]["label"] == "quick"
    assert record["config"]["noise"] == 1.0
    assert (tmp_path / f"{NAME}.quick.json").exists()
    with pytest.raises(SystemExit):
        main(
            run,
            FULL,
            quick=QUICK,
            argv=["--quick", "--out", str(tmp_path / f"{NAME}.json")],
            results=tmp_path,
        )
    assert "may not replace the full run" in capsys.readouterr().err
    assert (tmp_path / f"{NAME}.json").read_bytes() == full


def test_figure_is_written_beside_the_record(tmp_path):
    def plotted(config):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, 1])
        return {}, figure

    def several(config):
        return {}, {"": plotted(config)[1], "_maps": plotted(config)[1], "_none": None}

    for one in (plotted, several):
        main(one, FULL, quick=QUICK, argv=["--out", str(tmp_path / "deep" / "run.json")], results=tmp_path)
        assert (tmp_path / "deep" / "run.png").read_bytes().startswith(b"\x89PNG")
    assert {file.name for file in (tmp_path / "deep").iterdir()} == {"run.json", "run.png", "run_maps.png"}


def test_metrics_must_be_numbers(tmp_path):
    with pytest.raises(TypeError, match="metric 'name' must be a number, got str"):
        main(lambda config: ({"name": "x"}, None), FULL, quick=QUICK, argv=[], results=tmp_path)


def test_options_of_other_types_are_refused(tmp_path):
    @dataclass(frozen=True)
    class Odd:
        table: dict

    with pytest.raises(TypeError, match="option table"):
        main(run, Odd({}), quick=Odd({}), argv=[], results=tmp_path)


def test_stopped_run_resumes(tmp_path):
    computed = []

    def interrupted(config, fail_at):
        pieces = Partial(run, config, folder=tmp_path / ".cache")

        def piece(seed):
            if seed == fail_at:
                raise KeyboardInterrupt
            computed.append(seed)
            return seed**2

        return [pieces.get(f"seed {seed}", lambda seed=seed: piece(seed)) for seed in range(4)]

    with pytest.raises(KeyboardInterrupt):
        interrupted(FULL, 2)
    assert interrupted(FULL, None) == [0, 1, 4, 9]
    assert computed == [0, 1, 2, 3]
    Partial(run, FULL, folder=tmp_path / ".cache").beside("network.npz").write_bytes(b"")
    interrupted(QUICK, None)
    assert computed == [0, 1, 2, 3, 0, 1, 2, 3]  # another config shares no pieces
    main(run, FULL, quick=QUICK, argv=[], results=tmp_path)
    assert len(list((tmp_path / ".cache").iterdir())) == 1  # those of the finished run are gone


def test_measure_counts_cpu_and_wall_time_apart():
    def busy():
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return jnp.zeros(1)

    times = measure({"busy": busy, "idle": lambda: time.sleep(0.02)}, repetitions=3)
    assert times["busy"].cpu >= 0.02
    assert times["idle"].cpu < 0.01
    assert times["idle"].wall >= 0.02
    assert times["idle"].first >= 0.02
