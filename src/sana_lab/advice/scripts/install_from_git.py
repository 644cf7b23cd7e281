import diffusers
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from sana_lab.versions.matrix import matrix

major, minor = diffusers.__version__.split(".")[:2]
following = f"{major}.{int(minor) + 1}.0"
branch = Version(
    f"{following}.dev0"
)  # what the branch calls itself until it is released
released = hasattr(diffusers, "SanaPipeline")
print(
    f"diffusers {diffusers.__version__}, a release, has SanaPipeline: {released}"
)
print(
    f"{branch} meets >={following}: {SpecifierSet(f'>={following}').contains(branch, prereleases=True)}"
)
measured = matrix()
oldest = min(name for name, stack in measured.stacks.items() if stack["built"])
print(
    f"stack {oldest}: import of SanaPipeline {measured.outcome(oldest, 'import-sana-pipeline')['kind']}"
)
facts = {"oldest": oldest}
holds = not released
