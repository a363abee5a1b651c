"""Who may open which folder of the lake, in the form of each store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from concord.agreements.dula import Dula
from concord.agreements.storage_rules import rules, written
from concord.errors import UsageError
from concord.lake.zones import Zones
from concord.settings import JOB_ROLES
from tests.agreed import dula, outreach

DULAS = [dula(), dula(outreach())]
ONE, TWO = "DULA-2026-0001", "DULA-2026-0002"


def folders(role: str) -> dict[str, bool]:
    return {rule.folder: rule.write for rule in rules(JOB_ROLES, DULAS) if rule.role == role}


def test_a_recipient_has_its_study_and_what_its_jobs_write_and_nothing_before_them() -> None:
    """ONE allows to publish, TWO to score: neither writes for the other's use."""
    assert folders("concord-recipient-lab") == {
        f"studies/{ONE}": False, "products": True, "ops": True,
    }  # fmt: skip
    assert folders("concord-recipient-dta") == {
        f"studies/{TWO}": True, "products": False, "ops": True, f"vault/returned/{TWO}": False,
    }  # fmt: skip
    hub = folders("concord-hub")
    assert set(hub) == {"curated", "vault", "index", "studies", "products", "ops"}
    assert all(hub.values())
    assert folders("concord-officer") == {"ops": False, "products": False}


@pytest.mark.parametrize("dula", DULAS)
def test_the_rules_open_no_folder_that_the_role_s_jobs_may_not(dula: Dula) -> None:
    """And all of its zones: the store and the lake stop at the same places."""
    (party,) = dula.recipients.parties
    names = {"hub": "concord-hub", "recipient": f"concord-recipient-{party.key}"}
    for role, principal in names.items():
        zones = Zones(JOB_ROLES[role].jobs[0])
        zones.open_study(dula.id)
        held = folders(principal)
        for folder, write in held.items():
            if not folder.startswith("vault/returned/"):
                zones.check(f"{folder}/t", write=write)
        assert {folder.partition("/")[0] for folder in held} >= {*JOB_ROLES[role].reads}


def test_another_zone_in_the_settings_is_another_folder_in_the_rules() -> None:
    fewer = JOB_ROLES["recipient"].model_copy(update={"reads": ("ops",), "writes": ("ops",)})
    found = rules({**JOB_ROLES, "recipient": fewer}, DULAS[:1])
    assert [rule.folder for rule in found if rule.role == "concord-recipient-lab"] == ["ops"]


def allowed(policy: dict[str, Any], role: str, key: str) -> bool:
    """What S3 would say of reading an object: an allow, and no deny, that fits."""
    principal = f"arn:aws:iam::ACCOUNT:role/{role}"
    fits = False
    for statement in policy["Statement"]:
        if statement["Effect"] == "Deny":
            if principal not in statement["Condition"]["ArnNotLike"]["aws:PrincipalArn"]:
                return False
        elif statement["Principal"]["AWS"] == principal and "s3:GetObject" in statement["Action"]:
            fits |= f"arn:aws:s3:::state/{key}".startswith(statement["Resource"].rstrip("*"))
    return fits


def test_s3_gives_each_role_its_folders_alone() -> None:
    policy = json.loads(written("s3", "s3a://state/lake", JOB_ROLES, DULAS))
    assert allowed(policy, "concord-recipient-lab", f"lake/studies/{ONE}/help_forms/part-0.parquet")
    assert allowed(policy, "concord-hub", "lake/vault/identifiers_help/part-0.parquet")
    for role, key in (
        ("concord-recipient-lab", f"lake/studies/{TWO}/help_forms/part-0.parquet"),
        ("concord-recipient-lab", "lake/vault/identifiers_help/part-0.parquet"),
        ("concord-recipient-lab", "lake/curated/help_forms/part-0.parquet"),
        ("concord-recipient-lab", f"lake/studies/{ONE}0/x"),
        ("concord-officer", f"lake/studies/{ONE}/help_forms/part-0.parquet"),
        ("somebody", "lake/products/p/part-0.parquet"),
    ):
        assert not allowed(policy, role, key), (role, key)


def test_adls_names_account_and_container() -> None:
    text = written("adls", "abfss://data@state.dfs.core.windows.net/lake", JOB_ROLES, DULAS)
    (line,) = [line for line in text.splitlines() if f"studies/{ONE}" in line]
    assert "--account-name state" in line and "--file-system data" in line
    assert (
        'group:ROLE_ID(concord-recipient-lab):r-x,default:group:ROLE_ID(concord-recipient-lab):r-x"'
        in line
    )
    with pytest.raises(UsageError, match="use one of s3, adls, posix"):
        written("tape", "x", JOB_ROLES, DULAS)


def test_posix_rules_run_and_hold(tmp_path: Path) -> None:
    """With groups of this machine in place of the roles: the commands are those of setfacl."""
    lake = tmp_path / "lake"
    (lake / "studies" / ONE).mkdir(parents=True)
    text = written("posix", str(lake), JOB_ROLES, DULAS)
    assert f"setfacl --modify group:concord-recipient-lab:--x {lake}/studies" in text
    if shutil.which("setfacl") is None or os.getuid() != 0:
        pytest.skip("there is no setfacl here, or no right to use it")
    for role in {rule.role for rule in rules(JOB_ROLES, DULAS)}:
        text = text.replace(f"group:{role}:", "group:daemon:")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)
    if "not supported" in done.stderr:
        pytest.skip("this file system has no access control lists")
    assert done.returncode == 0, done.stderr
