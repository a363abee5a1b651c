"""Access rules of the lake's folders for the stores that keep it: S3, ADLS Gen2, POSIX.

Inside one Python process Concord's interface refuses (lake/zones.py): it stops mistakes and honest
code. Whoever opens the files with other tools, or goes round the interface, is stopped by the store
alone. The rules follow from the settings' job roles, so that both stop at the same folders: a role
with all studies has its zones whole, another has them once for each recipient, with that
recipient's study alone. They name roles, and a deployment maps them to its own principals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from concord.agreements.dula import Dula
from concord.errors import UsageError
from concord.settings import JobRole

OFFICER = "concord-officer"
# Zones that a recipient's jobs write only for a use of the agreement.
WRITTEN_FOR = {"studies": "score", "products": "publish"}
STORES = ("s3", "adls", "posix")


@dataclass(frozen=True)
class Rule:
    """A role may read, or read and write, everything below a folder of the lake."""

    role: str
    folder: str
    write: bool = False


def rules(roles: Mapping[str, JobRole], dulas: Iterable[Dula]) -> list[Rule]:
    """Who may open which folder, least first. What no rule names, nobody may.

    A job role is `concord-<role>`, or `concord-<role>-<recipient>` where it has only the studies
    that were asked for. The officer reads what is kept for evidence; a recipient what goes back to
    it from the vault, with its own tools: its jobs read nothing there.
    """
    found = [Rule(OFFICER, folder) for folder in ("ops", "products")]
    whole = {name: role for name, role in roles.items() if role.studies == "all"}
    asked = {name: role for name, role in roles.items() if role.studies == "asked"}
    for name, role in whole.items():
        found += [Rule(f"concord-{name}", zone, zone in role.writes) for zone in role.reads]
    for dula in dulas:
        own = f"studies/{dula.id}"
        for party in dula.recipients.parties:
            for name, role in asked.items():
                found += [
                    Rule(
                        f"concord-{name}-{party.key}",
                        own if zone == "studies" else zone,
                        zone in role.writes and _needed(zone, dula),
                    )
                    for zone in role.reads
                ]
            if dula.uses.returned_under_own_ids:
                found.append(Rule(f"concord-recipient-{party.key}", f"vault/returned/{dula.id}"))
    # A recipient of several agreements writes a zone if one of them lets it.
    writing = {(rule.role, rule.folder) for rule in found if rule.write}
    kept = {rule for rule in found if rule.write or (rule.role, rule.folder) not in writing}
    return sorted(kept, key=lambda rule: (rule.role, rule.folder))


def _needed(zone: str, dula: Dula) -> bool:
    """Whether who works under the agreement has something to write there."""
    return zone not in WRITTEN_FOR or WRITTEN_FOR[zone] in dula.uses.allowed


def written(store: str, lake: str, roles: Mapping[str, JobRole], dulas: Iterable[Dula]) -> str:
    """The rules in a store's own form. Raises UsageError for a store that is not known."""
    wanted = rules(roles, dulas)
    match store:
        case "s3":
            return json.dumps(_s3(lake, wanted), indent=2)
        case "adls":
            return "\n".join(_adls(lake, wanted))
        case "posix":
            return "\n".join(_posix(lake, wanted))
    raise UsageError(f"--store {store}: use one of {', '.join(STORES)}")


def _s3(lake: str, wanted: list[Rule]) -> dict[str, Any]:
    """A bucket policy: a role's own folders, and a refusal of everything else to everybody."""
    place = urlparse(lake)
    bucket = place.netloc or "LAKE-BUCKET"
    root = place.path.strip("/") if place.netloc else "lake"
    statements: list[dict[str, Any]] = []
    for rule in wanted:
        objects = f"arn:aws:s3:::{bucket}/{root}/{rule.folder}/*"
        actions = ["s3:GetObject", *(["s3:PutObject", "s3:DeleteObject"] if rule.write else [])]
        name = f"{rule.role}-{rule.folder}".replace("-", " ").replace("/", " ").title()
        statements += [
            {
                "Sid": name.replace(" ", ""),
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::ACCOUNT:role/{rule.role}"},
                "Action": actions,
                "Resource": objects,
            },
            {
                "Sid": f"{name.replace(' ', '')}List",
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::ACCOUNT:role/{rule.role}"},
                "Action": "s3:ListBucket",
                "Resource": f"arn:aws:s3:::{bucket}",
                "Condition": {"StringLike": {"s3:prefix": f"{root}/{rule.folder}/*"}},
            },
        ]
    roles = sorted({rule.role for rule in wanted})
    statements.append(
        {
            "Sid": "NobodyElse",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
            "Condition": {
                "ArnNotLike": {
                    "aws:PrincipalArn": [f"arn:aws:iam::ACCOUNT:role/{role}" for role in roles]
                }
            },
        }
    )
    return {"Version": "2012-10-17", "Statement": statements}


def _adls(lake: str, wanted: list[Rule]) -> Iterator[str]:
    """Commands that set access control lists, for what is there and for what will be."""
    place = urlparse(lake)
    container, _, host = place.netloc.partition("@")
    account = host.partition(".")[0] or "ACCOUNT"
    root = place.path.strip("/") if place.netloc else "lake"
    yield "# ROLE_ID(x) is the object id of the security group x."
    for rule in wanted:
        rights = "rwx" if rule.write else "r-x"
        entries = f"group:ROLE_ID({rule.role}):{rights}"
        yield (
            f"az storage fs access update-recursive --account-name {account} "
            f"--file-system {container or 'CONTAINER'} --path {root}/{rule.folder} "
            f'--acl "{entries},default:{entries}" --auth-mode login'
        )


def _posix(lake: str, wanted: list[Rule]) -> Iterator[str]:
    """Commands that set POSIX access control lists (acl(5)), nothing for others."""
    root = urlparse(lake).path.rstrip("/") or lake
    yield "set -eu"
    yield f"setfacl --modify other::--- {root}"
    through: dict[str, set[str]] = {}
    for rule in wanted:
        parts = rule.folder.split("/")
        for depth in range(len(parts)):
            through.setdefault("/".join([root, *parts[:depth]]), set()).add(rule.role)
    for folder, roles in sorted(through.items()):
        # To go through a folder is not to list it.
        for role in sorted(roles):
            yield f"setfacl --modify group:{role}:--x {folder}"
    for rule in wanted:
        rights = "rwX" if rule.write else "rX"
        place = f"{root}/{rule.folder}"
        yield f"mkdir -p {place}"
        yield f"setfacl --recursive --modify group:{rule.role}:{rights},other::--- {place}"
        yield (
            f"setfacl --recursive --modify default:group:{rule.role}:{rights},default:other::--- "
            f"{place}"
        )
