"""Puts the notebooks and records into the package that is built; all else is in pyproject.toml.

They stand once in the repository, beside the package, and once in a wheel, under
`attncourse/course/`. An editable install uses those of the clone.
"""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

house = runpy.run_path(str(Path(__file__).parent / "attncourse" / "house.py"))


class BuildCourse(build_py):
    """Builds the package with the course in it."""

    def course(self) -> dict[str, str]:
        """Return each file of the course and the place where it is built."""
        target = Path(self.build_lib, "attncourse", house["INSTALLED"])
        return {str(path): str(target / path) for path in house["shipped"](Path())}

    def build_package_data(self) -> None:
        """Copy the package's data, and the course."""
        super().build_package_data()
        for source, target in self.course().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target, preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """Return what a source distribution needs."""
        return [*super().get_source_files(), *self.course()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return what is built."""
        return [*super().get_outputs(include_bytecode), *self.course().values()]


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildCourse})
