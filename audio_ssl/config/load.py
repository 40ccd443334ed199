"""TOML files and ``--set a.b=v`` to validated configurations, and back; every fault told at once by dotted name."""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from audio_ssl.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)


def find_config(name: str | Path) -> Path:
    """The file that ``name`` means: a path, or a shipped one such as ``pretrain/tiny_cpu``.

    Raises:
        ConfigError: neither exists; the message lists the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    key = str(name).removeprefix("configs/").removesuffix(".toml")
    if key in shipped:
        return shipped[key]
    raise ConfigError(f"{name} must be a TOML file or one of the shipped configurations: {', '.join(shipped)}")


def shipped_configs() -> dict[str, Path]:
    """Name (``pretrain/tiny_cpu``) to file of each configuration that comes with the package."""
    root = _shipped("configs")
    return {str(p.relative_to(root).with_suffix("")): p for p in sorted(root.glob("*/*.toml"))}


def shipped_splits() -> dict[str, Path]:
    """Name (``speechocean762``) to file of each list of held-out speakers that comes with the package."""
    return {path.stem: path for path in sorted((_shipped("manifests") / "splits").glob("*.tsv"))}


def _shipped(folder: str) -> Path:
    """A folder of the project: inside of the package where that was built, beside it in a checkout."""
    package = Path(str(resources.files("audio_ssl")))
    return package / folder if (package / folder).is_dir() else package.parent / folder


def load_config(schema: type[Config], path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read ``path``, apply ``a.b=value`` overrides and validate.

    Raises:
        ConfigError: naming the file and every fault in it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} must be a readable TOML file: {error}") from error
    overrides = list(overrides)
    _drop_replaced(schema, values, {override.partition("=")[0].strip() for override in overrides})
    for override in overrides:
        _apply_override(values, override)
    return validate_config(schema, values, source=str(path))


def validate_config(schema: type[Config], values: dict[str, Any], *, source: str) -> Config:
    """Validate plain values; see :func:`load_config`."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        faults = "\n".join(f"  - {_describe(schema, fault)}" for fault in error.errors())
        count = error.error_count()
        raise ConfigError(f"{source}: {count} setting{'s' * (count > 1)} must be mended:\n{faults}") from None


def dump_config(config: BaseModel) -> str:
    """TOML text of a configuration, complete: every resolved value, None left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _drop_replaced(schema: type[BaseModel], values: dict[str, Any], overridden: set[str]) -> None:
    """Where a section takes one of several keys (its ``one_of``), an override takes the place of the file's one."""
    for name, field in schema.model_fields.items():
        section, given = _section_of(field.annotation), values.get(name)
        keys = getattr(section, "one_of", ())
        if isinstance(given, dict) and any(f"{name}.{key}" in overridden for key in keys):
            for key in keys:
                given.pop(key, None)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {override!r} must have the form section.key=value")
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {section} must be a section, it is a value")
    values[last] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _describe(schema: type[BaseModel], fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"`{name}` is not a setting{_suggestion(schema, name)}"
    if fault["type"] == "missing":
        return f"`{name}` must be given"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if fault["type"] == "value_error":
        return f"`{name}` {message}" if message.startswith("must ") else f"`{name}`: {message}"
    return f"`{name}` {message}, got {fault['input']!r}"


def _suggestion(schema: type[BaseModel], name: str) -> str:
    known = list(_dotted_names(schema))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    best = (close or same_leaf)[:1]
    return f" (did you mean `{best[0]}`?)" if best else ""


def _dotted_names(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            yield prefix + name
        else:
            yield from _dotted_names(section, f"{prefix}{name}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
