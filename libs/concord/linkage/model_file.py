"""A model file with what was fitted written into it: comments and order stay."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from concord.linkage.estimate import rounded
from concord.linkage.model import SHARES
from concord.linkage.person_index import PersonIndex

WIDTH = 100


def written(path: Path, fitted: PersonIndex) -> str:
    """The text of the model file `path`, which has been loaded before, with the m, u and
    interactions of `fitted`, the same model fitted, and with what it was fitted on."""
    yaml = _yaml()
    data = yaml.load(path)
    for name, comparison in fitted.comparisons.items():
        for level, of in comparison.levels.items():
            said = data["comparisons"][name]["levels"][level]
            for which in SHARES:
                shares = [float(share) for share in rounded(of.each(which))]
                said[which] = shares[0] if len(shares) == 1 else _in_line(shares)
    for place, each in enumerate(fitted.interactions):
        data["interactions"][place]["bits"] = _by_line(each.bits)
    for key in ("data_digest", "fitted_on"):
        if key in data:
            data[key] = getattr(fitted, key)
        else:
            data.insert(0, key, getattr(fitted, key))
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


class _Representer(RoundTripRepresenter):
    """Numbers as people write them: 0.00001, not 1e-05."""

    def plain(self, value: float) -> ScalarNode:
        said = np.format_float_positional(value, trim="-")
        return self.represent_scalar("tag:yaml.org,2002:float", said)


_Representer.add_representer(float, _Representer.plain)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _in_line(shares: list[float]) -> CommentedSeq:
    found = CommentedSeq(shares)
    found.fa.set_flow_style()
    return found


def _by_line(bits: Mapping[str, Mapping[str, float]]) -> CommentedMap:
    """A line for each level of the first comparison."""
    found = CommentedMap()
    for level, row in bits.items():
        found[level] = CommentedMap({other: round(one, 2) for other, one in row.items()})
        found[level].fa.set_flow_style()
    return found
