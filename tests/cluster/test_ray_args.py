"""What the deployment is told, by name or from the environment; needs Ray, and no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what Ray itself imports
]


@pytest.fixture
def module() -> Any:
    from nldc.serve import ray

    return ray


def test_texts_of_a_command_line_become_values(module: Any) -> None:
    args = module.Args.model_validate(
        {"artifacts": "a,b", "max_replicas": "4", "temperature": "0", "adapter": "none"}
    )
    assert args.artifacts == ("a", "b")
    assert (args.max_replicas, args.temperature, args.adapter) == (4, 0.0, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"artifacts": ""},
        {"artifacts": "a", "max_replica": "4"},
        {"artifacts": "a", "max_live": "0"},
        {"artifacts": "a", "affinity": "prefix"},
    ],
)
def test_what_is_no_argument_is_refused(module: Any, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        module.build(wrong)


def test_a_deployment_is_told_how_many_replicas_and_requests_there_may_be(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    app = module.build(
        {"artifacts": "own,elsewhere", "max_live": 8, "max_replicas": 3, "gpus": 1, "cpus": 2}
    )
    deployment = app._bound_deployment
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    assert scaling.target_ongoing_requests == 8
    assert deployment.max_ongoing_requests == 16
    assert deployment.ray_actor_options["num_gpus"] == 1
    assert deployment.ray_actor_options["num_cpus"] == 2
    assert deployment.init_args[0].artifacts == (str(tmp_path / "own"), "elsewhere")


def test_folders_and_files_mean_the_same_in_every_process(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("model", "adapter", "chat_template", "images_below", "api_key_file")
    for name in names:
        (tmp_path / name).mkdir()
    app = module.build({"artifacts": "a", "gpus": 0, **{name: name for name in names}})
    (args,) = app._bound_deployment.init_args
    assert [getattr(args, name) for name in names] == [str(tmp_path / name) for name in names]


def test_the_app_reads_the_environment(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NLDC_ARTIFACTS", raising=False)
    with pytest.raises(Exception, match="NLDC_ARTIFACTS is not set"):
        _ = module.app
    for name, value in {"ARTIFACTS": "a", "GPUS": "0", "MAX_REPLICAS": "2", "MODEL": "m"}.items():
        monkeypatch.setenv(f"NLDC_{name}", value)
    args = module.app._bound_deployment.init_args[0]
    assert (args.artifacts, args.max_replicas, args.model) == (("a",), 2, "m")


def test_keys_come_from_where_replicas_run(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").write_text("first-key\n")
    monkeypatch.setenv("NLDC_API_KEY", "second-key")
    args = module.Args(artifacts=("a",), api_key_file=str(tmp_path / "keys"))
    assert "first-key" not in repr(args)
    assert args.settings().api_keys == ("first-key", "second-key")
    monkeypatch.setenv("NLDC_API_KEY", " ")
    with pytest.raises(Exception, match="NLDC_API_KEY is empty"):
        args.settings()
