"""What the generated pages share."""

from typing import Any


def source(result: dict[str, Any]) -> str:
    stack = ", ".join(
        f"{name} {version}" for name, version in result["versions"].items() if name in ("python", "torch")
    )
    return (
        f"`{result['command']}`, {result['date']}, revision `{result['revision']}`, {result['machine']}, "
        f"{result['device']}, {stack}.\n"
    )
