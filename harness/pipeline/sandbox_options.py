"""What the processes of a comparison may take, as the command line gives it."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from harness.core.errors import UsageError
from harness.core.policies import SandboxPolicy
from harness.decide.document import read_document
from harness.decide.policy_sections import read_sandbox
from harness.pipeline.option_files import text_of_file


def sandbox_from_options(options: Sequence[str]) -> SandboxPolicy:
    """Reads KEY=VALUE, and YAML files with a `sandbox:`, such as a policy; later ones go before earlier ones.

    Raises:
      UsageError: another form, an unknown key or a value that no policy takes, a file without `sandbox:`.
    """
    limits = SandboxPolicy()
    for option in options:
        where, text = option, text_of_file(option, "--sandbox")
        if text is None:
            where = f"--sandbox {option}"
            key, equals, value = option.partition("=")
            if not (key and equals and value):
                raise UsageError(
                    where,
                    "is no file, and not KEY=VALUE",
                    "Write it like memory=4GiB or batch_deadline=30s.",
                )
            text = yaml.safe_dump({"sandbox": {key: value}}, default_flow_style=True)
        limits = read_sandbox(read_document(text, where).section("sandbox"), limits)
    return limits
