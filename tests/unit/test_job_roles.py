"""The settings' job roles: what a file may say of them, and what holds where it says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from concord.errors import ConfigError, RefusedError
from concord.lake.registry import ZONES
from concord.lake.zones import Zones
from concord.settings import JOB_ROLES, JobName, get_args, load_settings
from tests.conftest import ROOT

HEAD = "lake: lake\nlanding: landing\njob_roles:\n"


@pytest.mark.parametrize("name", ["local", "cluster"])
def test_both_settings_files_write_out_what_holds_without_them(name: str, tmp_path: Path) -> None:
    written = load_settings(ROOT / "conf" / "settings" / f"{name}.yaml").job_roles
    bare = tmp_path / "settings.yaml"
    bare.write_text("lake: lake\nlanding: landing\n")
    assert written == load_settings(bare).job_roles == JOB_ROLES


def test_every_job_has_one_role_and_a_recipient_s_none_of_the_zones_before_a_study() -> None:
    named = [job for role in JOB_ROLES.values() for job in role.jobs]
    assert sorted(named) == sorted(get_args(JobName))
    recipient = JOB_ROLES["recipient"]
    assert recipient.jobs == (
        "train", "score", "drift", "publish", "model", "reproduce", "outcomes", "read",
    )  # fmt: skip
    assert {*recipient.reads, *recipient.writes} == {*ZONES} - {"vault", "index", "curated"}
    assert recipient.studies == "asked"


WRONG = {
    "a job with two roles": (
        "  a: {jobs: [train], reads: [ops], writes: [ops]}\n"
        "  b:\n    jobs:\n    - score\n    - train\n    reads: [ops]\n    writes: [ops]\n",
        ":8: job_roles.b.jobs[1]: job train has the role a already",
    ),
    "a job named twice in one role": (
        "  a:\n    reads: [ops]\n    writes: [ops]\n    jobs:\n    - train\n    - train\n",
        ":9: job_roles.a.jobs[1]: job train has the role a already",
    ),
    "a job that is none": (
        "  a:\n    jobs: [trian]\n    reads: [ops]\n    writes: [ops]\n",
        ":5: job_roles.a.jobs[0]: Input should be 'ingest'",
    ),
    "a zone that is none": (
        "  a:\n    jobs: [train]\n    reads: [ops]\n    writes: [opps, ops]\n",
        ":7: job_roles.a.writes[0]: Input should be 'curated'",
    ),
    "a zone named twice": (
        "  a:\n    jobs: [train]\n    reads: [ops, ops]\n    writes: [ops]\n",
        ":6: job_roles.a.reads[1]: zone ops is named twice",
    ),
    "a zone that is written and not read": (
        "  a:\n    jobs: [train]\n    reads: [ops]\n    writes: [ops, products]\n",
        ":7: job_roles.a.writes[1]: zone products is not in reads",
    ),
    "no ops": (
        "  a:\n    jobs: [train]\n    reads: [ops, studies]\n    writes: [studies]\n",
        ":7: job_roles.a.writes: writes lacks ops",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_with_file_and_line(case: str, tmp_path: Path) -> None:
    text, told = WRONG[case]
    file = tmp_path / "settings.yaml"
    file.write_text(HEAD + text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}{told}")


def test_a_role_named_twice_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    role = "{jobs: [], reads: [ops], writes: [ops]}"
    file.write_text(f"{HEAD}  a: {role}\n  a: {role}\n")
    with pytest.raises(ConfigError, match=r"settings\.yaml:5: not valid YAML"):
        load_settings(file)


def test_a_job_without_a_role_opens_nothing() -> None:
    for zone in ZONES:
        with pytest.raises(RefusedError, match="the job train has no role, and may not read"):
            Zones("train", {"hub": JOB_ROLES["hub"]}).check(f"{zone}/x")


def test_a_command_below_a_job_has_the_job_s_role() -> None:
    Zones("agreement sign").check("vault/x", write=True)


@pytest.mark.parametrize(
    "place",
    ["studies", "studies/", "studies/B/t", "studies/A/../B/t", "studies/A/%2e%2e/B", "./studies/A",
     "", "..", "studies//A", "ops/../vault/t", "vault", None],
)  # fmt: skip
def test_a_recipient_s_job_opens_the_study_it_was_allowed_and_no_other(place: str | None) -> None:
    zones = Zones("score")
    with pytest.raises(RefusedError):
        zones.check("studies/A/t")
    zones.open_study("A")
    zones.check("studies/A/t", write=True)
    zones.check("studies/A")
    with pytest.raises(RefusedError, match=r"role recipient.*job_roles\.recipient in the settings"):
        zones.check(place)
    assert len(zones.refusals) == 2
