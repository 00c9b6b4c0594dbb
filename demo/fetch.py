"""Fetch the pinned picture packages with the ordinary npm client, and refuse everything that is not as recorded.

``packages.json`` names every package with its version, the sha512 of its archive and the licence that it stated when
it was chosen. An archive with another hash, or a package that states another licence, stops the build: a licence is
part of the data. Archives stay in ``build/demo/packages``; nothing is unpacked, members are read where they lie.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUILD = Path("build/demo")
PACKAGES = Path(__file__).with_name("packages.json")
PICTURES = ("train", "development", "shipped", "final")
"""Roles of the packages that hold drawings."""


class FetchError(Exception):
    """A package is not what ``packages.json`` says."""


@dataclass(frozen=True)
class Package:
    """One pinned npm package; ``role`` says what its pictures may be used for."""

    name: str
    version: str
    integrity: str
    licence: str
    role: str

    @property
    def set_name(self) -> str:
        """``twemoji`` for ``@iconify-json/twemoji``."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def archive(self) -> Path:
        """Where npm leaves the archive."""
        return BUILD / "packages" / f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def read(self, name: str) -> bytes | None:
        """A member of the archive; ``None`` where the package has none of that name."""
        with tarfile.open(self.archive) as archive:
            try:
                file = archive.extractfile(f"package/{name}")
            except KeyError:
                return None
            return None if file is None else file.read()

    def member(self, name: str) -> Any:
        """A JSON member of the archive; ``None`` where the package has none of that name."""
        data = self.read(name)
        return None if data is None else json.loads(data)


def packages(*roles: str) -> list[Package]:
    """The pinned packages of these roles (all of them without one), in the order of the file."""
    pinned = [Package(**entry) for entry in json.loads(PACKAGES.read_text())]
    return [package for package in pinned if not roles or package.role in roles]


def fetch(package: Package) -> None:
    """Make sure that the archive is there and is the recorded one. Raises ``FetchError``."""
    if not package.archive.is_file():
        package.archive.parent.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        subprocess.run(command, cwd=package.archive.parent, check=True, stdout=subprocess.DEVNULL)
    digest = "sha512-" + base64.b64encode(hashlib.sha512(package.archive.read_bytes()).digest()).decode()
    if digest != package.integrity:
        raise FetchError(
            f"{package.name}@{package.version} has integrity {digest}, expected {package.integrity}: remove "
            f"{package.archive} and fetch again, or look at what changed before packages.json is edited"
        )
    check_licence(package)


def check_licence(package: Package) -> None:
    """Every place where the package states a licence must state the recorded one. Raises ``FetchError``."""
    stated = {"package.json": package.member("package.json").get("license")}
    info = package.member("info.json")
    if info is not None:
        stated["info.json"] = info["license"]["spdx"]
    for where, licence in stated.items():
        if licence != package.licence:
            raise FetchError(
                f"{package.name}@{package.version} states the licence {licence!r} in {where}, expected "
                f"{package.licence!r}: nothing drawn from it may be used before somebody has read it"
            )


def main() -> None:
    """Fetch and check everything that the demo model and its pictures are made of."""
    for package in packages(*PICTURES, "names"):
        fetch(package)
        print(f"{package.name}@{package.version}: {package.licence}, {package.role}")


if __name__ == "__main__":
    main()
