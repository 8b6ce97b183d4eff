"""All golden forms, by topic."""

from collections.abc import Mapping

from tests.passes.fusion import (
    test_clipping,
    test_gated,
    test_gelu,
    test_joined,
    test_normalization,
    test_piecewise,
    test_softmax,
)
from tests.passes.fusion.forms import Form

TOPICS: Mapping[str, Mapping[str, Form]] = {
    "gelu": test_gelu.FORMS,
    "gated": test_gated.FORMS,
    "piecewise": test_piecewise.FORMS,
    "clipping": test_clipping.FORMS,
    "normalization": test_normalization.FORMS,
    "softmax": test_softmax.FORMS,
    "joined": test_joined.FORMS,
}
FORMS: tuple[Form, ...] = tuple(form for forms in TOPICS.values() for form in forms.values())
