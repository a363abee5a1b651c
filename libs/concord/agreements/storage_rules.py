"""Access rules of the lake's folders for the stores that keep it: S3, ADLS Gen2, POSIX.

Concord's interface refuses what an agreement does not allow; whoever may open the files with other
tools is stopped by the store alone. The folders are an access boundary: the data office's jobs hold
vault, index and curated tables and the keys; a recipient's role its study and the products; the
officer what is kept for evidence. The rules name roles, and a deployment maps them to its own
principals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from concord.agreements.dula import Dula
from concord.errors import UsageError
from concord.lake.registry import ZONES

HUB, OFFICER = "concord-data-office", "concord-officer"
STORES = ("s3", "adls", "posix")


@dataclass(frozen=True)
class Rule:
    """A role may read, or read and write, everything below a folder of the lake."""

    role: str
    folder: str
    write: bool = False


def rules(dulas: Iterable[Dula]) -> list[Rule]:
    """Who may open which folder, least first. What no rule names, nobody may."""
    found = [Rule(HUB, zone, write=True) for zone in ZONES]
    found += [Rule(OFFICER, folder) for folder in ("ops", "products")]
    for dula in dulas:
        for party in dula.recipients.parties:
            role = f"concord-recipient-{party.key}"
            found.append(Rule(role, f"studies/{dula.id}"))
            found.append(Rule(role, "products"))
            if dula.uses.returned_under_own_ids:
                found.append(Rule(role, f"vault/returned/{dula.id}"))
    return sorted(set(found), key=lambda rule: (rule.role, rule.folder))


def written(store: str, lake: str, dulas: Iterable[Dula]) -> str:
    """The rules in a store's own form. Raises UsageError for a store that is not known."""
    wanted = rules(dulas)
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
