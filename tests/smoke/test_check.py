"""Every recipe, and every example that is one, keeps what `protorl check` asks for."""

from __future__ import annotations

from typing import Any

import pytest

from protorl.cli.check import TEAM
from protorl.recipes import RECIPES
from protorl.recipes.checks import examine
from protorl.recipes.find import find_recipe
from tests.contract.cases import SMALL
from tests.smoke.test_examples import EXAMPLES, FOLDER

OF_REPLAY = {
    "an example of weight 0 teaches nothing",
    "prioritized replay keeps its meaning",
    "n-step replay keeps its meaning",
}
OF_WORKERS = {"workers, in lockstep = one process"}


@pytest.mark.parametrize("name", [*RECIPES, *EXAMPLES])
def test_it_passes(name: str) -> None:
    cls: Any = find_recipe(name if name in RECIPES else str(FOLDER / name))
    known = cls.__dataclass_fields__
    fields = {key: value for key, value in SMALL.items() if key in known}
    if cls.actions == ("box",):
        fields["env"] = "Pendulum-v1"
    if cls.as_teams:
        fields["env"] = TEAM
    findings = list(examine(cls(**fields), quick=True))
    assert not [found for found in findings if found.passed is False]
    assert {found.name for found in findings if found.passed is None} == OF_WORKERS | (
        set() if "per_alpha" in known else OF_REPLAY
    )
    assert findings[-1].name.startswith("probe")
